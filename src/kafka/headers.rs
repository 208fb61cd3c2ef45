//! A message's headers. rdkafka 0.39 panics at a name that is not UTF-8, and a producer may send any bytes, so they are read
//! through the C interface.
#![allow(unsafe_code)]

use std::ffi::CStr;
use std::ptr;

use rdkafka::bindings as c;
use rdkafka::message::BorrowedMessage;
use rdkafka::types::RDKafkaRespErr;

use crate::raw::headers;

/// The headers of a message in the form of [`headers`]; `None` if it has none. librdkafka reads at most 100,000 of them, and
/// otherwise returns an error.
pub(super) fn encode_of(message: &BorrowedMessage<'_>) -> Option<Vec<u8>> {
    let mut list = ptr::null_mut();
    // SAFETY: the message is alive, and librdkafka only writes the list's pointer, which belongs to the message.
    let found = unsafe { c::rd_kafka_message_headers(message.ptr(), &mut list) };
    match found {
        RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR => {}
        RDKafkaRespErr::RD_KAFKA_RESP_ERR__NOENT => return None,
        _ => return Some(headers::UNREADABLE.to_vec()),
    }
    let mut all = Vec::new();
    loop {
        let (mut name, mut value, mut length) = (ptr::null(), ptr::null(), 0);
        // SAFETY: the list lives as long as the message, and so do names and values, which are never changed; librdkafka ends
        // names with a zero, and a value that is not null has this length.
        let header = unsafe {
            match c::rd_kafka_header_get_all(list, all.len(), &mut name, &mut value, &mut length) {
                RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR => Some((
                    CStr::from_ptr(name).to_bytes(),
                    (!value.is_null()).then(|| std::slice::from_raw_parts(value.cast::<u8>(), length)),
                )),
                // After the last one.
                _ => None,
            }
        };
        match header {
            Some(header) => all.push(header),
            None => return headers::encode(all),
        }
    }
}
