//! The system's limits for this process, compared with the worker's needs.

use std::fmt::Display;

use rustix::process::{Resource, getrlimit, setrlimit};

use crate::config::Config;
use crate::telemetry::http;

/// Descriptors for the runtime, the log, the listener, the signals, and the journal's lock and segments.
const BASE_DESCRIPTORS: u64 = 20;
/// Descriptors for one of librdkafka's clients: connections and the pipes that wake its threads, for one broker.
const CLIENT_DESCRIPTORS: u64 = 12;
/// Descriptors for each further broker.
const BROKER_DESCRIPTORS: u64 = 4;
/// Threads of librdkafka, the runtime, the journal and the log.
const THREADS: u64 = 64;
/// Address space besides `memory.limit_bytes`: for the program itself, and the stacks of its threads.
const ADDRESS_SPACE_BYTES: u64 = 1 << 30;
/// The file in which Linux has the memory limit of the process's control group.
const CGROUP_MEMORY: &str = "/sys/fs/cgroup/memory.max";

/// The system's limits; `None` if there is none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Limits {
    /// RLIMIT_NOFILE.
    descriptors: Option<u64>,
    /// RLIMIT_NPROC, of all processes of the user.
    threads: Option<u64>,
    /// RLIMIT_FSIZE.
    file_bytes: Option<u64>,
    /// RLIMIT_AS.
    address_space_bytes: Option<u64>,
    /// The control group's memory limit.
    memory_bytes: Option<u64>,
}

/// A limit that is too low.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TooLow {
    /// The setting to change: a key of the configuration, or the system's name of the limit.
    pub(super) key: &'static str,
    pub(super) text: String,
}

/// Raises the limit of descriptors as far as this process may: to the hard limit.
pub(super) fn raise_descriptors() {
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        limit.current = limit.maximum;
        // If it is refused the lower limit applies, and is reported if it is too low.
        let _ = setrlimit(Resource::Nofile, limit);
    }
}

impl Limits {
    /// Reads the present limits.
    pub(super) fn read() -> Self {
        let of = |resource| getrlimit(resource).current;
        let memory = std::fs::read_to_string(CGROUP_MEMORY).ok();
        Self {
            descriptors: of(Resource::Nofile),
            // The system does not enforce it for root.
            threads: of(Resource::Nproc).filter(|_| !rustix::process::geteuid().is_root()),
            file_bytes: of(Resource::Fsize),
            address_space_bytes: of(Resource::As),
            memory_bytes: memory.and_then(|text| text.trim().parse().ok()),
        }
    }

    /// Maximum number of HTTP connections that leaves enough descriptors for everything else.
    pub(super) fn http_connections(&self, config: &Config) -> usize {
        let left = self.descriptors.map_or(u64::MAX, |limit| limit.saturating_sub(descriptors(config)));
        usize::try_from(left).unwrap_or(usize::MAX).clamp(http::MIN_CONNECTIONS, http::MAX_CONNECTIONS)
    }

    /// The limits that are too low for the worker.
    pub(super) fn too_low(&self, config: &Config) -> Vec<TooLow> {
        let mut found = Vec::new();
        let mut compare = |key, limit: Option<u64>, needed: u64, what: &dyn Display, fix: &dyn Display| {
            if let Some(limit) = limit.filter(|limit| *limit < needed) {
                let text = format!("{limit} {what}, and the worker needs up to {needed}: {fix}");
                found.push(TooLow { key, text });
            }
        };
        compare(
            "ulimit -n",
            self.descriptors,
            descriptors(config) + http::MIN_CONNECTIONS as u64,
            &"open files are allowed",
            &"raise the limit (ulimit -n, LimitNOFILE=), or lower database.pool_size and database.max_overflow",
        );
        compare(
            "ulimit -u",
            self.threads,
            THREADS,
            &"threads of this user are allowed",
            &"raise the limit (ulimit -u, LimitNPROC=)",
        );
        if config.journal.enabled {
            compare(
                "journal.segment_bytes",
                self.file_bytes,
                config.journal.segment_bytes,
                &"bytes are allowed in a file (ulimit -f)",
                &"raise the limit (ulimit -f, LimitFSIZE=), or lower journal.segment_bytes",
            );
        }
        let memory = config.memory.limit_bytes as u64;
        compare(
            "memory.limit_bytes",
            self.address_space_bytes,
            memory.saturating_add(ADDRESS_SPACE_BYTES),
            &"bytes of address space are allowed (ulimit -v)",
            &"raise the limit (ulimit -v, LimitAS=), or lower memory.limit_bytes",
        );
        compare(
            "memory.limit_bytes",
            self.memory_bytes,
            memory.saturating_add(memory / 100 * 15),
            &"bytes of memory are allowed to the control group",
            &"raise the container's limit, or lower memory.limit_bytes",
        );
        found
    }
}

