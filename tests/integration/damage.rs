//! One place of a journal is damaged: the worker says so, and what is missing is read from Kafka again.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use series_ingest::journal::{Inspection, RealFiles};

use crate::support::data::{Difference, Published};
use crate::support::fixture_with_proxy::FixtureWithProxy;
use crate::support::worker::Worker;

/// The number of workers that run at the same time, each with a damaged copy of the journal. Most of their time they wait for servers.
const SIDE_BY_SIDE: usize = 24;
/// Timeout for one of them.
const DAMAGE_TIMEOUT: Duration = Duration::from_secs(40);

/// Where the fields of the headers begin, as the documentation of `src/journal` lays them down.
const JOURNAL_FIELDS: &[u64] = &[0, 8, 16, 60];
const SEGMENT_FIELDS: &[u64] = &[0, 8, 16, 24, 32, 40, 60];
const RECORD_FIELDS: &[u64] = &[0, 4, 5, 6, 8, 16, 24, 32, 36, 40, 44, 48, 56, 60];
const HEADER_BYTES: u64 = 64;

/// One change of one file.
#[derive(Debug, Clone)]
enum Damage {
    Flipped(String, u64),
    Cut(String, u64),
}

/// A journal that a killed worker has left, and where its records are.
struct Template {
    directory: PathBuf,
    /// The records of each segment, those of sources among them: `[from, until)`.
    segments: BTreeMap<String, Vec<(u64, u64)>>,
}

impl Template {
    fn of(directory: PathBuf) -> Self {
        let inspection = Inspection::open(RealFiles, &directory).unwrap();
        assert!(inspection.damage().is_empty());
        let mut segments: BTreeMap<String, Vec<(u64, u64)>> = BTreeMap::new();
        for record in inspection.records() {
            let extents = segments.entry(format!("{:020}.segment", record.segment)).or_default();
            // Before a segment's first messages stands the record of their source.
            let end = extents.last().map_or(HEADER_BYTES, |(_, until)| *until);
            if end < record.position {
                extents.push((end, record.position));
            }
            extents.push((record.position, record.position + record.bytes()));
        }
        Self { directory, segments }
    }

    fn end(&self, name: &str) -> u64 {
        self.segments.get(name).and_then(|extents| extents.last()).map_or(HEADER_BYTES, |(_, until)| *until)
    }

    fn is_last(&self, name: &str) -> bool {
        self.segments.last_key_value().is_some_and(|(last, _)| last == name)
    }

    /// Every field of every header, every `stride`-th byte, and one byte after the end.
    fn damages(&self, stride: u64) -> Vec<Damage> {
        let mut places: BTreeSet<(&str, u64)> = JOURNAL_FIELDS.iter().map(|at| ("JOURNAL", *at)).collect();
        for (name, extents) in &self.segments {
            places.extend(SEGMENT_FIELDS.iter().map(|at| (name.as_str(), *at)));
            places.extend(
                extents.iter().flat_map(|(from, _)| RECORD_FIELDS.iter().map(move |at| (name.as_str(), from + at))),
            );
            places.extend((0..self.end(name)).step_by(stride as usize).map(|at| (name.as_str(), at)));
            if self.is_last(name) {
                places.insert((name, self.end(name) + 1));
            }
        }
        let both = |(name, at): (&str, u64)| [Damage::Flipped(name.to_owned(), at), Damage::Cut(name.to_owned(), at)];
        places.into_iter().flat_map(both).collect()
    }

