//! Points that occur in several messages, by `points.on_duplicate`.
//!
//! - *append*: every point is a row, by COPY.
//! - *ignore*: a point is stored once, and stays as it was stored first.
//! - *replace*: a point is stored once, with the value of its latest message, in whatever order messages are written.
//!   `ingest_point_version` keeps the message of each point.
//!
//! The last two are `insert … on conflict` in functions of the migrations, for which the worker's role needs no right on the
//! tables. The server refuses a statement that meets a point twice (SQLSTATE 21000), so a batch's points are reduced to one
//! each before.

use std::time::Instant;

use tokio_postgres::types::{IsNull, ToSql, Type, to_sql_checked};
use uuid::Uuid;

use super::copy::POSTGRES_EPOCH_US;
use crate::batch::Batch;
use crate::config::OnDuplicate;
use crate::database::connection::session::Session;
use crate::database::connection::step::Step;
use crate::database::error::Error;
use crate::database::progress::ResolvedSources;
use crate::message::{Order, Points};
use crate::telemetry::metrics;

/// Maximum number of points of one statement: their parameters take 100 bytes per point and more.
const STATEMENT_POINTS: usize = 20_000;

/// Minimum number of points of a series' column, on average, for which a COPY is compressed: each column of a series makes at
/// least one compressed row of each COPY, and one with fewer points is larger and slower than these points uncompressed. Live
/// points are therefore compressed later, by TimescaleDB's policy.
const MIN_COMPRESSED_POINTS: usize = 10;

/// A message's version, by which messages are ordered: time in milliseconds since the Unix epoch, offset, partition, source.
/// The order is that of the migrations' functions.
type Version = (i64, i64, i32, i32);

/// Stores points of a batch as configured.
#[derive(Debug)]
pub(in crate::database) struct Store<'a> {
    batch: &'a Batch,
    on_duplicate: OnDuplicate,
    /// The version of each of the batch's messages; empty if points are appended.
    versions: Vec<Version>,
    /// The numbers of sources that versions name, and the sources' keys.
    sources: (Vec<i32>, Vec<Uuid>),
    /// The span of a chunk in microseconds, if the server can compress a COPY directly.
    compressed_span_us: Option<i64>,
}

impl<'a> Store<'a> {
    /// # Errors
    /// If the id of a source is not known.
    pub(in crate::database) fn new(
        batch: &'a Batch,
        on_duplicate: OnDuplicate,
        ids: &ResolvedSources,
        compressed_span_us: Option<i64>,
    ) -> Result<Self, Error> {
        let versions = if on_duplicate == OnDuplicate::Append { Vec::new() } else { versions(batch, ids)? };
        Ok(Self { batch, on_duplicate, versions, sources: ids.numbers_and_keys(), compressed_span_us })
    }

    pub(in crate::database) fn batch(&self) -> &'a Batch {
        self.batch
    }

    /// The order in which the batch's points are stored: sorted, and cut where chunks end if they are compressed.
    pub(in crate::database) fn order(&self) -> Order {
        let begun = Instant::now();
        let points = self.batch.points();
        let order = match self.compressed_span_us {
            Some(span_us) if is_dense(points) => points.order().cut(points, span_us),
            _ => points.order(),
        };
        metrics::step_took(metrics::Step::Sort, begun.elapsed());
        order
    }

    /// Stores these points, in this order, inside an open transaction; returns the number of rows that were added or changed.
    ///
    /// # Errors
    /// As a COPY's.
    pub(in crate::database) async fn insert_rows(&self, session: &mut Session, order: &Order) -> Result<usize, Error> {
        let points = self.batch.points();
        if self.on_duplicate == OnDuplicate::Append {
            if self.compressed_span_us.is_some() {
                // Points sorted within this COPY may overlap with others, so `…_client_sorted` is never true here.
                let on = if is_dense(points) { "on" } else { "off" };
                let sql = format!("set local timescaledb.enable_direct_compress_copy = {on}");
                session.execute(Step::Other("set direct compress"), &sql).await?;
            }
            session.copy(points, order).await?;
            return Ok(order.indices().len());
        }
        let begun = Instant::now();
        let version_of = |point: u32| self.batch.message_of_point(point as usize).map(|message| self.versions[message]);
        let kept = one_each(points, order, self.on_duplicate, version_of);
        let mut rows = 0;
        for part in kept.chunks(STATEMENT_POINTS) {
            let mut columns = Columns::default();
            part.iter().for_each(|(point, version)| columns.push(points, *point, *version));
            rows += columns.send(session, self.on_duplicate, &self.sources).await?;
        }
        metrics::step_took(metrics::Step::Copy, begun.elapsed());
        Ok(rows)
    }
}

/// The version of each of the batch's messages.
fn versions(batch: &Batch, ids: &ResolvedSources) -> Result<Vec<Version>, Error> {
    let mut versions = Vec::with_capacity(batch.message_count());
    for set in batch.sets() {
        let (source, partition) = (ids.get(set.source())?.number, set.partition().number);
        versions
            .extend(set.messages().map(|message| (message.time_ms.unwrap_or(0), message.offset, partition, source)));
    }
    Ok(versions)
}

