//! Writes the points of dead letters, in transactions that remove their rows.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use backon::{BackoffBuilder as _, ExponentialBuilder};
use tracing::{debug, warn};
use uuid::Uuid;

use super::{Fate, Redrive, RedriveMode, Redriven};
use crate::batch::{Batch, DeadLetter};
use crate::config::UnknownSeries;
use crate::database::Database;
use crate::database::connection::session::Session;
use crate::database::connection::step::Step;
use crate::database::error::{Class, Error};
use crate::database::progress::ResolvedSources;
use crate::database::verdict::{Attempts, Verdict};
use crate::database::write::insert::Store;
use crate::database::write::series::KnownSeries;
use crate::database::write::{bisect, series};
use crate::input::Decoder;
use crate::message::Rejected;
use crate::raw::{MessageSet, MessageSetBuilder, RawMessage};

impl Database {
    /// Decodes letters and writes them, in transactions that delete their rows. `defined` holds the series that were defined
    /// before, which matters if nothing is committed; `pauses` are those between attempts while other transactions are in the
    /// way.
    ///
    /// # Errors
    /// If the database fails for a reason other than refusing a row. What earlier transactions wrote remains written, and the
    /// rest can be tried again.
    pub async fn redrive(
        &self,
        letters: &[Redrive<'_>],
        mode: RedriveMode,
        decoder: &Decoder,
        defined: &mut HashSet<String>,
        pauses: &ExponentialBuilder,
    ) -> Result<Redriven, Error> {
        let mut redriven = Redriven::default();
        let untried = |part: &[_]| Attempts {
            messages: part.len(),
            can_be_refused: true,
            copied_first: false,
            // The transaction that writes the points makes their series.
            missing_series: u32::MAX,
            canceled: 0,
        };
        let mut parts = vec![(letters, untried(letters))];
        let mut delays = pauses.build();
        while let Some((part, mut attempts)) = parts.pop() {
            let failure = match self.redrive_once(part, None, mode, decoder, defined).await {
                Ok(done) => {
                    redriven.fates.extend(done.fates);
                    redriven.points += done.points;
                    delays = pauses.build();
                    continue;
                }
                Err(failure) => failure,
            };
            match attempts.after(&failure) {
                Verdict::Retry => {
                    debug!(%failure, "another transaction was in the way, or the server has canceled this one");
                    parts.push((part, attempts));
                    tokio::time::sleep(delays.next().unwrap_or(Duration::from_secs(1))).await;
                }
                // A row of a series is refused; points that are refused are found inside the transaction.
                Verdict::Split(count) => {
                    let parts_of_it = part.chunks(part.len().div_ceil(count)).rev();
                    parts.extend(parts_of_it.map(|part| (part, untried(part))));
                }
                // One that the server does not write within its limits is a dead letter already, and must not stop the others.
                Verdict::Reject | Verdict::SetAside => {
                    redriven.fates.extend(self.reject(part, failure, mode, decoder, defined).await?);
                }
                Verdict::Wait | Verdict::ClaimFirst | Verdict::TooManyIslands | Verdict::NoProgress => {
                    return Err(failure);
                }
            }
        }
        Ok(redriven)
    }

    /// Records that these letters are rejected again.
    async fn reject(
        &self,
        letters: &[Redrive<'_>],
        why: Error,
        mode: RedriveMode,
        decoder: &Decoder,
        defined: &mut HashSet<String>,
    ) -> Result<Vec<Fate>, Error> {
        let rejected = why.rejected();
        match self.redrive_once(letters, Some(&rejected), mode, decoder, defined).await {
            Ok(done) => Ok(done.fates),
            // The letter's row refuses the new reason, and must not keep the other letters from being written.
            Err(failure) if failure.class() == Class::Data => {
                warn!(%failure, id = letters.first().map(|one| one.letter.message.id), "an attempt could not be recorded");
                Ok(letters.iter().map(|_| Fate::Rejected(rejected.clone())).collect())
            }
            Err(failure) => Err(failure),
        }
    }

    async fn redrive_once(
        &self,
        letters: &[Redrive<'_>],
        known_fault: Option<&Rejected>,
        mode: RedriveMode,
        decoder: &Decoder,
        defined: &mut HashSet<String>,
    ) -> Result<Redriven, Error> {
        let mut session = self.session().await?;
        session.begin().await?;
        let done = match known_fault {
            Some(rejected) => reject_all(&mut session, letters, rejected, mode).await,
            None => self.redrive_inside(&mut session, letters, mode, decoder, defined).await,
        };
        match done {
            Ok(done) if mode == RedriveMode::Try => {
                session.roll_back().await;
                Ok(done)
            }
            Ok(done) => {
                session.commit().await?;
                Ok(done)
            }
            Err(failure) => {
                // Of a canceled transaction the locks must be free, too, before the next attempt: it skips locked letters.
                if failure.leaves_the_connection() || failure.is_canceled() {
                    session.roll_back().await;
                }
                Err(failure)
            }
        }
    }

    async fn redrive_inside(
        &self,
        session: &mut Session,
        letters: &[Redrive<'_>],
        mode: RedriveMode,
        decoder: &Decoder,
        defined: &mut HashSet<String>,
    ) -> Result<Redriven, Error> {
        let locked = lock(session, letters).await?;
        let ours = || letters.iter().filter(|redrive| locked.contains(&redrive.letter.message.id));
        let mut batch = Batch::new(decoder.clone());
        for redrive in ours() {
            batch.push(message_set(redrive));
        }
        let ids = ResolvedSources::from_known(ours().map(|one| (Arc::clone(&one.letter.source), one.letter.source_id)));
        series::delete(session, batch.deletions()).await?;
        series::define(session, &ids, batch.definitions()).await?;
        defined.extend(batch.definitions().iter().map(|definition| definition.series.id.clone()));
        if self.unknown_series == UnknownSeries::DeadLetter {
            let mut unknown = series::without_row(session, batch.points()).await?;
            unknown.retain(|id| !defined.contains(id));
            if !unknown.is_empty() {
                batch = batch.without_series(unknown);
            }
        }
        let tombstones = series::tombstones(session, batch.points()).await?;
        if !tombstones.is_empty() {
            batch = batch.without_deleted(tombstones);
        }
        // Rows that are rolled back must not be remembered.
        series::ensure_series(session, &KnownSeries::default(), &batch).await?;
        let store = self.prepare_store(session, &batch, &ids).await?;
        let (points, refused) = copy(session, &store).await?;
        let mut rejected: HashMap<(Uuid, i32, i64), Rejected> = HashMap::new();
        for letter in batch.dead_letters().iter().chain(&refused) {
            let at = &letter.at;
            rejected.insert((ids.key(&at.partition.source)?, at.partition.number, at.offset), letter.rejected.clone());
        }
        let fates: Vec<Fate> = letters
            .iter()
            .map(|Redrive { letter, .. }| {
                if !locked.contains(&letter.message.id) {
                    return Fate::Elsewhere;
                }
                let fault = rejected.get(&(letter.source_id.key, letter.message.partition, letter.message.offset));
                fault.map_or(Fate::Written, |fault| Fate::Rejected(fault.clone()))
            })
            .collect();
        record_fates(session, letters, &fates, mode).await?;
        Ok(Redriven { fates, points })
    }
}

/// Locks the rows of letters that are unchanged since they were read, and skips those that another command has locked. Returns
/// the ids of the locked rows.
async fn lock(session: &mut Session, letters: &[Redrive<'_>]) -> Result<HashSet<i64>, Error> {
    let (ids, versions): (Vec<i64>, Vec<i64>) =
        letters.iter().map(|one| (one.letter.message.id, one.letter.version)).unzip();
    let keys: Vec<Uuid> = letters.iter().map(|one| one.letter.source_id.key).collect();
    let partitions: Vec<i32> = letters.iter().map(|one| one.letter.message.partition).collect();
    let offsets: Vec<i64> = letters.iter().map(|one| one.letter.message.offset).collect();
    #[cfg(feature = "planted-bugs")]
    if crate::planted_bugs::is_on("redrive-takes-no-lock") {
        return Ok(ids.into_iter().collect());
    }
    let rows = session
        .query(
            Step::Other("lock dead letters"),
            // Another database may have another letter under the same id.
            "select letter.id
             from ingest_dead_letter as letter
             join ingest_source as source on source.id = letter.source_id
             join unnest($1::bigint[], $2::bigint[], $3::uuid[], $4::integer[], $5::bigint[])
                 as known (id, version, source_key, partition, \"offset\") on known.id = letter.id
             where letter.xmin::text::bigint = known.version and source.key = known.source_key
                 and (letter.partition, letter.\"offset\") = (known.partition, known.\"offset\")
             order by letter.id
             for update of letter skip locked",
            &[&ids, &versions, &keys, &partitions, &offsets],
        )
        .await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// Builds the letter's message as it was read from Kafka.
fn message_set(redrive: &Redrive<'_>) -> MessageSet {
    let letter = redrive.letter;
    let mut set = MessageSetBuilder::new(Arc::clone(&letter.source), letter.message.partition, letter.message.offset);
    set.push(&RawMessage {
        offset: letter.message.offset,
        time_ms: letter.message.time_ms,
        key: letter.message.key.as_deref(),
        payload: redrive.payload,
        headers: letter.message.headers.as_deref(),
    });
    set.build(None)
}

/// Copies the points, except those of messages that the server refuses, inside an open transaction. Returns their number and
/// the refused messages.
async fn copy(session: &mut Session, store: &Store<'_>) -> Result<(usize, Vec<DeadLetter>), Error> {
    let points = store.batch().points();
    if points.is_empty() {
        return Ok((0, Vec::new()));
    }
    let reference = series::reference(session).await?;
    session.execute(Step::Other("set a savepoint"), "savepoint letters").await?;
    let copied = match store.insert_rows(session, &store.order()).await {
        Ok(rows) => (rows, Vec::new()),
        Err(failure) if failure.is_refused_row() => {
            session.execute(Step::Other("go back to a savepoint"), "rollback to savepoint letters").await?;
            let copied = bisect::copy(session, store).await?;
            (copied.rows, copied.refused)
        }
        Err(failure) => return Err(failure),
    };
    series::check_landing(session, reference).await?;
    Ok(copied)
}

async fn reject_all(
    session: &mut Session,
    letters: &[Redrive<'_>],
    rejected: &Rejected,
    mode: RedriveMode,
) -> Result<Redriven, Error> {
    let locked = lock(session, letters).await?;
    let fates: Vec<Fate> =
        letters
            .iter()
            .map(|one| {
                if locked.contains(&one.letter.message.id) { Fate::Rejected(rejected.clone()) } else { Fate::Elsewhere }
            })
            .collect();
    record_fates(session, letters, &fates, mode).await?;
    Ok(Redriven { fates, points: 0 })
}

/// Deletes the rows of what is written, and records the attempt of what is rejected.
async fn record_fates(
    session: &mut Session,
    letters: &[Redrive<'_>],
    fates: &[Fate],
    mode: RedriveMode,
) -> Result<(), Error> {
    let mut written: Vec<i64> = Vec::new();
    let (mut rejected, mut reasons, mut details): (Vec<i64>, Vec<&str>, Vec<&str>) = Default::default();
    for (redrive, fate) in letters.iter().zip(fates) {
        match fate {
            Fate::Written => written.push(redrive.letter.message.id),
            Fate::Rejected(why) => {
                rejected.push(redrive.letter.message.id);
                reasons.push(why.reason.as_str());
                details.push(&why.detail);
            }
            Fate::Elsewhere => {}
        }
    }
    if !written.is_empty() {
        let rows = session
            .query(
                Step::Other("remove dead letters"),
                "with gone as (
                     delete from ingest_dead_letter where id = any ($1) returning source_id, partition, reason
                 ), counted as (
                     insert into ingest_dead_letter_count as known (source_id, partition, reason, redriven)
                     select source_id, partition, reason, count(*) from gone group by 1, 2, 3 order by 1, 2, 3
                     on conflict (source_id, partition, reason) do update
                         set redriven = known.redriven + excluded.redriven
                 )
                 select count(*) from gone",
                &[&written],
            )
            .await?;
        let gone: i64 = rows.first().map_or(0, |row| row.get(0));
        #[cfg(feature = "planted-bugs")]
        if crate::planted_bugs::is_on("redrive-takes-no-lock") {
            return Ok(());
        }
        if gone != written.len() as i64 {
            return Err(Error::Unexpected(format!("{gone} dead letters removed of {}", written.len())));
        }
    }
    if !rejected.is_empty() && mode == RedriveMode::Write {
        session
            .query(
                Step::StoreDeadLetters,
                "update ingest_dead_letter as letter
                 set attempts = letter.attempts + 1, attempted_at = now(), reason = new.reason, detail = new.detail,
                     is_sample = false
                 from unnest($1::bigint[], $2::text[], $3::text[]) as new (id, reason, detail)
                 where letter.id = new.id",
                &[&rejected, &reasons, &details],
            )
            .await?;
    }
    Ok(())
}
