//! Where reads go: the hosts of `database.read_url` in turn, the primary if the configuration allows it, and the next one if a
//! read is interrupted.

use std::time::{Duration, Instant};

use tokio_postgres::Client;

use super::Error;
use super::fresh::{self, FreshAsOf};
use crate::config;
use crate::database;
use crate::database::reading::{Hosts, Interruption, Reading};

/// Time for which one of several hosts is asked before the next one.
const TURN: Duration = Duration::from_secs(1);
/// Maximum number of interruptions in a row, without an answer in between.
const MAX_INTERRUPTIONS: usize = 8;

/// How a command reads.
#[derive(Debug, Clone)]
pub struct ReadOptions {
    /// The pipeline whose progress counts.
    pub pipeline: String,
    /// The messages that a read must see.
    pub fresh_as_of: Vec<FreshAsOf>,
    /// Maximum time to wait for them.
    pub fresh_within: Duration,
    /// Gets a sentence when the primary is read instead, and when a read is interrupted.
    pub say: fn(&str),
}

/// The servers that a command may read.
#[derive(Debug)]
pub(super) struct Replicas {
    hosts: Hosts,
    /// The primary, if it may be read instead.
    primary: Option<Hosts>,
    /// `true` if the hosts are those of `database.read_url`.
    are_apart: bool,
    options: ReadOptions,
    /// Timeout for small questions.
    limit: Duration,
    is_primary: bool,
    interruptions: usize,
}

impl Replicas {
    pub(super) fn new(settings: &config::Database, options: ReadOptions) -> Self {
        let reading = settings.for_reading();
        let falls_back = settings.read_fallback && reading.is_some() && !settings.url.is_empty();
        Self {
            hosts: Hosts::new(reading.as_ref().unwrap_or(settings), settings.read_max_lag_s),
            primary: falls_back.then(|| Hosts::new(settings, 0)),
            are_apart: reading.is_some(),
            options,
            limit: Duration::from_millis(settings.connect_timeout_ms),
            is_primary: false,
            interruptions: 0,
        }
    }

    /// A connection to a server that has what must be seen.
    pub(super) async fn connect(&mut self) -> Result<Reading, Error> {
        let deadline = Instant::now() + self.options.fresh_within;
        if self.is_primary {
            return self.connect_to_primary(deadline).await;
        }
        let failure = loop {
            let reading = match self.hosts.connect().await {
                Ok(reading) => reading,
                // These are errors of the configuration.
                Err(error)
                    if !self.are_apart
                        || matches!(error, database::Error::SharedSession(_) | database::Error::Tls(_)) =>
                {
                    return Err(error.into());
                }
                Err(error) => break Error::Hosts { key: self.hosts.key(), text: error.to_string() },
            };
            let turn = deadline.min(Instant::now() + TURN);
            match self.lacking(&reading.client, turn).await {
                Ok(None) => return Ok(reading),
                Ok(Some(lacking)) if Instant::now() >= deadline => break self.not_fresh(&reading, &lacking),
                // The next one may have it.
                Ok(Some(_)) => self.hosts.put_last(&reading.place),
                Err(error) if Instant::now() < deadline && error.interruption().is_some() => {
                    self.hosts.put_last(&reading.place);
                }
                Err(error) => return Err(error.into()),
            }
        };
        if self.primary.is_none() {
            return Err(failure);
        }
        (self.options.say)(&format!("{failure}; the primary is read instead, as database.read_fallback allows"));
        self.is_primary = true;
        self.connect_to_primary(deadline).await
    }

    async fn connect_to_primary(&self, deadline: Instant) -> Result<Reading, Error> {
        let hosts = self.primary.as_ref().unwrap_or(&self.hosts);
        let reading = hosts.connect().await?;
        match self.lacking(&reading.client, deadline).await? {
            None => Ok(reading),
            Some(lacking) => Err(self.not_fresh(&reading, &lacking)),
        }
    }

    /// What the database lacks of what must be seen, in words, if it does not come before the deadline.
    async fn lacking(&self, client: &Client, deadline: Instant) -> Result<Option<String>, database::Error> {
        let ReadOptions { pipeline, fresh_as_of, .. } = &self.options;
        fresh::wait(client, pipeline, fresh_as_of, deadline, self.limit).await
    }

    fn not_fresh(&self, reading: &Reading, lacking: &str) -> Error {
        Error::NotFresh {
            place: format!("{}, {}", reading.place, reading.role.describe()),
            lacking: lacking.to_owned(),
            seconds: self.options.fresh_within.as_secs_f64(),
        }
    }

    /// An answer has come.
    pub(super) fn succeeded(&mut self) {
        self.interruptions = 0;
    }

    /// Decides whether a read goes on elsewhere or later, and says so.
    ///
    /// # Errors
    /// The failure, if it does not.
    pub(super) fn go_on_after(&mut self, error: Error, place: &str) -> Result<(), Error> {
        let Error::Database(failure) = &error else { return Err(error) };
        let interruption = match failure.interruption() {
            // One server, and no other was named: its end is the answer.
            Some(Interruption::Lost) if !self.are_apart => return Err(error),
            Some(interruption) => interruption,
            None => return Err(error),
        };
        self.interruptions += 1;
        let is_too_often = self.interruptions > MAX_INTERRUPTIONS;
        if is_too_often && (self.primary.is_none() || self.is_primary) {
            return Err(match interruption {
                Interruption::Recovery => {
                    Error::Recovery { place: place.to_owned(), times: self.interruptions, text: failure.to_string() }
                }
                Interruption::Lost => error,
            });
        }
        if interruption == Interruption::Lost {
            self.hosts.put_last(place);
        }
        let next = if is_too_often {
            self.is_primary = true;
            self.interruptions = 0;
            "the primary is read instead, as database.read_fallback allows"
        } else {
            "what is not yet read is read as of a later moment"
        };
        (self.options.say)(&format!("{place}: {failure}; {next}"));
        Ok(())
    }
}
