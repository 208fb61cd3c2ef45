//! The rows of `ingest_dead_letter`: stored with the claim, found, sent again, removed, and published.
//!
//! A letter's row is the claim on sending it again: one transaction locks and removes the row, and writes the points. Where
//! the row is there its points are not, so that a kill at any time neither loses nor doubles them, and two commands at once
//! pass over each other's rows.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use backon::{BackoffBuilder as _, ExponentialBuilder};
use serde::Serialize;
use tokio_postgres::Row;
use tracing::{debug, warn};
use uuid::Uuid;

use super::Database;
use super::error::{Class, Error};
use super::progress::{Resolved, SourceId};
use crate::batch::{Batch, DeadLetter};
use crate::config::{Config, UnknownSeries};
use crate::database::NO_TIME;
use crate::database::connection::session::Session;
use crate::database::connection::step::{COMMIT_STEP, COUNT_STEP, LETTERS_STEP};
use crate::database::verdict::{Attempts, Failed, Verdict, verdict};
use crate::database::write::insert::Store;
use crate::database::write::series::KnownSeries;
use crate::database::write::{bisect, series};
use crate::message::{Decoder, Rejected};
use crate::raw::Kind;
use crate::raw::{MessageAt, MessageSet, MessageSetBuilder, RawMessage, Source};
use crate::telemetry::escaped;
use crate::telemetry::log_limit::LogLimit;

/// How dead letters are stored.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rules {
    /// The rows beyond which they are only counted.
    max_rows: i64,
    /// Whether a copy of each is to be published.
    publish: bool,
}

impl Rules {
    pub(super) fn new(config: &Config) -> Self {
        Self {
            max_rows: i64::try_from(config.dead_letter.max_rows).unwrap_or(i64::MAX),
            publish: !config.kafka.dead_letter_topic.is_empty(),
        }
    }
}

/// How long a refused letter is shown.
const SHOWN_FOR: Duration = Duration::from_secs(300);

/// What is known of letters that the server refuses.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    log: LogLimit,
    /// What became of the last one, and when.
    last: Mutex<Option<(String, Instant)>>,
}

impl Refusals {
    /// Notes what becomes of a refused letter, or of several.
    fn note(&self, failure: &Error, what_becomes: &'static str, at: &MessageAt) {
        let text = format!("{what_becomes}: {failure}");
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some((text, Instant::now()));
        if let Some(unlogged) = self.log.happened(what_becomes, 1) {
            let topic = escaped(&at.partition.source.topic);
            let (partition, offset) = (at.partition.number, at.offset);
            warn!(%failure, %topic, partition, offset, unlogged, "{what_becomes}");
        }
    }

    fn last(&self) -> Option<String> {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner).clone();
        last.filter(|(_, at)| at.elapsed() < SHOWN_FOR).map(|(text, _)| text)
    }

    fn clear(&self) {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}

/// How many letters of a transaction are not stored.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct NotStored {
    /// Those that are counted, with those that were samples until now.
    pub(super) only_counted: u64,
    /// Those that are not even counted.
    pub(super) not_counted: u64,
}

/// What is done about letters that the server refuses: a constraint or a trigger of an operator, or the database's encoding, may
/// be in the way, and progress must not stop at the place of last resort.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OnRefusal {
    /// The transaction fails. There is no savepoint, and no cost.
    Fail,
    /// Each refused letter is stored with less of it, down to its count.
    StoreLess,
}

/// How much of a letter is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Extent {
    Whole,
    /// Its detail as printable ASCII.
    Escaped,
    /// Without the message's key, headers and payload; their lengths stay, so that they can be read from Kafka again.
    Bare,
}

impl Extent {
    /// What is tried after this extent was refused; `None` if only counting is left.
    fn less(self, failure: &Error) -> Option<Self> {
        match self {
            // It took too long, which its detail did not cause.
            Self::Whole if failure.is_canceled() => Some(Self::Bare),
            Self::Whole => Some(Self::Escaped),
            Self::Escaped => Some(Self::Bare),
            Self::Bare => None,
        }
    }

    fn of_message(self, part: Option<&[u8]>) -> Option<&[u8]> {
        part.filter(|_| self != Self::Bare)
    }

    fn detail(self, detail: &str) -> Cow<'_, str> {
        /// The longest detail of a letter that was refused once: an index of an operator may limit it.
        const MAX_DETAIL: usize = 500;
        if self == Self::Whole {
            return detail.into();
        }
        let escape = |character: char| {
            let is_plain = character.is_ascii_graphic() || character == ' ';
            if is_plain { character.to_string() } else { character.escape_default().to_string() }
        };
        let mut text: String = detail.chars().map(escape).collect();
        text.truncate(MAX_DETAIL);
        text.into()
    }
}

/// A letter with its source's key and whether it is a sample.
type Stored<'a> = (&'a DeadLetter, Uuid, bool);

/// What is only counted of one reason in one partition.
struct Counted<'a> {
    count: i64,
    first: i64,
    last: i64,
    /// One of them.
    at: &'a MessageAt,
}

