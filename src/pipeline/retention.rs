//! Deletes points that are older than the retention, where TimescaleDB has no policy that does it, and measures how old the
//! oldest point is.

use std::time::{Duration, Instant};

use tracing::{debug, info, warn};

use crate::database::{Class, Database, Error};
use crate::telemetry::log_limit::LogLimit;
use crate::telemetry::metrics;

/// Interval between looks for what has expired.
const ROUND_INTERVAL: Duration = Duration::from_secs(10);
/// Interval between looks for the oldest point while nothing is deleted: in a compressed chunk it takes a while.
const MEASURE_INTERVAL: Duration = Duration::from_secs(60);
/// The state of retention that fails, in the log.
const NOT_DROPPED: &str = "retention";

/// Works alongside the pipeline.
pub(in crate::pipeline) async fn keep(database: Database) {
    let log = LogLimit::default();
    let mut measured: Option<Instant> = None;
    loop {
        if database.state().up {
            let is_due = measured.is_none_or(|at| at.elapsed() >= MEASURE_INTERVAL);
            match round(&database, is_due).await {
                Ok(has_measured) => {
                    log.ends(NOT_DROPPED);
                    if has_measured {
                        measured = Some(Instant::now());
                    }
                }
                // An outage is reported by what writes points.
                Err(failure) if failure.class() == Class::Outage => debug!(%failure, "no expired point was deleted"),
                Err(failure) => {
                    if let Some(repeated) = log.lasts(NOT_DROPPED, &failure.to_string()) {
                        let (seconds, unlogged) = (repeated.seconds, repeated.unlogged);
                        warn!(%failure, seconds, unlogged, "expired points were not deleted; trying again");
                    }
                }
            }
        }
        tokio::time::sleep(ROUND_INTERVAL).await;
    }
}

/// Deletes what has expired, and then, or if it is due, measures; returns `true` if it has measured.
async fn round(database: &Database, is_due: bool) -> Result<bool, Error> {
    let mut retention = database.retention().await?;
    let mut has_dropped = false;
    if retention.as_ref().is_some_and(|retention| !retention.by_policy && retention.overdue_s.is_some()) {
        has_dropped = drop_all(database).await?;
        retention = database.retention().await?;
    }
    let drop_after_s = retention.as_ref().map_or(0, |retention| retention.drop_after_s);
    metrics::set_retention(drop_after_s, retention.and_then(|retention| retention.overdue_s).unwrap_or(0.0));
    if !has_dropped && !is_due {
        return Ok(false);
    }
    metrics::set_oldest_point(database.oldest_point_us().await?);
    Ok(true)
}

/// Deletes all that has expired, unless another worker does; returns `true` if there was anything.
async fn drop_all(database: &Database) -> Result<bool, Error> {
    let (mut chunks, mut points) = (0, 0);
    loop {
        let dropped = database.drop_expired().await?;
        metrics::expired_dropped(dropped.chunks, dropped.points);
        chunks += dropped.chunks;
        points += dropped.points;
        if dropped.is_busy || !dropped.has_more {
            break;
        }
    }
    if chunks + points > 0 {
        info!(chunks, points, "expired points were deleted");
    }
    Ok(chunks + points > 0)
}
