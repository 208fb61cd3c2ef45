//! A user and a password that are rotated in their files: librdkafka is given the new ones, and its next connections use them.
//!
//! rdkafka 0.39 has no call for librdkafka's `rd_kafka_sasl_set_credentials`, so this module makes it through the C interface.
#![allow(unsafe_code)]

use std::ffi::CString;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

use rdkafka::bindings as c;
use rdkafka::client::{Client, ClientContext};
use tracing::{info, warn};

use crate::config::Kafka;
use crate::telemetry::log_limit::LogLimit;

/// The properties that librdkafka accepts while it runs; the other secrets are fixed for the client's lifetime.
const USER: &str = "sasl.username";
const PASSWORD: &str = "sasl.password";

/// Interval between reads of the files.
const READ_INTERVAL: Duration = Duration::from_secs(1);
/// Time after which a read that has not ended is reported.
const HANGING_AFTER: Duration = Duration::from_secs(10);

/// The user and the password of one client, if either is read from a file.
#[derive(Debug, Default)]
pub(super) struct Credentials {
    files: Option<Arc<SecretFiles>>,
    given: Mutex<Option<[CString; 2]>>,
    log: LogLimit,
}

/// The files, and the result of a thread that reads them. They may be on a network file system that hangs, and the polling
/// thread must not wait for it.
#[derive(Debug)]
struct SecretFiles {
    kafka: Kafka,
    reading: Mutex<Reading>,
}

#[derive(Debug, Default)]
struct Reading {
    has_thread: bool,
    /// When the read in progress began.
    since: Option<Instant>,
    /// The result of the last read, until it is taken.
    found: Option<Result<Kafka, String>>,
}

impl SecretFiles {
    fn lock(&self) -> MutexGuard<'_, Reading> {
        self.reading.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns what was read since the last call, without waiting for it. The first call starts the thread.
    fn take(self: &Arc<Self>) -> Option<Result<Kafka, String>> {
        let mut reading = self.lock();
        if !reading.has_thread {
            let files = Arc::downgrade(self);
            let thread = thread::Builder::new().name("kafka-secrets".to_owned()).spawn(move || read_again(&files));
            reading.has_thread = thread.is_ok();
            return thread.err().map(|error| Err(format!("no thread can read their files: {error}")));
        }
        let hangs = || reading.since.is_some_and(|since| since.elapsed() >= HANGING_AFTER);
        if reading.found.is_none() && hangs() {
            return Some(Err("the file system of their files does not answer".to_owned()));
        }
        reading.found.take()
    }
}

/// Reads the files repeatedly, until nothing else uses them.
fn read_again(files: &Weak<SecretFiles>) {
    while let Some(before) = files.upgrade() {
        before.lock().since = Some(Instant::now());
        let kafka = before.kafka.clone();
        // A client that ends meanwhile does not wait for this thread.
        drop(before);
        let found = kafka.with_secrets_read_again();
        let Some(after) = files.upgrade() else { return };
        *after.lock() = Reading { has_thread: true, since: None, found: Some(found) };
        drop(after);
        thread::sleep(READ_INTERVAL);
    }
}

impl Credentials {
    /// The credentials of the configuration.
    pub(super) fn new(kafka: &Kafka) -> Self {
        let is_rotated = [USER, PASSWORD].iter().any(|property| kafka.reads_from_file(property));
        let files = SecretFiles { kafka: kafka.clone(), reading: Mutex::default() };
        Self { files: is_rotated.then(|| Arc::new(files)), given: Mutex::new(pair(kafka)), log: LogLimit::default() }
    }

    /// Passes the credentials to the client if their files have changed, without waiting for the files. A file that cannot be
    /// read leaves the previous value.
    pub(super) fn renew<C: ClientContext>(&self, client: &Client<C>) {
        let Some(now) = self.read() else { return };
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

    /// Returns the user and the password, if the files were read since the last call.
    fn read(&self) -> Option<[CString; 2]> {
        match self.files.as_ref()?.take()? {
            Ok(kafka) => {
                self.log.ends("credentials");
                pair(&kafka)
            }
            Err(problem) => {
                if let Some(repeated) = self.log.lasts("credentials", &problem) {
                    let (seconds, unlogged) = (repeated.seconds, repeated.unlogged);
                    warn!(
                        problem,
                        seconds, unlogged, "the credentials of Kafka cannot be read again; the earlier ones are used"
                    );
                }
                None
            }
        }
    }
}

/// The user and the password, if both exist.
fn pair(kafka: &Kafka) -> Option<[CString; 2]> {
    let value =
        |wanted| kafka.properties().find(|(name, _)| *name == wanted).and_then(|(_, value)| CString::new(value).ok());
    Some([value(USER)?, value(PASSWORD)?])
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use rustix::fs::{CWD, FileType, Mode, mknodat};

    use super::*;
    use crate::config::Config;

    fn credentials(password: &Path) -> Credentials {
        let path = password.to_str().unwrap();
        let set = [
            ("SERIES_INGEST__KAFKA__PROPERTIES__SASL_USERNAME", "user"),
            ("SERIES_INGEST__KAFKA__PROPERTIES_FILES__SASL_PASSWORD", path),
        ];
        Credentials::new(&Config::load(None, set.map(|(name, value)| (name.into(), value.into()))).unwrap().kafka)
    }

    fn until_read(credentials: &Credentials) -> String {
        let begun = Instant::now();
        loop {
            assert!(begun.elapsed() < Duration::from_secs(20), "the file is read");
            if let Some([user, password]) = credentials.read() {
                return format!("{}:{}", user.to_str().unwrap(), password.to_str().unwrap());
            }
            thread::sleep(Duration::from_millis(10));
        }
    }

    #[test]
    fn a_password_that_changes_in_its_file_is_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("password");
        fs::write(&file, "first").unwrap();
        let credentials = credentials(&file);
        assert_eq!(until_read(&credentials), "user:first");
        fs::write(&file, "second\n").unwrap();
        while until_read(&credentials) != "user:second" {}
    }

    /// A pipe without a writer is as slow as a network file system that hangs.
    #[test]
    fn a_file_that_cannot_be_read_in_time_is_not_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("password");
        fs::write(&file, "first").unwrap();
        let credentials = credentials(&file);
        fs::remove_file(&file).unwrap();
        mknodat(CWD, &file, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(1) {
            let asked = Instant::now();
            assert_eq!(credentials.read(), None);
            assert!(asked.elapsed() < Duration::from_millis(500), "{:?}", asked.elapsed());
            thread::sleep(Duration::from_millis(50));
        }
        fs::write(&file, "second").unwrap();
        assert_eq!(until_read(&credentials), "user:second");
    }
}
