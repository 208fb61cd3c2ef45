//! Acceptance: a source that has ever had an accepted message is not suspected of being a topic of the wrong format.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use tracing::debug;
use uuid::Uuid;

use crate::database::connection::session::Session;
use crate::database::connection::step::Step;
use crate::database::{Database, Error, Written};
use crate::raw::Source;

/// The database's record of a source's messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Acceptance {
    /// `true` if one of them was ever accepted.
    pub is_accepted: bool,
    /// The number of its dead letters, stored or only counted.
    pub dead_letters: u64,
    /// `true` if the database stores more dead letters, and does not only count them.
    pub has_room: bool,
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

    /// Forgets the sources of these topics.
    fn forget_topics(&self, topics: &[String]) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).retain(|source| !topics.contains(&source.topic));
    }

    /// Forgets all: the database may be another one.
    pub(in crate::database) fn forget(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

/// Progress and acceptance of a source; a partition never read before starts at the offset given with it.
async fn start(
    session: &mut Session,
    source: Uuid,
    partitions: &[(i32, i64)],
    max_letters: i64,
) -> Result<Started, Error> {
    let (numbers, firsts): (Vec<i32>, Vec<i64>) = partitions.iter().copied().unzip();
    let rows = session
        .query(
            Step::Other("read the progress"),
            "select known.is_accepted, known.dead_letters, started.partition, started.next_offset,
                 ingest_dead_letter_capacity($4) > 0
             from ingest_acceptance($1) as known left join ingest_start($1, $2, $3) as started on true",
            &[&source, &numbers, &firsts, &max_letters],
        )
        .await?;
    let row = rows.first().ok_or_else(|| Error::Unexpected("the source has no acceptance".to_owned()))?;
    let acceptance =
        Acceptance { is_accepted: row.get(0), dead_letters: row.get::<_, i64>(1).unsigned_abs(), has_room: row.get(4) };
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
            start(&mut session, key, partitions, self.letters.max_rows).await
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

    /// Forgets what is known of the sources of these topics, which are not read any more.
    pub fn forget_accepted(&self, topics: &[String]) {
        self.accepted.forget_topics(topics);
    }

    /// Records, after the commit of a batch, the sources whose first message it has stored. If that fails the next batch
    /// does it.
    pub(in crate::database) async fn record_accepted(&self, written: &Written) {
        let accepted = written.tallies.iter().filter(|(_, tally)| tally.accepted > 0).map(|(of, _)| &of.source);
        let mut new: Vec<&Arc<Source>> = accepted.filter(|source| !self.accepted.contains(source)).collect();
        new.sort_unstable();
        new.dedup();
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