/// Source, partition and reason.
type CountKey<'a> = (Uuid, i32, &'a str);

type Counts<'a> = BTreeMap<CountKey<'a>, Counted<'a>>;

type Count<'a> = (&'a CountKey<'a>, &'a Counted<'a>);

fn add_to_counts<'a>(counts: &mut Counts<'a>, letter: &'a DeadLetter, source: Uuid) {
    let offset = letter.at.offset;
    let key = (source, letter.at.partition.number, letter.rejected.reason.as_str());
    let sum = counts.entry(key).or_insert(Counted { count: 0, first: offset, last: offset, at: &letter.at });
    sum.count += 1;
    sum.first = sum.first.min(offset);
    sum.last = sum.last.max(offset);
}

/// Stores letters in the transaction of their claim, and after it: whoever holds a partition's progress is the only one to
/// change its counts. Beyond the bound letters are counted, and the last one of each partition and reason is stored.
pub(super) async fn insert(
    session: &mut Session,
    ids: &Resolved,
    letters: &[&DeadLetter],
    rules: Rules,
    (on_refusal, refusals): (OnRefusal, &Refusals),
) -> Result<NotStored, Error> {
    if letters.is_empty() {
        return Ok(NotStored::default());
    }
    // What follows is for these messages only, so that no other is to wait long for it.
    let sql = "select ingest_dead_letter_capacity($1)
               from (select set_config('lock_timeout', $2, true) as told offset 0) as wait where told is not null";
    let room = session.query("look for room for dead letters", sql, &[&rules.max_rows, &session.row_wait()]).await?;
    let room: i64 = room.first().map_or(0, |row| row.get(0));
    let room = usize::try_from(room).unwrap_or(0).min(letters.len());
    let mut stored: Vec<Stored<'_>> = Vec::new();
    for letter in &letters[..room] {
        stored.push((letter, ids.key(&letter.at.partition.source)?, false));
    }
    let mut samples: BTreeMap<CountKey<'_>, &DeadLetter> = BTreeMap::new();
    let mut counted = Counts::new();
    for letter in &letters[room..] {
        let key = (ids.key(&letter.at.partition.source)?, letter.at.partition.number, letter.rejected.reason.as_str());
        if let Some(before) = samples.insert(key, letter) {
            add_to_counts(&mut counted, before, key.0);
        }
    }
    stored.extend(samples.into_iter().map(|((source, ..), letter)| (letter, source, true)));
    let (replaced, not_counted) = match on_refusal {
        OnRefusal::Fail => {
            let replaced = store(session, &stored, rules.publish, Extent::Whole).await?;
            count(session, &counted.iter().collect::<Vec<_>>()).await?;
            refusals.clear();
            (replaced, 0)
        }
        OnRefusal::StoreLess => {
            // Deferred triggers and constraints fire now for what was written before, and then with each statement.
            session.execute(COMMIT_STEP, "set constraints all immediate").await?;
            let replaced = store_less(session, &stored, rules.publish, &mut counted, refusals).await?;
            (replaced, count_less(session, &counted, refusals).await?)
        }
    };
    let counted = counted.values().map(|sum| sum.count).sum::<i64>().unsigned_abs();
    Ok(NotStored { only_counted: counted - not_counted + replaced, not_counted })
}

/// Stores letters as they are, or as much of each as the server takes, with a savepoint before each attempt; those of which it
/// takes nothing are added to `counted`. Returns how many samples they have replaced.
async fn store_less<'a>(
    session: &mut Session,
    letters: &[Stored<'a>],
    publish: bool,
    counted: &mut Counts<'a>,
    refusals: &Refusals,
) -> Result<u64, Error> {
    let mut replaced = 0;
    let mut parts = vec![(letters, Extent::Whole)];
    session.execute("set a savepoint", "savepoint letters").await?;
    while let Some((part, extent)) = parts.pop() {
        let failure = match store(session, part, publish, extent).await {
            Ok(samples) => {
                replaced += samples;
                session.execute("set the next savepoint", "release savepoint letters; savepoint letters").await?;
                continue;
            }
            // A smaller batch may have the time.
            Err(failure) if failure.is_canceled() && part.len() > 1 => return Err(failure),
            Err(failure) if failure.is_refused_letter() => failure,
            Err(failure) => return Err(failure),
        };
        session.execute("go back to a savepoint", "rollback to savepoint letters").await?;
        let [(letter, source, _)] = part else {
            let (first, last) = part.split_at(part.len() / 2);
            parts.extend([(last, extent), (first, extent)]);
            continue;
        };
        match extent.less(&failure) {
            Some(less) => {
                refusals.note(&failure, "a dead letter is refused; trying to store less of it", &letter.at);
                parts.push((part, less));
            }
            None => {
                refusals.note(&failure, "a dead letter is refused; it is only counted", &letter.at);
                add_to_counts(counted, letter, *source);
            }
        }
    }
    session.execute("release a savepoint", "release savepoint letters").await?;
    Ok(replaced)
}

