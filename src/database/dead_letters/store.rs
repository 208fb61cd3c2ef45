//! Stores dead letters in the transaction of their claim.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tracing::warn;
use uuid::Uuid;

use crate::batch::DeadLetter;
use crate::config::Config;
use crate::database::connection::session::Session;
use crate::database::connection::step::Step;
use crate::database::error::Error;
use crate::database::progress::ResolvedSources;
use crate::database::{Database, NO_TIME};
use crate::raw::MessageAt;
use crate::telemetry::escaped;
use crate::telemetry::log_limit::LogLimit;

/// How dead letters are stored.
#[derive(Debug, Clone, Copy)]
pub(in crate::database) struct StoragePolicy {
    /// The number of rows beyond which they are only counted.
    pub(in crate::database) max_rows: i64,
    /// `true` if a copy of each is to be published.
    publish: bool,
}

impl StoragePolicy {
    pub(in crate::database) fn new(config: &Config) -> Self {
        Self {
            max_rows: i64::try_from(config.dead_letter.max_rows).unwrap_or(i64::MAX),
            publish: !config.kafka.dead_letter_topic.is_empty(),
        }
    }
}

/// Time for which a refused letter is shown.
const SHOWN_FOR: Duration = Duration::from_secs(300);

/// The letters that the server has refused lately.
#[derive(Debug, Default)]
pub(in crate::database) struct Refusals {
    log: LogLimit,
    /// What happened to the last one, and when.
    last: Mutex<Option<(String, Instant)>>,
}

impl Refusals {
    /// Records and logs what happens to one or several refused letters.
    fn record(&self, failure: &Error, what_becomes: &'static str, at: &MessageAt) {
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

/// The numbers of letters of a transaction that are not stored.
#[derive(Debug, Clone, Copy, Default)]
pub(in crate::database) struct NotStored {
    /// Those that are only counted, including those that were samples until now.
    pub(in crate::database) only_counted: u64,
    /// Those that are not even counted.
    pub(in crate::database) not_counted: u64,
}

/// What to do with letters that the server refuses: a constraint or a trigger of an operator, or the database's encoding, may
/// be in the way, and progress must not stop at the place of last resort.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::database) enum OnRefusal {
    /// The transaction fails. There is no savepoint, and no cost.
    Fail,
    /// Each refused letter is stored with less of it, down to its count.
    StoreLess,
}

/// The extent to which a letter is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Extent {
    Whole,
    /// With its detail as printable ASCII.
    Escaped,
    /// Without the message's key, headers and payload; their lengths are kept, so that they can be read from Kafka again.
    Bare,
}

impl Extent {
    /// Returns what to try after this extent was refused; `None` if the letter can only be counted.
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
        /// Maximum length of the detail of a letter that was refused once: an operator's index may limit it.
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

/// The letters of one reason in one partition that are only counted.
struct Counted<'a> {
    count: i64,
    first: i64,
    last: i64,
    /// The place of one of them.
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

/// Stores letters in the transaction of their claim, and after it: only the holder of a partition's progress changes its
/// counts. Beyond the bound letters are counted, and the last one of each partition and reason is stored.
pub(in crate::database) async fn insert(
    session: &mut Session,
    ids: &ResolvedSources,
    letters: &[&DeadLetter],
    rules: StoragePolicy,
    (on_refusal, refusals): (OnRefusal, &Refusals),
) -> Result<NotStored, Error> {
    if letters.is_empty() {
        return Ok(NotStored::default());
    }
    // What follows concerns these messages only, so that no other should wait long for it.
    let sql = "select ingest_dead_letter_capacity($1)
               from (select set_config('lock_timeout', $2, true) as is_set offset 0) as wait where is_set is not null";
    let room = session
        .query(Step::Other("look for room for dead letters"), sql, &[&rules.max_rows, &session.row_wait()])
        .await?;
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
            let replaced = insert_letters(session, &stored, rules.publish, Extent::Whole).await?;
            count(session, &counted.iter().collect::<Vec<_>>()).await?;
            refusals.clear();
            (replaced, 0)
        }
        OnRefusal::StoreLess => {
            // Deferred triggers and constraints fire now for what was written before, and then with each statement.
            session.execute(Step::Commit, "set constraints all immediate").await?;
            let replaced = store_less(session, &stored, rules.publish, &mut counted, refusals).await?;
            (replaced, count_less(session, &counted, refusals).await?)
        }
    };
    let counted = counted.values().map(|sum| sum.count).sum::<i64>().unsigned_abs();
    Ok(NotStored { only_counted: counted - not_counted + replaced, not_counted })
}