/// Maximum number of descriptors that the worker opens, without those of HTTP clients.
fn descriptors(config: &Config) -> u64 {
    let brokers = config.kafka.brokers.split(',').count() as u64;
    // The consumer, the client for requests, and the publisher of dead letters.
    let clients = if config.kafka.dead_letter_topic.is_empty() { 2 } else { 3 };
    let kafka = clients * (CLIENT_DESCRIPTORS + (brokers - 1) * BROKER_DESCRIPTORS);
    BASE_DESCRIPTORS + kafka + config.database.pool_size as u64 + config.database.max_overflow as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(settings: &[(&str, &str)]) -> Config {
        let settings = settings.iter().map(|(name, value)| ((*name).into(), (*value).into()));
        Config::load(None, settings).unwrap()
    }

    fn keys(limits: Limits, config: &Config) -> Vec<&'static str> {
        limits.too_low(config).into_iter().map(|found| found.key).collect()
    }

    #[test]
    fn http_clients_leave_enough_descriptors_for_all_else() {
        let config = config(&[]);
        for (limit, connections) in [(None, 64), (Some(1_000_000), 64), (Some(1024), 64), (Some(64), 5), (Some(20), 4)]
        {
            let limits = Limits { descriptors: limit, ..Limits::default() };
            assert_eq!(limits.http_connections(&config), connections, "{limit:?}");
        }
    }

    #[test]
    fn a_limit_that_is_too_low_is_named_with_what_is_needed_and_a_fix() {
        let defaults = config(&[]);
        assert_eq!(keys(Limits::default(), &defaults), [""; 0]);
        let limits = Limits { descriptors: Some(64), ..Limits::default() };
        assert_eq!(keys(limits, &defaults), [""; 0]);
        let limits = Limits { descriptors: Some(62), ..Limits::default() };
        let found = limits.too_low(&defaults);
        assert_eq!(found[0].key, "ulimit -n");
        for part in ["62 open files", "up to 63", "LimitNOFILE=", "database.pool_size"] {
            assert!(found[0].text.contains(part), "{}", found[0].text);
        }
        let more = config(&[("KAFKA_BROKERS", "a:1,b:1,c:1"), ("DATABASE_POOL_SIZE", "20")]);
        let limits = Limits { descriptors: Some(80), ..Limits::default() };
        assert_eq!(keys(limits, &more), ["ulimit -n"]);
        let limits = Limits {
            threads: Some(10),
            file_bytes: Some(1 << 20),
            address_space_bytes: Some(1 << 28),
            memory_bytes: Some(1 << 27),
            ..Limits::default()
        };
        let expected = ["ulimit -u", "journal.segment_bytes", "memory.limit_bytes", "memory.limit_bytes"];
        assert_eq!(keys(limits, &defaults), expected);
        let without = config(&[("SERIES_INGEST__JOURNAL__ENABLED", "false")]);
        assert!(!keys(limits, &without).contains(&"journal.segment_bytes"));
    }
}
