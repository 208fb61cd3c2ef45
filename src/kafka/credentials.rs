//! A user and a password that are rotated in their files: librdkafka is given the new ones, and its next connections use them.
//!
//! rdkafka 0.39 has no call for librdkafka's `rd_kafka_sasl_set_credentials`, so this module makes it through the C interface.
#![allow(unsafe_code)]

use std::ffi::CString;
use std::sync::{Mutex, PoisonError};

use rdkafka::bindings as c;
use rdkafka::client::{Client, ClientContext};
use tracing::{info, warn};

use crate::config::Kafka;
use crate::telemetry::log_limit::LogLimit;

/// The properties that librdkafka takes while it runs; the other secrets hold for as long as the client.
const USER: &str = "sasl.username";
const PASSWORD: &str = "sasl.password";

/// The user and the password of one client, if a file has either.
#[derive(Debug, Default)]
pub(super) struct Credentials {
    kafka: Option<Kafka>,
    given: Mutex<Option<[CString; 2]>>,
    log: LogLimit,
}

impl Credentials {
    /// Those that the configuration has.
    pub(super) fn new(kafka: &Kafka) -> Self {
        let is_rotated = [USER, PASSWORD].iter().any(|property| kafka.reads_from_file(property));
        Self { kafka: is_rotated.then(|| kafka.clone()), given: Mutex::new(pair(kafka)), log: LogLimit::default() }
    }

    /// Gives them to the client if their files have changed. A file that cannot be read leaves what it said before.
    pub(super) fn renew<C: ClientContext>(&self, client: &Client<C>) {
        let Some(kafka) = &self.kafka else { return };
        let kafka = match kafka.with_secrets_read_again() {
            Ok(kafka) => kafka,
            Err(problem) => {
                if let Some(repeated) = self.log.lasts("credentials", &problem) {
                    let (seconds, unlogged) = (repeated.seconds, repeated.unlogged);
                    warn!(
                        problem,
                        seconds, unlogged, "the credentials of Kafka cannot be read again; the earlier ones are used"
                    );
                }
                return;
            }
        };
        let Some(now) = pair(&kafka) else { return };
        let mut given = self.given.lock().unwrap_or_else(PoisonError::into_inner);
        if given.as_ref() == Some(&now) {
            return;
        }
        // SAFETY: the client lives as long as its borrow; librdkafka copies both strings, which end with a zero.
        let error = unsafe { c::rd_kafka_sasl_set_credentials(client.native_ptr(), now[0].as_ptr(), now[1].as_ptr()) };
        if error.is_null() {
            info!("the credentials of Kafka have changed in their files; new connections use them");
            *given = Some(now);
        } else {
            // SAFETY: the error is not null, belongs to this function, and is destroyed only here.
            unsafe { c::rd_kafka_error_destroy(error) }
            warn!(
                "librdkafka does not take the credentials of Kafka that have changed in their files: restart the worker"
            );
        }
    }
}

/// The user and the password, if both are there.
fn pair(kafka: &Kafka) -> Option<[CString; 2]> {
    let value =
        |wanted| kafka.properties().find(|(name, _)| *name == wanted).and_then(|(_, value)| CString::new(value).ok());
    Some([value(USER)?, value(PASSWORD)?])
}