/// Stores letters; returns how many samples they have replaced.
async fn store(session: &mut Session, letters: &[Stored<'_>], publish: bool, extent: Extent) -> Result<u64, Error> {
    if letters.is_empty() {
        return Ok(0);
    }
    let sources: Vec<Uuid> = letters.iter().map(|(_, source, _)| *source).collect();
    let partitions: Vec<i32> = letters.iter().map(|(l, ..)| l.at.partition.number).collect();
    let offsets: Vec<i64> = letters.iter().map(|(l, ..)| l.at.offset).collect();
    let times: Vec<i64> = letters.iter().map(|(l, ..)| l.at.time_ms.unwrap_or(NO_TIME)).collect();
    let keys: Vec<Option<&[u8]>> = letters.iter().map(|(l, ..)| extent.of_message(l.key.as_deref())).collect();
    let headers: Vec<Option<&[u8]>> = letters.iter().map(|(l, ..)| extent.of_message(l.headers.as_deref())).collect();
    let payloads: Vec<Option<&[u8]>> = letters.iter().map(|(l, ..)| extent.of_message(l.payload.as_deref())).collect();
    let lengths: Vec<i64> = letters.iter().map(|(l, ..)| l.payload_bytes as i64).collect();
    let reasons: Vec<&str> = letters.iter().map(|(l, ..)| l.rejected.reason.as_str()).collect();
    let details: Vec<Cow<'_, str>> = letters.iter().map(|(l, ..)| extent.detail(&l.rejected.detail)).collect();
    let length = |bytes: Option<usize>| bytes.map(|bytes| bytes as i64);
    let key_bytes: Vec<Option<i64>> = letters.iter().map(|(l, ..)| length(l.key_bytes)).collect();
    let headers_bytes: Vec<Option<i64>> = letters.iter().map(|(l, ..)| length(l.headers_bytes)).collect();
    let samples: Vec<bool> = letters.iter().map(|(.., is_sample)| *is_sample).collect();
    let rows = session
        .query(
            LETTERS_STEP,
            "select ingest_add_dead_letters($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)",
            &[
                &sources,
                &partitions,
                &offsets,
                &times,
                &keys,
                &headers,
                &payloads,
                &lengths,
                &reasons,
                &details,
                &samples,
                &publish,
                &key_bytes,
                &headers_bytes,
            ],
        )
        .await?;
    Ok(rows.first().map_or(0, |row| row.get::<_, i64>(0).unsigned_abs()))
}

/// Counts letters, and passes over counts that the server refuses, with a savepoint before each attempt. Returns how many letters
/// these are.
async fn count_less(session: &mut Session, counted: &Counts<'_>, refusals: &Refusals) -> Result<u64, Error> {
    let all: Vec<Count<'_>> = counted.iter().collect();
    let mut parts = vec![&all[..]];
    let mut refused = 0;
    session.execute("set a savepoint", "savepoint counts").await?;
    while let Some(part) = parts.pop() {
        let failure = match count(session, part).await {
            Ok(()) => {
                session.execute("set the next savepoint", "release savepoint counts; savepoint counts").await?;
                continue;
            }
            Err(failure) if failure.is_refused_letter() => failure,
            Err(failure) => return Err(failure),
        };
        session.execute("go back to a savepoint", "rollback to savepoint counts").await?;
        let [(_, sum)] = part else {
            let (first, last) = part.split_at(part.len() / 2);
            parts.extend([last, first]);
            continue;
        };
        refused += sum.count.unsigned_abs();
        refusals.note(&failure, "dead letters are refused, and so is their count; they are in the log only", sum.at);
    }
    session.execute("release a savepoint", "release savepoint counts").await?;
    Ok(refused)
}

async fn count(session: &mut Session, counted: &[Count<'_>]) -> Result<(), Error> {
    if counted.is_empty() {
        return Ok(());
    }
    let sources: Vec<Uuid> = counted.iter().map(|((source, ..), _)| *source).collect();
    let partitions: Vec<i32> = counted.iter().map(|((_, partition, _), _)| *partition).collect();
    let reasons: Vec<&str> = counted.iter().map(|((.., reason), _)| *reason).collect();
    let counts: Vec<i64> = counted.iter().map(|(_, sum)| sum.count).collect();
    let firsts: Vec<i64> = counted.iter().map(|(_, sum)| sum.first).collect();
    let lasts: Vec<i64> = counted.iter().map(|(_, sum)| sum.last).collect();
    session
        .query(
            COUNT_STEP,
            "select ingest_count_dead_letters($1, $2, $3, $4, $5, $6)",
            &[&sources, &partitions, &reasons, &counts, &firsts, &lasts],
        )
        .await?;
    Ok(())
}

/// Which dead letters of the pipeline are meant. Intervals are half-open.
#[derive(Debug, Clone, Default)]
pub struct LetterFilter {
    /// Just these; all where there are none.
    pub ids: Vec<i64>,
    /// Of this reason.
    pub reason: Option<String>,
    /// Of this topic.
    pub topic: Option<String>,
    /// Of this partition.
    pub partition: Option<i32>,
    /// From this offset on.
    pub from_offset: Option<i64>,
    /// Below this offset.
    pub until_offset: Option<i64>,
    /// Whose message was made at this time or later, in milliseconds since the Unix epoch.
    pub from_ms: Option<i64>,
    /// Whose message was made before this time.
    pub until_ms: Option<i64>,
    /// That became dead letters at this time or later.
    pub created_from_ms: Option<i64>,
    /// That became dead letters before this time.
    pub created_until_ms: Option<i64>,
    /// With at least so many attempts.
    pub from_attempts: Option<i32>,
    /// With fewer attempts.
    pub until_attempts: Option<i32>,
}

/// A row of `ingest_dead_letter`.
#[derive(Debug, Clone)]
pub struct Letter {
    /// Its id.
    pub id: i64,
    /// Where the message stands.
    pub source: Arc<Source>,
    /// The partition's number.
    pub partition: i32,
    /// Kafka's offset.
    pub offset: i64,
    /// Kafka's time, in milliseconds since the Unix epoch; `None` if the message has none.
    pub time_ms: Option<i64>,
    /// The head of the key.
    pub key: Option<Vec<u8>>,
    /// The key's full length, in bytes; `None` if it has none.
    pub key_bytes: Option<i64>,
    /// The head of the headers, in the form of [`headers`](crate::raw::headers).
    pub headers: Option<Vec<u8>>,
    /// The headers' full length in that form, in bytes; `None` as with the key.
    pub headers_bytes: Option<i64>,
    /// The head of the payload.
    pub payload: Option<Vec<u8>>,
    /// The payload's full length, in bytes.
    pub payload_bytes: i64,
    /// A word of the closed list.
    pub reason: String,
    /// Where the fault is.
    pub detail: String,
    /// When the row was made, in milliseconds since the Unix epoch.
    pub created_ms: i64,
    /// How often it was sent again in vain.
    pub attempts: i32,
    /// When the last of these attempts was.
    pub attempted_ms: Option<i64>,
    /// Whether it was stored as a sample, beyond the bound.
    pub is_sample: bool,
    source_id: SourceId,
    version: i64,
}

/// Which dead letter is meant. Another database may have another letter under the same id.
#[derive(Debug, Clone, Copy)]
pub struct LetterId {
    id: i64,
    source_key: Uuid,
    partition: i32,
    offset: i64,
}

impl Letter {
    /// What [`Database::purge_letters`] knows it by.
    pub fn identity(&self) -> LetterId {
        LetterId { id: self.id, source_key: self.source_id.key, partition: self.partition, offset: self.offset }
    }

    /// The parts of the message of which only the head is there.
    pub fn cut(&self) -> Vec<Cut> {
        cut([
            ("key", self.key.as_deref(), self.key_bytes),
            ("headers", self.headers.as_deref(), self.headers_bytes),
            ("payload", self.payload.as_deref(), Some(self.payload_bytes)),
        ])
    }
}

/// A part of a message of which only the head is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cut {
    /// `key`, `headers` or `payload`.
    pub part: &'static str,
    /// The bytes that are there.
    pub kept: usize,
    /// Its full length, in bytes.
    pub bytes: i64,
}

/// A part's name, what is there of it, and its full length.
type Part<'a> = (&'static str, Option<&'a [u8]>, Option<i64>);

fn cut(parts: [Part<'_>; 3]) -> Vec<Cut> {
    let of = |(part, head, bytes): Part<'_>| {
        // A part that is not there at all may have been refused with the letter.
        let (kept, bytes) = (head.map_or(0, <[u8]>::len), bytes?);
        ((kept as i64) < bytes).then_some(Cut { part, kept, bytes })
    };
    parts.into_iter().filter_map(of).collect()
}

/// What is known of the dead letters of one reason of one partition.
#[derive(Debug, Clone, Serialize)]
pub struct LetterCount {
    /// The topic's name.
    pub topic: String,
    /// The partition's number.
    pub partition: i32,
    /// A word of the closed list.
    pub reason: String,
    /// The rows there are.
    pub kept: i64,
    /// Those that were only counted.
    pub only_counted: i64,
    /// The offsets between which those lie, both included.
    pub counted_between: Option<(i64, i64)>,
    /// Those that were sent again and are written.
    pub redriven: i64,
}

/// A letter to be written again.
#[derive(Debug)]
pub struct Redrive<'a> {
    /// Its row.
    pub letter: &'a Letter,
    /// The whole payload.
    pub payload: Option<&'a [u8]>,
}

