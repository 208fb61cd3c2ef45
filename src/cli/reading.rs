//! Where and when commands that only read do so: their arguments, and what they say of it.

use std::time::Duration;

use clap::Args;
use tracing::Level;

use super::output::complain;
use super::times::parse_length;
use super::{Failure, say_wait};
use crate::config::Config;
use crate::repository::{FreshAsOf, ReadOptions, Snapshot};
use crate::telemetry::list;

/// The heading in the help.
const HEADING: &str = "Which database is read";

#[derive(Debug, Args)]
pub(super) struct Reading {
    /// Wait until the database that is read has the message with this offset; with several, until it has all.
    #[arg(long, value_name = "TOPIC:PARTITION:OFFSET", help_heading = HEADING)]
    fresh_as_of: Vec<FreshAsOf>,
    /// Maximum time to wait for them.
    #[arg(long, value_name = "LENGTH", value_parser = parse_length, default_value = "30s", requires = "fresh_as_of",
        help_heading = HEADING)]
    fresh_within: i64,
}

impl Reading {
    /// Begins to read where the configuration says.
    pub(super) async fn open(&self, config: &Config) -> Result<Snapshot, Failure> {
        config.require_readable()?;
        let options = ReadOptions {
            pipeline: config.pipeline.clone(),
            fresh_as_of: self.fresh_as_of.clone(),
            fresh_within: Duration::from_micros(self.fresh_within.unsigned_abs()),
            say: say_wait,
        };
        Ok(Snapshot::of_replica(&config.database, options).await?)
    }
}

/// Says if what was read is not as of one moment.
pub(super) fn say_moments(snapshot: &Snapshot, what: &str) {
    let places = snapshot.places();
    if places.len() > 1 {
        let mut once = places.clone();
        once.dedup();
        let text = format!(
            "{what} is as of {} moments, because the server interrupted it: it was read from {}; what was not changed \
             meanwhile is there once",
            places.len(),
            list(once.iter().map(String::as_str))
        );
        complain(Level::WARN, &text);
    }
}
