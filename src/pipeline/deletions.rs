//! Completes deletions of series that are pending: those of messages, whose points are deleted outside the transactions that
//! write, and those that a command has not completed.

use std::time::Duration;

use tracing::{debug, info, warn};

use crate::database::deletion::Deletion;
use crate::database::{Class, Database, Error};
use crate::telemetry::escaped;
use crate::telemetry::log_limit::LogLimit;

/// Interval between looks for pending deletions.
const ROUND_INTERVAL: Duration = Duration::from_secs(2);
/// The state of deletions that fail, in the log.
const NOT_DELETED: &str = "pending-deletions";

/// Works alongside the pipeline.
pub(in crate::pipeline) async fn complete_all(database: Database) {
    let log = LogLimit::default();
    loop {
        tokio::time::sleep(ROUND_INTERVAL).await;
        if !database.state().up {
            continue;
        }
        match complete_pending(&database).await {
            Ok(()) => {
                log.ends(NOT_DELETED);
            }
            // An outage is reported by what writes points.
            Err(failure) if failure.class() == Class::Outage => debug!(%failure, "no deletion was completed"),
            Err(failure) => {
                if let Some(repeated) = log.lasts(NOT_DELETED, &failure.to_string()) {
                    let (seconds, unlogged) = (repeated.seconds, repeated.unlogged);
                    warn!(%failure, seconds, unlogged, "points of deleted series were not deleted; trying again");
                }
            }
        }
    }
}

async fn complete_pending(database: &Database) -> Result<(), Error> {
    for deletion in database.pending_deletions().await? {
        let deleted = database.complete_deletion(&deletion, false, |_| ()).await?;
        let Deletion { series, before_us } = &deletion;
        info!(
            series = %escaped(series), before = before_us.map(crate::telemetry::time_us),
            points = deleted.points, dead_letters = deleted.dead_letters,
            "a series was deleted, or its points before a time"
        );
    }
    Ok(())
}