/// What became of a letter that was sent again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    /// It is written, and its row is gone.
    Written,
    /// It cannot be written, and its row stays.
    Rejected(Rejected),
    /// Its row is gone, was changed, or is held by another command.
    Elsewhere,
}

/// What became of some letters, in their order, and the points that were written.
#[derive(Debug, Default)]
pub struct Redriven {
    /// One for each letter.
    pub fates: Vec<Fate>,
    /// The points of those that are written.
    pub points: usize,
}

/// Whether letters are written, or only tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RedriveMode {
    /// They are written; those that are rejected have one more attempt, and the new reason.
    Write,
    /// They are written; those that are rejected stay as they are.
    WriteOnly,
    /// All is done but the COMMIT.
    Try,
}

/// A dead letter of which a copy is to be published.
#[derive(Debug)]
pub struct LetterToPublish {
    /// Its id.
    pub id: i64,
    /// The cluster of its topic, the topic's name and the topic's id.
    pub source: (String, String, String),
    /// The partition's number.
    pub partition: i32,
    /// Kafka's offset.
    pub offset: i64,
    /// Kafka's time; `None` where the message has none.
    pub time_ms: Option<i64>,
    /// The head of the key.
    pub key: Option<Vec<u8>>,
    /// The key's full length, in bytes.
    pub key_bytes: Option<i64>,
    /// The head of the headers, in the form of [`headers`](crate::raw::headers).
    pub headers: Option<Vec<u8>>,
    /// The headers' full length in that form, in bytes.
    pub headers_bytes: Option<i64>,
    /// The head of the payload.
    pub payload: Option<Vec<u8>>,
    /// The payload's full length, in bytes.
    pub payload_bytes: i64,
    /// A word of the closed list.
    pub reason: String,
    /// Where the fault is.
    pub detail: String,
}

