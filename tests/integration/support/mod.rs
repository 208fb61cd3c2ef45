//! What the tests against real servers share. Each test has its own database, topics and group, so that they run side
//! by side; what a failed test leaves stays, to be examined.

pub mod backups;
pub mod broker;
pub mod certificates;
pub mod cluster;
pub mod data;
pub mod fixture;
pub mod fixture_with_proxy;
pub mod fixture_with_server;
pub mod folder;
pub mod load;
pub mod outage;
pub mod own_broker;
pub mod pgbouncer;
pub mod proxy;
pub mod recording_proxy;
pub mod secure_broker;
pub mod server;
pub mod shell;
pub mod worker;

use std::io::Write as _;
use std::time::{Duration, Instant};

/// The servers that `scripts/stack env` names.
#[derive(Debug, Clone)]
pub struct Servers {
    pub brokers: String,
    pub database_url: String,
}

/// The servers to test against. `None` where there are none: the test is then skipped, loudly, unless the environment says
/// that it must not be.
pub fn servers(test: &str) -> Option<Servers> {
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    match (variable("KAFKA_BROKERS"), variable("DATABASE_URL")) {
        (Some(brokers), Some(database_url)) => Some(Servers { brokers, database_url }),
        (None, None) => {
            let required = variable("SERIES_INGEST_TESTS").is_some_and(|value| value == "required");
            assert!(!required, "{test}: KAFKA_BROKERS and DATABASE_URL are not set, and SERIES_INGEST_TESTS=required");
            skip(test, "no servers; `make test` brings them up and runs it");
            None
        }
        _ => panic!("{test}: only one of KAFKA_BROKERS and DATABASE_URL is set"),
    }
}

/// Says that a test is skipped, past the test runner, which shows only what failed tests print.
pub fn skip(test: &str, why: &str) {
    std::io::stderr().write_all(format!("SKIPPED {test}: {why}\n").as_bytes()).unwrap();
}

/// Waits until `fact` holds, and fails after `seconds`.
pub async fn until(seconds: u64, what: &str, mut fact: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(seconds);
    while !fact().await {
        assert!(Instant::now() < deadline, "not within {seconds} s: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// The seed of a random test: SEED where it is set, and printed, so that a failed run can be repeated.
pub fn seed(test: &str) -> u64 {
    let seed = std::env::var("SEED").ok().map_or_else(rand::random, |text| text.parse().expect("SEED is a number"));
    println!("{test}: SEED={seed}");
    seed
}
