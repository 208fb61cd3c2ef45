//! The ages of backups, which the database remembers, as metrics.

use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tracing::debug;

use crate::database::Database;
use crate::telemetry::metrics;

/// Interval between requests.
const INTERVAL: Duration = Duration::from_secs(15);

/// Asks the database for the ages of backups, periodically.
#[derive(Debug, Default)]
pub(super) struct BackupAgesPoll {
    asked: Option<Instant>,
    requests: JoinSet<()>,
}

impl BackupAgesPoll {
    /// Begins a request if one is due and the database is available.
    pub(super) fn tick(&mut self, database: &Database) {
        while self.requests.try_join_next().is_some() {}
        let is_due = self.asked.is_none_or(|asked| asked.elapsed() >= INTERVAL);
        if !is_due || !self.requests.is_empty() || !database.state().up {
            return;
        }
        self.asked = Some(Instant::now());
        let database = database.clone();
        self.requests.spawn(async move {
            match database.backup_ages().await {
                Ok(ages) => metrics::backup_ages(ages.newest, ages.verified),
                Err(failure) => debug!(%failure, "the ages of backups are not known"),
            }
        });
    }
}