impl LetterToPublish {
    /// The parts of the message of which only the head is there.
    pub fn cut(&self) -> Vec<Cut> {
        cut([
            ("key", self.key.as_deref(), self.key_bytes),
            ("headers", self.headers.as_deref(), self.headers_bytes),
            ("payload", self.payload.as_deref(), Some(self.payload_bytes)),
        ])
    }
}

const FILTERED: &str = "
    from ingest_dead_letter as letter join ingest_source as source on source.id = letter.source_id
    where source.pipeline = $1 and letter.id > $2
        and (cardinality($3::bigint[]) = 0 or letter.id = any ($3))
        and ($4::text is null or letter.reason = $4)
        and ($5::text is null or source.topic = $5)
        and ($6::integer is null or letter.partition = $6)
        and ($7::bigint is null or letter.\"offset\" >= $7)
        and ($8::bigint is null or letter.\"offset\" < $8)
        and ($9::bigint is null or letter.message_time >= to_timestamp($9 / 1000.0))
        and ($10::bigint is null or letter.message_time < to_timestamp($10 / 1000.0))
        and ($11::bigint is null or letter.created_at >= to_timestamp($11 / 1000.0))
        and ($12::bigint is null or letter.created_at < to_timestamp($12 / 1000.0))
        and ($13::integer is null or letter.attempts >= $13)
        and ($14::integer is null or letter.attempts < $14)";

impl Database {
    /// What became lately of a dead letter that the server has refused; `None` since letters are stored as they are.
    pub fn refused_letters(&self) -> Option<String> {
        self.letter_refusals.last()
    }

    async fn filtered(
        &self,
        step: &'static str,
        what: &str,
        filter: &LetterFilter,
        above: i64,
        end: &str,
    ) -> Result<Vec<Row>, Error> {
        self.session()
            .await?
            .query(
                step,
                &format!("select {what} {FILTERED} {end}"),
                &[
                    &self.pipeline.as_ref(),
                    &above,
                    &filter.ids,
                    &filter.reason,
                    &filter.topic,
                    &filter.partition,
                    &filter.from_offset,
                    &filter.until_offset,
                    &filter.from_ms,
                    &filter.until_ms,
                    &filter.created_from_ms,
                    &filter.created_until_ms,
                    &filter.from_attempts,
                    &filter.until_attempts,
                ],
            )
            .await
    }

    /// The next dead letters above an id, in the order of their ids. `kind_of` says what the messages of a topic are where
    /// they do not say.
    ///
    /// # Errors
    /// Where the database does not answer.
    pub async fn letters(
        &self,
        filter: &LetterFilter,
        above: i64,
        limit: usize,
        kind_of: impl Fn(&str) -> Kind,
    ) -> Result<Vec<Letter>, Error> {
        let what = "letter.id, letter.source_id, source.cluster_id, source.topic, source.topic_id, letter.partition,
                    letter.\"offset\", (extract(epoch from letter.message_time) * 1000)::bigint, letter.key,
                    letter.headers, letter.payload, letter.payload_bytes, letter.reason, coalesce(letter.detail, ''),
                    (extract(epoch from letter.created_at) * 1000)::bigint, letter.attempts,
                    (extract(epoch from letter.attempted_at) * 1000)::bigint, letter.is_sample,
                    letter.xmin::text::bigint, letter.key_bytes, letter.headers_bytes, source.key";
        let rows = self
            .filtered("read dead letters", what, filter, above, &format!("order by letter.id limit {limit}"))
            .await?;
        let mut sources: HashMap<i32, Arc<Source>> = HashMap::new();
        Ok(rows
            .iter()
            .map(|row| {
                let source_id = SourceId { number: row.get(1), key: row.get(21) };
                let source = sources.entry(source_id.number).or_insert_with(|| {
                    let topic: String = row.get(3);
                    Arc::new(Source { kind: kind_of(&topic), cluster_id: row.get(2), topic, topic_id: row.get(4) })
                });
                Letter {
                    id: row.get(0),
                    source: Arc::clone(source),
                    partition: row.get(5),
                    offset: row.get(6),
                    time_ms: row.get::<_, Option<i64>>(7).filter(|time| *time != NO_TIME),
                    key: row.get(8),
                    headers: row.get(9),
                    payload: row.get(10),
                    payload_bytes: row.get(11),
                    reason: row.get(12),
                    detail: row.get(13),
                    created_ms: row.get(14),
                    attempts: row.get(15),
                    attempted_ms: row.get(16),
                    is_sample: row.get(17),
                    source_id,
                    version: row.get(18),
                    key_bytes: row.get(19),
                    headers_bytes: row.get(20),
                }
            })
            .collect())
    }

    /// The number of dead letters.
    ///
    /// # Errors
    /// Where the database does not answer.
    pub async fn count_letters(&self, filter: &LetterFilter) -> Result<u64, Error> {
        let rows = self.filtered("count dead letters", "count(*)", filter, i64::MIN, "").await?;
        Ok(rows.first().map_or(0, |row| row.get::<_, i64>(0).unsigned_abs()))
    }

    /// What is known of the dead letters of each partition and reason of the pipeline.
    ///
    /// # Errors
    /// Where the database does not answer.
    pub async fn letter_counts(&self) -> Result<Vec<LetterCount>, Error> {
        let rows = self
            .session()
            .await?
            .query(
                "read the counts of dead letters",
                "select source.topic, known.partition, known.reason, known.kept, known.only_counted,
                        known.first_offset, known.last_offset, known.redriven
                 from ingest_dead_letter_count as known join ingest_source as source on source.id = known.source_id
                 where source.pipeline = $1
                 order by source.topic, source.id, known.partition, known.reason",
                &[&self.pipeline.as_ref()],
            )
            .await?;
        Ok(rows
            .iter()
            .map(|row| LetterCount {
                topic: row.get(0),
                partition: row.get(1),
                reason: row.get(2),
                kept: row.get(3),
                only_counted: row.get(4),
                counted_between: row.get::<_, Option<i64>>(5).zip(row.get(6)),
                redriven: row.get(7),
            })
            .collect())
    }

    /// Removes dead letters; returns how many of them were there.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn purge_letters(&self, letters: &[LetterId]) -> Result<u64, Error> {
        let ids: Vec<i64> = letters.iter().map(|letter| letter.id).collect();
        let keys: Vec<Uuid> = letters.iter().map(|letter| letter.source_key).collect();
        let partitions: Vec<i32> = letters.iter().map(|letter| letter.partition).collect();
        let offsets: Vec<i64> = letters.iter().map(|letter| letter.offset).collect();
        // Another database may have another letter under the same id.
        let sql = "delete from ingest_dead_letter as letter
                   using unnest($1::bigint[], $2::uuid[], $3::integer[], $4::bigint[])
                       as known (id, source_key, partition, \"offset\")
                   join ingest_source as source on source.key = known.source_key
                   where letter.id = known.id and letter.source_id = source.id
                       and (letter.partition, letter.\"offset\") = (known.partition, known.\"offset\")
                   returning letter.id";
        let rows =
            self.session().await?.query("remove dead letters", sql, &[&ids, &keys, &partitions, &offsets]).await?;
        Ok(rows.len() as u64)
    }

    /// Forgets the numbers of dead letters that were only counted; the answer is their sum.
    ///
    /// # Errors
    /// Where the database does not answer.
    pub async fn purge_letter_counts(&self, filter: &LetterFilter) -> Result<u64, Error> {
        let rows = self
            .session()
            .await?
            .query(
                "forget counts of dead letters",
                "with chosen as (
                     select known.source_id, known.partition, known.reason, known.only_counted
                     from ingest_dead_letter_count as known join ingest_source as source on source.id = known.source_id
                     where source.pipeline = $1 and known.only_counted > 0
                         and ($2::text is null or known.reason = $2) and ($3::text is null or source.topic = $3)
                         and ($4::integer is null or known.partition = $4)
                     order by 1, 2, 3 for update of known
                 ), forgotten as (
                     update ingest_dead_letter_count as known
                     set only_counted = 0, first_offset = null, last_offset = null
                     from chosen where (known.source_id, known.partition, known.reason)
                         = (chosen.source_id, chosen.partition, chosen.reason)
                 )
                 select coalesce(sum(only_counted), 0)::bigint from chosen",
                &[&self.pipeline.as_ref(), &filter.reason, &filter.topic, &filter.partition],
            )
            .await?;
        Ok(rows.first().map_or(0, |row| row.get::<_, i64>(0).unsigned_abs()))
    }

    /// Decodes letters and writes them, in transactions that remove their rows. `defined` has the series that were defined
    /// before, which counts where nothing is committed; `pauses` are those between attempts while others are in the way.
    ///
    /// # Errors
    /// Those that refuse no row. Letters of transactions before it stay written, and the rest can be tried again.
    pub async fn redrive(
        &self,
        letters: &[Redrive<'_>],
        mode: RedriveMode,
        decoder: &mut Decoder,
        defined: &mut HashSet<String>,
        pauses: &ExponentialBuilder,
    ) -> Result<Redriven, Error> {
        let mut redriven = Redriven::default();
        let mut parts = vec![letters];
        let mut delays = pauses.build();
        while let Some(part) = parts.pop() {
            let failure = match self.redrive_once(part, None, mode, decoder, defined).await {
                Ok(done) => {
                    redriven.fates.extend(done.fates);
                    redriven.points += done.points;
                    delays = pauses.build();
                    continue;
                }
                Err(failure) => failure,
            };
            let attempts = Attempts {
                messages: part.len(),
                can_be_refused: true,
                copied_first: false,
                // The transaction that writes the points makes their series.
                missing_series: u32::MAX,
                canceled: 0,
            };
            match verdict(Failed::new(&failure, part.len()), attempts) {
                Verdict::Retry if failure.class() == Class::Retry => {
                    debug!(%failure, "another transaction was in the way");
                    parts.push(part);
                    tokio::time::sleep(delays.next().unwrap_or(Duration::from_secs(1))).await;
                }
                // A row of a series is refused; points that are refused are found inside the transaction.
                Verdict::Split(_) => {
                    let (first, last) = part.split_at(part.len() / 2);
                    parts.extend([last, first]);
                }
                Verdict::Reject | Verdict::SetAside => {
                    redriven.fates.extend(self.reject(part, failure, mode, decoder, defined).await?);
                }
                _ => return Err(failure),
            }
        }
        Ok(redriven)
    }

    /// Notes that these letters are rejected again.
    async fn reject(
        &self,
        letters: &[Redrive<'_>],
        why: Error,
        mode: RedriveMode,
        decoder: &mut Decoder,
        defined: &mut HashSet<String>,
    ) -> Result<Vec<Fate>, Error> {
        let rejected = why.rejected();
        match self.redrive_once(letters, Some(&rejected), mode, decoder, defined).await {
            Ok(done) => Ok(done.fates),
            // The letter's row refuses the new reason, and must not keep the other letters from being written.
            Err(failure) if failure.class() == Class::Data => {
                warn!(%failure, id = letters.first().map(|one| one.letter.id), "an attempt could not be noted");
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
        decoder: &mut Decoder,
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
                if failure.leaves_the_connection() {
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
        decoder: &mut Decoder,
        defined: &mut HashSet<String>,
    ) -> Result<Redriven, Error> {
        let locked = lock(session, letters).await?;
        let ours = || letters.iter().filter(|redrive| locked.contains(&redrive.letter.id));
        decoder.reject_series([]);
        let mut batch = Batch::default();
        for redrive in ours() {
            batch.push(message_set(redrive), decoder);
        }
        let ids = Resolved::from_known(ours().map(|one| (Arc::clone(&one.letter.source), one.letter.source_id)));
        series::define(session, &ids, batch.definitions()).await?;
        defined.extend(batch.definitions().iter().map(|definition| definition.series.id.clone()));
        if self.unknown_series == UnknownSeries::DeadLetter {
            let mut unknown = series::without_row(session, batch.points()).await?;
            unknown.retain(|id| !defined.contains(id));
            if !unknown.is_empty() {
                decoder.reject_series(unknown);
                batch = batch.decoded_again(decoder);
            }
        }
        // What is rolled back must not be known as being there.
        series::see(session, &KnownSeries::default(), batch.points()).await?;
        let store = self.store(session, &batch, &ids).await?;
        let (points, refused) = copy(session, &store).await?;
        let mut rejected: HashMap<(Uuid, i32, i64), Rejected> = HashMap::new();
        for letter in batch.dead_letters().iter().chain(&refused) {
            let at = &letter.at;
            rejected.insert((ids.key(&at.partition.source)?, at.partition.number, at.offset), letter.rejected.clone());
        }
        let fates: Vec<Fate> = letters
            .iter()
            .map(|Redrive { letter, .. }| {
                if !locked.contains(&letter.id) {
                    return Fate::Elsewhere;
                }
                let fault = rejected.get(&(letter.source_id.key, letter.partition, letter.offset));
                fault.map_or(Fate::Written, |fault| Fate::Rejected(fault.clone()))
            })
            .collect();
        note_fates(session, letters, &fates, mode).await?;
        Ok(Redriven { fates, points })
    }

    /// Hands the first dead letters behind this id of which a copy is to be published to `publish`, if there are any, and notes
    /// those that it answers as done.
    ///
    /// # Errors
    /// Where the database does not answer; copies may then be published twice.
    pub async fn publish_letters(
        &self,
        after: i64,
        limit: i32,
        publish: impl AsyncFnOnce(Vec<LetterToPublish>) -> Vec<i64>,
    ) -> Result<(), Error> {
        let mut session = self.session().await?;
        session.begin().await?;
        let rows = session
            .query(
                "read dead letters to publish",
                "select * from ingest_dead_letters_to_publish($1, $2, $3)",
                &[&self.pipeline.as_ref(), &after, &limit],
            )
            .await?;
        let letters: Vec<LetterToPublish> = rows
            .iter()
            .map(|row| LetterToPublish {
                id: row.get(0),
                source: (row.get(1), row.get(2), row.get(3)),
                partition: row.get(4),
                offset: row.get(5),
                time_ms: row.get::<_, Option<i64>>(6).filter(|time| *time != NO_TIME),
                key: row.get(7),
                headers: row.get(8),
                payload: row.get(9),
                payload_bytes: row.get(10),
                reason: row.get(11),
                detail: row.get::<_, Option<String>>(12).unwrap_or_default(),
                key_bytes: row.get(13),
                headers_bytes: row.get(14),
            })
            .collect();
        let done = if letters.is_empty() { Vec::new() } else { publish(letters).await };
        if !done.is_empty() {
            session.query("note published letters", "select ingest_mark_dead_letters_published($1)", &[&done]).await?;
        }
        session.commit().await
    }
}

/// Locks the rows of letters that are as they were read; those that another command has locked are left out.
async fn lock(session: &mut Session, letters: &[Redrive<'_>]) -> Result<HashSet<i64>, Error> {
    let (ids, versions): (Vec<i64>, Vec<i64>) = letters.iter().map(|one| (one.letter.id, one.letter.version)).unzip();
    let keys: Vec<Uuid> = letters.iter().map(|one| one.letter.source_id.key).collect();
    let partitions: Vec<i32> = letters.iter().map(|one| one.letter.partition).collect();
    let offsets: Vec<i64> = letters.iter().map(|one| one.letter.offset).collect();
    #[cfg(feature = "planted-bugs")]
    if crate::planted_bugs::is_on("redrive-takes-no-lock") {
        return Ok(ids.into_iter().collect());
    }
    let rows = session
        .query(
            "lock dead letters",
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

/// A letter's message as it was read once.
fn message_set(redrive: &Redrive<'_>) -> MessageSet {
    let letter = redrive.letter;
    let mut set = MessageSetBuilder::new(Arc::clone(&letter.source), letter.partition, letter.offset);
    set.push(&RawMessage {
        offset: letter.offset,
        time_ms: letter.time_ms,
        key: letter.key.as_deref(),
        payload: redrive.payload,
        headers: letter.headers.as_deref(),
    });
    set.build(None)
}

/// Copies the points, without those of messages that the server refuses, inside an open transaction; their number, and the
/// refused messages.
async fn copy(session: &mut Session, store: &Store<'_>) -> Result<(usize, Vec<DeadLetter>), Error> {
    let points = store.batch().points();
    if points.is_empty() {
        return Ok((0, Vec::new()));
    }
    let reference = series::reference(session).await?;
    session.execute("set a savepoint", "savepoint letters").await?;
    let copied = match store.store(session, &store.order()).await {
        Ok(rows) => (rows, Vec::new()),
        Err(failure) if failure.is_refused_row() => {
            session.execute("go back to a savepoint", "rollback to savepoint letters").await?;
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
    let fates: Vec<Fate> = letters
        .iter()
        .map(|one| if locked.contains(&one.letter.id) { Fate::Rejected(rejected.clone()) } else { Fate::Elsewhere })
        .collect();
    note_fates(session, letters, &fates, mode).await?;
    Ok(Redriven { fates, points: 0 })
}

/// Removes the rows of what is written, and notes the attempt of what is rejected.
async fn note_fates(
    session: &mut Session,
    letters: &[Redrive<'_>],
    fates: &[Fate],
    mode: RedriveMode,
) -> Result<(), Error> {
    let mut written: Vec<i64> = Vec::new();
    let (mut rejected, mut reasons, mut details): (Vec<i64>, Vec<&str>, Vec<&str>) = Default::default();
    for (redrive, fate) in letters.iter().zip(fates) {
        match fate {
            Fate::Written => written.push(redrive.letter.id),
            Fate::Rejected(why) => {
                rejected.push(redrive.letter.id);
                reasons.push(why.reason.as_str());
                details.push(&why.detail);
            }
            Fate::Elsewhere => {}
        }
    }
    if !written.is_empty() {
        let rows = session
            .query(
                "remove dead letters",
                "with gone as (
                     delete from ingest_dead_letter where id = any ($1) returning source_id, partition, reason
                 ), noted as (
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
                LETTERS_STEP,
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
