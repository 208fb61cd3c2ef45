//! Progress: the offsets of each partition that are applied. The protocol itself is in the functions of `migrations/`.

pub(super) mod admin;

mod acceptance;
mod files;
mod moved;

pub use acceptance::{Acceptance, Started};
pub use files::FileSource;
pub use moved::Elsewhere;

pub(super) use acceptance::AcceptedSources;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio_postgres::Row;
use uuid::Uuid;

use super::error::Error;
use crate::database::connection::session::Session;
use crate::database::connection::step::Step;
use crate::raw::{Interval, Partition, Source, holes};

/// A source as the database knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SourceId {
    /// The argument of every function of the migrations. It is random, so a database that did not give it has no such source,
    /// and raises `IC004` in the transaction that uses it: a stale cached key cannot name another source.
    pub(super) key: Uuid,
    /// Only for ordering messages of the same time: another database may give the same number to another source.
    pub(super) number: i32,
}

/// The ids that the database gave to sources.
#[derive(Debug, Default)]
pub(super) struct SourceIds {
    ids: Mutex<HashMap<Arc<Source>, SourceId>>,
}

/// The ids of the sources of one unit of work; they stay even if another one forgets them because of an outage.
#[derive(Debug, Default)]
pub(super) struct ResolvedSources(HashMap<Arc<Source>, SourceId>);

impl ResolvedSources {
    /// Ids that were read with their rows.
    pub(super) fn from_known(ids: impl IntoIterator<Item = (Arc<Source>, SourceId)>) -> Self {
        Self(ids.into_iter().collect())
    }

    pub(super) fn get(&self, source: &Source) -> Result<SourceId, Error> {
        let id = self.0.get(source).copied();
        id.ok_or_else(|| Error::Unexpected(format!("the source of topic {} was not asked for", source.topic)))
    }

    /// The key of a source.
    pub(super) fn key(&self, source: &Source) -> Result<Uuid, Error> {
        Ok(self.get(source)?.key)
    }

    /// The numbers and the keys of all sources, each at the same index.
    pub(super) fn numbers_and_keys(&self) -> (Vec<i32>, Vec<Uuid>) {
        self.0.values().map(|id| (id.number, id.key)).unzip()
    }
}

impl SourceIds {
    fn known(&self, source: &Source) -> Option<SourceId> {
        self.ids.lock().unwrap_or_else(PoisonError::into_inner).get(source).copied()
    }

    /// Forgets all: the database may be another one, or restored to a time before it gave them.
    pub(super) fn forget(&self) {
        self.ids.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// The ids of `sources`; those that are not known are read from the database.
    pub(super) async fn resolve(
        &self,
        session: &mut Session,
        pipeline: &str,
        sources: &[&Arc<Source>],
    ) -> Result<ResolvedSources, Error> {
        let mut resolved = HashMap::new();
        for source in sources {
            if let Some(id) = self.known(source) {
                resolved.insert(Arc::clone(source), id);
                continue;
            }
            let rows = session
                .query(
                    Step::Other("identify the source"),
                    "select source_key, source_number from ingest_source_key($1, $2, $3, $4)",
                    &[&pipeline, &source.cluster_id, &source.topic, &source.topic_id],
                )
                .await?;
            let row = rows.first().ok_or_else(|| Error::Unexpected("a source has no key".to_owned()))?;
            let id = SourceId { key: row.get(0), number: row.get(1) };
            self.ids.lock().unwrap_or_else(PoisonError::into_inner).insert(Arc::clone(source), id);
            resolved.insert(Arc::clone(source), id);
        }
        Ok(ResolvedSources(resolved))
    }
}

/// The intervals of a batch as the parameters of a claim: one array per column.
pub(super) struct Claim<'a> {
    intervals: &'a [Interval],
    sources: Vec<Uuid>,
    partitions: Vec<i32>,
    froms: Vec<i64>,
    untils: Vec<i64>,
}

/// A partition's next offset after a claim.
#[derive(Debug, Clone)]
pub struct Applied {
    /// The partition.
    pub partition: Partition,
    /// Every offset below it is applied.
    pub next_offset: i64,
}

impl<'a> Claim<'a> {
    pub(super) fn new(intervals: &'a [Interval], ids: &ResolvedSources) -> Result<Self, Error> {
        Ok(Self {
            intervals,
            sources: intervals.iter().map(|i| ids.key(&i.partition.source)).collect::<Result<_, _>>()?,
            partitions: intervals.iter().map(|i| i.partition.number).collect(),
            froms: intervals.iter().map(|i| i.from).collect(),
            untils: intervals.iter().map(|i| i.until).collect(),
        })
    }

    /// Covers the intervals, raising if any offset is covered already.
    pub(super) async fn all(&self, session: &mut Session) -> Result<Vec<Applied>, Error> {
        let rows = self.call(session, Step::Other("claim"), "select * from ingest_claim($1, $2, $3, $4)").await?;
        rows.iter()
            .map(|row| {
                let source = self.source(row.get(0))?;
                Ok(Applied { partition: Partition::new(source, row.get(1)), next_offset: row.get(2) })
            })
            .collect()
    }

