//! Acceptance: a source that has ever had an accepted message is not suspected of being a topic of the wrong format.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use tracing::debug;
use uuid::Uuid;

use crate::batch::Batch;
use crate::database::connection::session::Session;
use crate::database::connection::step::Step;
use crate::database::{Database, Error, Written};
use crate::message::Reason;
use crate::raw::Source;

/// The database's record of a source's messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Acceptance {
    /// `true` if one of them was ever accepted.
    pub is_accepted: bool,
    /// The number of its dead letters, stored or only counted.
    pub dead_letters: u64,
}

/// The database's record of a source whose partitions are to be read.
#[derive(Debug, Clone)]
pub struct Started {
    /// The next offset of each partition.
    pub next_offsets: HashMap<i32, i64>,
    /// The acceptance of its messages.
    pub acceptance: Acceptance,
}

/// The sources that the database is known to have recorded as accepted.
#[derive(Debug, Default)]
pub(in crate::database) struct AcceptedSources(Mutex<HashSet<Arc<Source>>>);

impl AcceptedSources {
    fn contains(&self, source: &Arc<Source>) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).contains(source)
    }

    fn add(&self, source: Arc<Source>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(source);
    }

    /// Forgets all: the database may be another one.
    pub(in crate::database) fn forget(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

/// Progress and acceptance of a source; a partition never read before starts at the offset given with it.
async fn start(session: &mut Session, source: Uuid, partitions: &[(i32, i64)]) -> Result<Started, Error> {
    let (numbers, firsts): (Vec<i32>, Vec<i64>) = partitions.iter().copied().unzip();
    let rows = session
        .query(
            Step::Other("read the progress"),
            "select known.is_accepted, known.dead_letters, started.partition, started.next_offset
             from ingest_acceptance($1) as known left join ingest_start($1, $2, $3) as started on true",
            &[&source, &numbers, &firsts],
        )
        .await?;
    let row = rows.first().ok_or_else(|| Error::Unexpected("the source has no acceptance".to_owned()))?;
    let acceptance = Acceptance { is_accepted: row.get(0), dead_letters: row.get::<_, i64>(1).unsigned_abs() };
    let next_offsets = rows.iter().filter_map(|row| Some((row.get::<_, Option<i32>>(2)?, row.get(3)))).collect();
    Ok(Started { next_offsets, acceptance })
}

impl Database {
    /// The progress of partitions of `source`, and the acceptance of its messages; a partition never read before starts at the
    /// offset given with it.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn start(&self, source: &Arc<Source>, partitions: &[(i32, i64)]) -> Result<Started, Error> {
        let work = async {
            let (mut session, key) = self.session_for(source).await?;
            start(&mut session, key, partitions).await
        };
        let started = self.recorded(work.await)?;
        if started.acceptance.is_accepted {
            self.accepted.add(Arc::clone(source));
        }
        Ok(started)
    }

    /// The acceptance of the messages of `source`.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn acceptance(&self, source: &Arc<Source>) -> Result<Acceptance, Error> {
        self.start(source, &[]).await.map(|started| started.acceptance)
    }

    /// Records, after the commit of a batch, the sources whose first message it has stored. If that fails the next batch
    /// does it.
    pub(in crate::database) async fn record_accepted(&self, batch: &Batch, written: &Written) {
        let refused = |source: &Arc<Source>| {
            let letters = written.dead_letters.iter();
            let by_database = |reason| matches!(reason, Reason::RejectedByDatabase | Reason::UnknownSeries);
            letters.filter(|(at, why)| at.partition.source == *source && by_database(why.reason)).count()
        };
        let unknown = batch.accepted().iter().filter(|(source, _)| !self.accepted.contains(source));
        let new: Vec<&Arc<Source>> =
            unknown.filter(|(source, count)| *count > refused(source)).map(|(source, _)| source).collect();
        if new.is_empty() {
            return;
        }
        let work = async {
            let mut session = self.session().await?;
            let ids = self.sources.resolve(&mut session, &self.pipeline, &new).await?;
            let keys = new.iter().map(|source| ids.key(source)).collect::<Result<Vec<Uuid>, Error>>()?;
            let sql = "select ingest_accept_sources($1)";
            let rows = session.query(Step::Other("record accepted sources"), sql, &[&keys]).await?;
            let recorded: HashSet<Uuid> = rows.iter().map(|row| row.get(0)).collect();
            for (source, key) in new.iter().zip(keys) {
                if recorded.contains(&key) {
                    self.accepted.add(Arc::clone(source));
                }
            }
            Ok::<(), Error>(())
        };
        if let Err(failure) = work.await {
            debug!(%failure, "that messages of a source were accepted is not recorded yet");
        }
    }
}