/// Returns `true` if it is worth compressing them by themselves.
fn is_dense(points: &Points) -> bool {
    points.len() >= MIN_COMPRESSED_POINTS * points.key_count()
}

/// One of all points with the same series, column and time: the first of the earliest message if the stored point stays, and
/// the last of the latest message if it is replaced.
fn one_each(
    points: &Points,
    order: &Order,
    on_duplicate: OnDuplicate,
    version_of: impl Fn(u32) -> Option<Version>,
) -> Vec<(u32, Version)> {
    let is_same = |a: &u32, b: &u32| {
        let (a, b) = (*a as usize, *b as usize);
        points.key_of(a) == points.key_of(b) && points.time_of(a) == points.time_of(b)
    };
    #[cfg(feature = "planted-bugs")]
    let on_duplicate = match on_duplicate {
        OnDuplicate::Replace if crate::planted_bugs::is_on("duplicates-keep-other-end") => OnDuplicate::Ignore,
        OnDuplicate::Ignore if crate::planted_bugs::is_on("duplicates-keep-other-end") => OnDuplicate::Replace,
        as_asked => as_asked,
    };
    let of_group = |group: &[u32]| {
        // Points of one message are in their order: the sort by time is stable.
        let versions = group.iter().filter_map(|point| Some((*point, version_of(*point)?)));
        match on_duplicate {
            OnDuplicate::Append | OnDuplicate::Ignore => versions.min_by_key(|(_, version)| *version),
            OnDuplicate::Replace => versions.max_by_key(|(_, version)| *version),
        }
    };
    order.indices().chunk_by(is_same).filter_map(of_group).collect()
}

/// The parameters of one statement, with a row's values at the same index in each.
#[derive(Debug, Default)]
struct Columns<'a> {
    series: Vec<&'a str>,
    columns: Vec<&'a str>,
    times: Vec<Time>,
    values: Vec<Option<f64>>,
    message_ms: Vec<i64>,
    offsets: Vec<i64>,
    partitions: Vec<i32>,
    sources: Vec<i32>,
}

impl<'a> Columns<'a> {
    fn push(&mut self, points: &'a Points, point: u32, version: Version) {
        let (series, column, time_us, value) = points.get(point as usize);
        self.series.push(series);
        self.columns.push(column);
        self.times.push(Time(time_us));
        self.values.push((!value.is_nan()).then_some(value));
        let (message_ms, offset, partition, source) = version;
        self.message_ms.push(message_ms);
        self.offsets.push(offset);
        self.partitions.push(partition);
        self.sources.push(source);
    }

    async fn send(
        &self,
        session: &mut Session,
        on_duplicate: OnDuplicate,
        (numbers, keys): &(Vec<i32>, Vec<Uuid>),
    ) -> Result<usize, Error> {
        let points: [&(dyn ToSql + Sync); 4] = [&self.series, &self.columns, &self.times, &self.values];
        let rows = if on_duplicate == OnDuplicate::Replace {
            let versions: [&(dyn ToSql + Sync); 6] =
                [&self.message_ms, &self.offsets, &self.partitions, &self.sources, numbers, keys];
            let sql = "select ingest_replace_points($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)";
            session.query(Step::Copy, sql, &[&points[..], &versions[..]].concat()).await?
        } else {
            session.query(Step::Copy, "select ingest_add_points($1, $2, $3, $4)", &points).await?
        };
        let rows: i64 = rows.first().map_or(0, |row| row.get(0));
        usize::try_from(rows).map_err(|_| Error::Unexpected(format!("{rows} rows were stored")))
    }
}

/// A timestamptz: microseconds since the Unix epoch. The server accepts a wider range than libraries of dates do.
#[derive(Debug)]
struct Time(i64);

impl ToSql for Time {
    fn to_sql(&self, ty: &Type, out: &mut bytes::BytesMut) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        (self.0 - POSTGRES_EPOCH_US).to_sql(ty, out)
    }

    fn accepts(ty: &Type) -> bool {
        *ty == Type::TIMESTAMPTZ
    }

    to_sql_checked!();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_points_that_come_twice_one_is_kept() {
        let mut points = Points::default();
        let series = points.series("s");
        let (a, b) = (points.key(series, "a"), points.key(series, "b"));
        // Of messages with the versions 5, 3, 4, one after the other.
        for (key, time, value) in
            [(a, 1, 0.0), (a, 1, 1.0), (b, 1, 2.0), (a, 1, 3.0), (a, 1, 4.0), (a, 1, 5.0), (a, 2, 6.0)]
        {
            points.push(key, time, value);
        }
        let version = |point| Some(([5, 5, 5, 3, 3, 4, 4][point as usize], 0, 0, 0));
        let kept = |on_duplicate| -> Vec<f64> {
            let kept = one_each(&points, &points.order(), on_duplicate, version);
            kept.iter().map(|(point, _)| points.value_of(*point as usize)).collect()
        };
        assert_eq!(kept(OnDuplicate::Ignore), [3.0, 6.0, 2.0]);
        assert_eq!(kept(OnDuplicate::Replace), [1.0, 6.0, 2.0]);
    }
}