/// Stores letters as they are, or as much of each as the server accepts, with a savepoint before each attempt; those that
/// it does not accept at all are added to `counted`. Returns the number of samples that they replaced.
async fn store_less<'a>(
    session: &mut Session,
    letters: &[Stored<'a>],
    publish: bool,
    counted: &mut Counts<'a>,
    refusals: &Refusals,
) -> Result<u64, Error> {
    let mut replaced = 0;
    let mut parts = vec![(letters, Extent::Whole)];
    session.execute(Step::Other("set a savepoint"), "savepoint letters").await?;
    while let Some((part, extent)) = parts.pop() {
        let failure = match insert_letters(session, part, publish, extent).await {
            Ok(samples) => {
                replaced += samples;
                session
                    .execute(Step::Other("set the next savepoint"), "release savepoint letters; savepoint letters")
                    .await?;
                continue;
            }
            // A smaller batch may have the time.
            Err(failure) if failure.is_canceled() && part.len() > 1 => return Err(failure),
            Err(failure) if failure.is_refused_letter() => failure,
            Err(failure) => return Err(failure),
        };
        session.execute(Step::Other("go back to a savepoint"), "rollback to savepoint letters").await?;
        let [(letter, source, _)] = part else {
            let (first, last) = part.split_at(part.len() / 2);
            parts.extend([(last, extent), (first, extent)]);
            continue;
        };
        match extent.less(&failure) {
            Some(less) => {
                refusals.record(&failure, "a dead letter is refused; trying to store less of it", &letter.at);
                parts.push((part, less));
            }
            None => {
                refusals.record(&failure, "a dead letter is refused; it is only counted", &letter.at);
                add_to_counts(counted, letter, *source);
            }
        }
    }
    session.execute(Step::Other("release a savepoint"), "release savepoint letters").await?;
    Ok(replaced)
}

/// Stores letters; returns the number of samples that they replaced.
async fn insert_letters(
    session: &mut Session,
    letters: &[Stored<'_>],
    publish: bool,
    extent: Extent,
) -> Result<u64, Error> {
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
            Step::StoreDeadLetters,
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

/// Counts letters, and skips counts that the server refuses, with a savepoint before each attempt. Returns the number of
/// letters that are not counted.
async fn count_less(session: &mut Session, counted: &Counts<'_>, refusals: &Refusals) -> Result<u64, Error> {
    let all: Vec<Count<'_>> = counted.iter().collect();
    let mut parts = vec![&all[..]];
    let mut refused = 0;
    session.execute(Step::Other("set a savepoint"), "savepoint counts").await?;
    while let Some(part) = parts.pop() {
        let failure = match count(session, part).await {
            Ok(()) => {
                session
                    .execute(Step::Other("set the next savepoint"), "release savepoint counts; savepoint counts")
                    .await?;
                continue;
            }
            Err(failure) if failure.is_refused_letter() => failure,
            Err(failure) => return Err(failure),
        };
        session.execute(Step::Other("go back to a savepoint"), "rollback to savepoint counts").await?;
        let [(_, sum)] = part else {
            let (first, last) = part.split_at(part.len() / 2);
            parts.extend([last, first]);
            continue;
        };
        refused += sum.count.unsigned_abs();
        refusals.record(&failure, "dead letters are refused, and so is their count; they are in the log only", sum.at);
    }
    session.execute(Step::Other("release a savepoint"), "release savepoint counts").await?;
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
            Step::CountDeadLetters,
            "select ingest_count_dead_letters($1, $2, $3, $4, $5, $6)",
            &[&sources, &partitions, &reasons, &counts, &firsts, &lasts],
        )
        .await?;
    Ok(())
}

impl Database {
    /// Returns what happened lately to a dead letter that the server refused; `None` once letters are stored whole again.
    pub fn refused_letters(&self) -> Option<String> {
        self.letter_refusals.last()
    }
}