    /// Covers the intervals, and returns those that were not covered before.
    pub(super) async fn missing(&self, session: &mut Session) -> Result<Vec<Interval>, Error> {
        self.parts(session, "select * from ingest_claim_missing($1, $2, $3, $4)").await
    }

    /// Covers the intervals, and fills the gaps that lie in them; returns what was not covered before or was a gap.
    pub(super) async fn journaled(&self, session: &mut Session) -> Result<Vec<Interval>, Error> {
        self.parts(session, "select * from ingest_claim_journaled($1, $2, $3, $4)").await
    }

    async fn parts(&self, session: &mut Session, sql: &str) -> Result<Vec<Interval>, Error> {
        let rows = self.call(session, Step::Other("claim what is missing"), sql).await?;
        rows.iter()
            .map(|row| {
                let source = self.source(row.get(0))?;
                Ok(Interval { partition: Partition::new(source, row.get(1)), from: row.get(2), until: row.get(3) })
            })
            .collect()
    }

    /// The next offset of each partition, as this transaction sees it.
    pub(super) async fn next_offsets(&self, session: &mut Session) -> Result<Vec<Applied>, Error> {
        let rows = session
            .query(
                Step::Other("read the progress"),
                "select source_key, partition, next_offset from ingest_next_offsets($1, $2)",
                &[&self.sources, &self.partitions],
            )
            .await?;
        rows.iter()
            .map(|row| {
                let source = self.source(row.get(0))?;
                Ok(Applied { partition: Partition::new(source, row.get(1)), next_offset: row.get(2) })
            })
            .collect()
    }

    async fn call(&self, session: &mut Session, step: Step, sql: &str) -> Result<Vec<Row>, Error> {
        session.query(step, sql, &[&self.sources, &self.partitions, &self.froms, &self.untils]).await
    }

    fn source(&self, key: Uuid) -> Result<Arc<Source>, Error> {
        let index = self.sources.iter().position(|known| *known == key);
        let index = index.ok_or_else(|| Error::Unexpected(format!("a claim names a source with the key {key}")))?;
        Ok(Arc::clone(&self.intervals[index].partition.source))
    }
}

/// The applied offsets of a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Coverage {
    /// Every offset below it is applied.
    pub next_offset: i64,
    /// The islands `[from, until)` applied above it, in their order.
    pub ahead: Vec<(i64, i64)>,
    /// The gaps `[from, until)` that were not filled: progress has passed them, and their messages are missing.
    pub gaps: Vec<(i64, i64)>,
}

impl Coverage {
    /// Returns `true` if all of `[from, until)` is applied.
    pub fn covers(&self, from: i64, until: i64) -> bool {
        self.missing(from, until).is_empty()
    }

    /// The parts of `[from, until)` that are not applied, in the order of offsets.
    pub fn missing(&self, from: i64, until: i64) -> Vec<(i64, i64)> {
        let mut missing = holes(from.max(self.next_offset), until, &self.ahead);
        let inside = self.gaps.iter().map(|(start, end)| (from.max(*start), until.min(*end)));
        missing.extend(inside.filter(|(start, end)| start < end));
        missing.sort_unstable();
        missing
    }
}

/// The applied offsets of partitions of a source.
pub(super) async fn coverage(
    session: &mut Session,
    source: Uuid,
    partitions: &[i32],
) -> Result<HashMap<i32, Coverage>, Error> {
    let rows = session
        .query(
            Step::Other("read the progress"),
            "select progress.partition, progress.next_offset, lower(island), upper(island)
             from ingest_progress as progress left join lateral unnest(progress.ahead) as island on true
             where progress.source_id = ingest_source_number($1) and progress.partition = any ($2::integer[])
             order by 1, 3",
            &[&source, &partitions],
        )
        .await?;
    let mut all: HashMap<i32, Coverage> = HashMap::new();
    for row in rows {
        let coverage =
            all.entry(row.get(0)).or_insert(Coverage { next_offset: row.get(1), ahead: Vec::new(), gaps: Vec::new() });
        if let (Some(from), Some(until)) = (row.get(2), row.get(3)) {
            coverage.ahead.push((from, until));
        }
    }
    let gaps = session
        .query(
            Step::Other("read the gaps"),
            "select partition, from_offset, until_offset from ingest_gap
             where source_id = ingest_source_number($1) and partition = any ($2::integer[]) and filled_at is null",
            &[&source, &partitions],
        )
        .await?;
    for row in gaps {
        if let Some(coverage) = all.get_mut(&row.get(0)) {
            coverage.gaps.push((row.get(1), row.get(2)));
        }
    }
    Ok(all)
}

/// Records `[from, until)` as lost in Kafka, if it is not applied; returns the intervals recorded.
pub(super) async fn record_gap(
    session: &mut Session,
    source: Uuid,
    partition: i32,
    (from, until): (i64, i64),
    reason: &str,
) -> Result<Vec<(i64, i64)>, Error> {
    let rows = session
        .query(
            Step::Other("record a gap"),
            "select * from ingest_record_gap($1, $2, $3, $4, $5)",
            &[&source, &partition, &from, &until, &reason],
        )
        .await?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}
