//! What the server says of the rows of a unit: the same before and after means that they are the same rows.

use serde::{Deserialize, Serialize};
use tokio_postgres::Row;

use super::session::Session;
use super::{ArchiveError, POINTS, Unit};
use crate::database::Step;
use crate::repository::Snapshot;
use crate::repository::literal::time;

const STEP: Step = Step::Other("compare points");

/// The aggregates. The ids make a row another one than one with the same content; a value's bytes distinguish 0 and -0.
pub(super) const AGGREGATES: &str = "count(*), coalesce(sum(hash_record_extended(row(id::bigint, time_series_id::text, \
    column_name::text, \"timestamp\", float8send(value)), 0)), 0)::text";

/// What the server says of the rows of a unit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// Their number.
    pub rows: i64,
    /// The sum of the server's hashes of each row with its id, in decimal.
    pub hash_sum: String,
}

impl Summary {
    pub(super) fn of_row(row: &Row) -> Self {
        Self { rows: row.get(0), hash_sum: row.get(1) }
    }

    fn sql(unit: &Unit) -> String {
        format!("select {AGGREGATES} from {POINTS} where {}", unit.condition())
    }

    /// Of the rows that a snapshot has.
    pub(super) async fn of_snapshot(snapshot: &Snapshot, unit: &Unit) -> Result<Self, ArchiveError> {
        let rows = snapshot.query(STEP, &Self::sql(unit), &[]).await?;
        Self::first(&rows)
    }

    /// Of the rows that the session's next statement sees.
    pub(super) async fn of_session(session: &Session, unit: &Unit) -> Result<Self, ArchiveError> {
        let rows = session.query(STEP, &Self::sql(unit), &[]).await?;
        Self::first(&rows)
    }

    pub(super) fn first(rows: &[Row]) -> Result<Self, ArchiveError> {
        let row = rows.first().ok_or_else(|| ArchiveError::Internal("a count returns no row".to_owned()))?;
        Ok(Self::of_row(row))
    }
}

impl Unit {
    /// The condition of its rows, with constants, so that the server plans and locks just its chunk.
    pub(super) fn condition(&self) -> String {
        format!("\"timestamp\" >= {} and \"timestamp\" < {}", time(self.from_us), time(self.until_us))
    }
}