    fn damaged_copy(&self, to: &Path, damage: &Damage) {
        fs::create_dir(to).unwrap();
        // The worker refuses a directory that others may write to.
        fs::set_permissions(to, fs::metadata(&self.directory).unwrap().permissions()).unwrap();
        for entry in fs::read_dir(&self.directory).unwrap() {
            let entry = entry.unwrap();
            fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
        match damage {
            Damage::Flipped(name, at) => {
                let mut bytes = fs::read(to.join(name)).unwrap();
                bytes[*at as usize] ^= 1 << (at % 8);
                fs::write(to.join(name), bytes).unwrap();
            }
            Damage::Cut(name, length) => {
                fs::File::options().write(true).open(to.join(name)).unwrap().set_len(*length).unwrap();
            }
        }
    }

    /// `true` if the worker must report damage, `None` if it may.
    fn is_reported(&self, damage: &Damage) -> Option<bool> {
        match damage {
            Damage::Flipped(name, at) => {
                // The zeros that end a record are in no checksum, nor is what nobody uses.
                let is_in_padding = |(_, until): &(u64, u64)| (until - 7..*until).contains(at);
                let may_pass =
                    *at >= self.end(name) || self.segments.get(name).is_some_and(|all| all.iter().any(is_in_padding));
                (!may_pass).then_some(true)
            }
            // What is missing at the end of the last segment is what a crash leaves of a write that was not acknowledged.
            Damage::Cut(name, length) => Some(*length < self.end(name) && !self.is_last(name)),
        }
    }
}

/// A small journal of two segments, left by workers that were killed in an outage.
async fn template(away: &FixtureWithProxy, published: &mut Published) -> Template {
    away.proxy.refuse(true);
    for _ in 0..2 {
        let mut worker = away.worker("template", &[]);
        worker.until_mode("journaling").await;
        for _ in 0..2 {
            away.fixture.publish(published, 2, 2);
            away.fixture.until_journaled(&worker).await;
        }
        worker.kill();
    }
    let template = Template::of(away.journal("template"));
    assert_eq!(template.segments.len(), 2);
    template
}

/// A worker with a copy of the journal. Its pipeline is another one than that of all others, so that for it the database has
/// nothing yet.
fn start(away: &FixtureWithProxy, template: &Template, pipeline: &str, damage: &Damage) -> Worker {
    let directory = away.journal(pipeline);
    template.damaged_copy(&directory, damage);
    let group = format!("{}_{pipeline}", away.fixture.group);
    let settings = [
        ("DATABASE_URL", away.fixture.url.as_str()),
        ("SERIES_INGEST__PIPELINE", pipeline),
        ("SERIES_INGEST__KAFKA__GROUP_ID", &group),
        ("SERIES_INGEST__HTTP__LISTEN", ""),
        ("SERIES_INGEST__DATABASE__WRITERS", "1"),
    ];
    away.worker_by(&[], &directory, &settings)
}

/// The pipelines that have all of the topic.
async fn finished(away: &FixtureWithProxy, end: i64) -> Vec<String> {
    let sql = "select source.pipeline from ingest_progress as progress
               join ingest_source as source on source.id = progress.source_id
               where source.topic = $1 and progress.next_offset = $2 and progress.ahead = '{}'";
    let rows = away.fixture.client.query(sql, &[&away.fixture.points_topic, &end]).await.unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

/// Every field of every header and some bytes of the rest, flipped and cut off at, one at a time. `DAMAGE_STRIDE` says how
/// far apart the bytes of the rest are, 1 for all of them.
#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_damaged_in_a_journal_the_table_ends_exact() {
    let Some(away) = FixtureWithProxy::new("damage", 1).await else { return };
    let stride = std::env::var("DAMAGE_STRIDE").map_or(64, |text| text.parse().expect("DAMAGE_STRIDE is a number"));
    let mut published = Published::default();
    let template = template(&away, &mut published).await;
    let end = away.fixture.broker.end(&away.fixture.points_topic, 0);
    let damages = template.damages(stride);
    let mut next = damages.iter().enumerate();
    let mut running: HashMap<String, (&Damage, Worker, Instant)> = HashMap::new();
    let mut reported = 0;
    loop {
        while running.len() < SIDE_BY_SIDE
            && let Some((number, damage)) = next.next()
        {
            let pipeline = format!("damage-{number}");
            let worker = start(&away, &template, &pipeline, damage);
            running.insert(pipeline, (damage, worker, Instant::now()));
        }
        if running.is_empty() {
            break;
        }
        for pipeline in finished(&away, end).await {
            let Some((damage, mut worker, _)) = running.remove(&pipeline) else { continue };
            assert_eq!(worker.has_ended(), None, "{damage:?}");
            let is_reported = worker.log().contains("damaged");
            let expected = template.is_reported(damage).unwrap_or(is_reported);
            assert_eq!(is_reported, expected, "{damage:?}\n{}", worker.log());
            reported += usize::from(is_reported);
            worker.kill();
            fs::remove_dir_all(away.journal(&pipeline)).unwrap();
        }
        for (damage, worker, since) in running.values_mut() {
            assert_eq!(worker.has_ended(), None, "{damage:?}\n{}", worker.log());
            assert!(since.elapsed() < DAMAGE_TIMEOUT, "{damage:?}\n{}", worker.log());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    println!("{} damages, {reported} of them reported", damages.len());
    // Each pipeline has written all of it once.
    let all = std::iter::repeat_n(published.rows, damages.len()).flatten().collect();
    assert_eq!(Difference::between(all, away.fixture.stored().await), Difference::default());
    for table in ["ingest_dead_letter", "ingest_gap"] {
        assert_eq!(away.fixture.count(&format!("select count(*) from {table}")).await, 0, "{table}");
    }
    away.remove().await;
}
