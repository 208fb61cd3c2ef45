//! A topic's id, which distinguishes a topic from a later one of the same name.
//!
//! rdkafka 0.39 has no call for librdkafka's `DescribeTopics`, so this module makes it through the C interface. The reasons
//! for `unsafe` are the same everywhere in it: librdkafka's pointers are passed back to it as
//! its documentation (rdkafka.h, "Admin API - Describe Topic") asks, each object is destroyed once by a guard, and what is
//! borrowed from a result is copied before the result is destroyed.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString};
use std::ptr;
use std::time::Duration;

use rdkafka::bindings as c;
use rdkafka::client::{Client, ClientContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::types::RDKafkaRespErr;

/// A topic as its brokers describe it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topic {
    /// Its name.
    pub name: String,
    /// Its id in base 64; `None` if the broker gives none (before Kafka 2.8).
    pub id: Option<String>,
    /// The number of its partitions.
    pub partitions: usize,
    /// The partitions that have no leader now: they cannot be read.
    pub leaderless: Vec<i32>,
    /// `true` if this client may read it; `None` if the broker does not say.
    pub may_read: Option<bool>,
}

/// Destroys a C object at the end of its scope.
struct Guard<T>(*mut T, unsafe extern "C" fn(*mut T));

impl<T> Drop for Guard<T> {
    fn drop(&mut self) {
        if !self.0.is_null() {
            // SAFETY: the pointer came from librdkafka's constructor of this type, and is destroyed only here.
            unsafe { (self.1)(self.0) }
        }
    }
}

/// The brokers' answer for each requested topic: an error if it does not exist, or may not be seen.
pub type Described = Vec<(String, Result<Topic, KafkaError>)>;

/// Describes `topics` with one request, waiting up to `timeout`.
///
/// # Errors
/// If the brokers do not answer in time.
pub fn describe<C: ClientContext>(
    client: &Client<C>,
    topics: &[&str],
    timeout: Duration,
) -> Result<Described, KafkaError> {
    let names: Vec<CString> = topics.iter().map(|name| CString::new(*name)).collect::<Result<_, _>>()?;
    let mut name_pointers: Vec<*const std::ffi::c_char> = names.iter().map(|name| name.as_ptr()).collect();
    let timeout_ms = i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX);
    let broker = any_broker(client, topics, timeout)?;
    let rk = client.native_ptr();

    // SAFETY: `rk` lives as long as `client`; the names outlive the call, which copies them; each constructor's result is
    // guarded; the event is checked for null before use.
    let event = unsafe {
        let queue = Guard(c::rd_kafka_queue_new(rk), c::rd_kafka_queue_destroy);
        let collection = Guard(
            c::rd_kafka_TopicCollection_of_topic_names(name_pointers.as_mut_ptr(), name_pointers.len()),
            c::rd_kafka_TopicCollection_destroy,
        );
        let options = Guard(
            c::rd_kafka_AdminOptions_new(rk, c::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS),
            c::rd_kafka_AdminOptions_destroy,
        );
        let set = c::rd_kafka_AdminOptions_set_request_timeout(options.0, timeout_ms, ptr::null_mut(), 0);
        if set != RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR {
            return Err(KafkaError::AdminOp(set.into()));
        }
        // Brokers before Kafka 2.3 cannot answer this; an error means only that.
        drop(Guard(
            c::rd_kafka_AdminOptions_set_include_authorized_operations(options.0, 1),
            c::rd_kafka_error_destroy,
        ));
        let set = c::rd_kafka_AdminOptions_set_broker(options.0, broker, ptr::null_mut(), 0);
        if set != RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR {
            return Err(KafkaError::AdminOp(set.into()));
        }
        c::rd_kafka_DescribeTopics(rk, collection.0, options.0, queue.0);
        // The request ends by its own timeout; the poll waits a little longer, so that its answer is always taken.
        Guard(c::rd_kafka_queue_poll(queue.0, timeout_ms.saturating_add(1000)), c::rd_kafka_event_destroy)
    };
    if event.0.is_null() {
        return Err(KafkaError::AdminOp(RDKafkaErrorCode::OperationTimedOut));
    }

    // SAFETY: the event is not null and lives to the end of this function; the result and all that is reached through it
    // belong to the event; strings are copied.
    unsafe {
        let error = c::rd_kafka_event_error(event.0);
        if error != RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR {
            return Err(KafkaError::AdminOp(error.into()));
        }
        let result = c::rd_kafka_event_DescribeTopics_result(event.0);
        if result.is_null() {
            return Err(KafkaError::AdminOp(RDKafkaErrorCode::BadMessage));
        }
        let mut count = 0;
        let described = c::rd_kafka_DescribeTopics_result_topics(result, &raw mut count);
        Ok((0..count).map(|i| topic(*described.add(i))).collect())
    }
}

/// Returns a broker that answers. librdkafka would ask the controller, although every broker knows the topics, and would wait
/// for it if it is not available, or does not exist, as in an embedded broker.
fn any_broker<C: ClientContext>(client: &Client<C>, topics: &[&str], timeout: Duration) -> Result<i32, KafkaError> {
    let metadata = client.fetch_metadata(topics.first().copied(), timeout)?;
    let first = metadata.brokers().first().map(|broker| broker.id());
    match metadata.orig_broker_id() {
        // The connection to a bootstrap server has no id yet.
        -1 => first.ok_or(KafkaError::AdminOp(RDKafkaErrorCode::BrokerNotAvailable)),
        id => Ok(id),
    }
}

/// Copies one description.
///
/// # Safety
/// `description` must belong to a result that is not destroyed yet.
unsafe fn topic(description: *const c::rd_kafka_TopicDescription_t) -> (String, Result<Topic, KafkaError>) {
    // SAFETY: as the caller promises; the name is a C string, the id is checked for null.
    unsafe {
        let name = CStr::from_ptr(c::rd_kafka_TopicDescription_name(description)).to_string_lossy().into_owned();
        let error = c::rd_kafka_error_code(c::rd_kafka_TopicDescription_error(description));
        if error != RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR {
            return (name, Err(KafkaError::AdminOp(error.into())));
        }
        let mut partitions = 0;
        let infos = c::rd_kafka_TopicDescription_partitions(description, &raw mut partitions);
        let leaderless = (0..partitions)
            .map(|i| *infos.add(i))
            .filter(|info| c::rd_kafka_TopicPartitionInfo_leader(*info).is_null())
            .map(|info| c::rd_kafka_TopicPartitionInfo_partition(info))
            .collect();
        let mut count = 0;
        let operations = c::rd_kafka_TopicDescription_authorized_operations(description, &raw mut count);
        let may_read = (!operations.is_null())
            .then(|| (0..count).any(|i| *operations.add(i) == c::rd_kafka_AclOperation_t::RD_KAFKA_ACL_OPERATION_READ));
        let uuid = c::rd_kafka_TopicDescription_topic_id(description);
        let id = if uuid.is_null() {
            None
        } else {
            let text = c::rd_kafka_Uuid_base64str(uuid);
            (!text.is_null()).then(|| CStr::from_ptr(text).to_string_lossy().into_owned())
        };
        let id = id.filter(|id| !id.is_empty() && id != NO_ID);
        (name.clone(), Ok(Topic { name, id, partitions, leaderless, may_read }))
    }
}

/// The base64 form of a UUID of zeros, which means that the broker has no topic ids.
const NO_ID: &str = "AAAAAAAAAAAAAAAAAAAAAA";
