//! A database that can be away, and workers with journals meanwhile.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use series_ingest::journal::{Inspection, RealFiles};

use super::data::Published;
use super::fixture::Fixture;
use super::proxy::Proxy;
use super::until;
use super::worker::Worker;

/// A database that is reached through a proxy, and a folder for journals.
pub struct FixtureWithProxy {
    pub fixture: Fixture,
    pub proxy: Proxy,
    url: String,
    folder: tempfile::TempDir,
}

impl FixtureWithProxy {
    pub async fn new(test: &str, partitions: i32) -> Option<Self> {
        Some(Self::before(Fixture::new(test, partitions).await?).await)
    }

    /// The same with a database that is not migrated.
    pub async fn unmigrated(test: &str, partitions: i32) -> Option<Self> {
        Some(Self::before(Fixture::unmigrated(test, partitions).await?).await)
    }

    /// A proxy before the database of this fixture.
    pub async fn before(fixture: Fixture) -> Self {
        let proxy = Proxy::start(&fixture.server()).await;
        let url = fixture.url_by(proxy.port);
        Self { fixture, proxy, url, folder: tempfile::tempdir().unwrap() }
    }

    pub fn journal(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A worker with a journal of this name.
    pub fn worker(&self, journal: &str, extra: &[(&str, &str)]) -> Worker {
        self.worker_by(&[], &self.journal(journal), extra)
    }

    /// The same with a journal at any place, started by another program: its words, before the worker's own.
    pub fn worker_by(&self, launcher: &[&str], journal: &Path, extra: &[(&str, &str)]) -> Worker {
        let directory = journal.to_str().unwrap().to_owned();
        let mut settings = vec![
            ("DATABASE_URL", self.url.as_str()),
            ("SERIES_INGEST__JOURNAL__ENABLED", "true"),
            ("SERIES_INGEST__JOURNAL__DIRECTORY", &directory),
            ("SERIES_INGEST__JOURNAL__SEGMENT_BYTES", "1048576"),
            ("SERIES_INGEST__JOURNAL__GRACE_S", "2"),
            ("SERIES_INGEST__JOURNAL__MIN_FREE_BYTES", "0"),
            ("SERIES_INGEST__DATABASE__OUTAGE_GRACE_MS", "300"),
            ("SERIES_INGEST__BATCH__LINGER_MS", "50"),
        ];
        settings.extend_from_slice(extra);
        Worker::start_by(launcher, &self.fixture.name, &self.fixture.environment(), &settings)
    }

    /// Publishes this many messages, over all partitions.
    pub fn publish(&self, published: &mut Published, messages: usize) {
        self.fixture.publish(published, messages, 25);
    }

    /// The same with messages of this many bytes that hardly compress: they fill a journal, and few points a table.
    pub fn publish_large(&self, published: &mut Published, messages: usize, bytes: usize) {
        for number in 0..messages {
            self.send(number, &published.large_batch("s", 5, bytes));
        }
        self.fixture.producer.flush();
    }

    fn send(&self, number: usize, payload: &str) {
        let partition = number as i32 % self.fixture.partitions;
        self.fixture.producer.send(&self.fixture.points_topic, partition, "s", Some(payload.as_bytes()));
    }

    /// Publishes messages that are written, and disconnects the database from the worker, which then journals as many
    /// further ones.
    pub async fn begin_outage(&self, worker: &Worker, published: &mut Published, written: usize, journaled: usize) {
        self.publish(published, written);
        self.fixture.until_applied(60).await;
        self.proxy.refuse(true);
        self.publish(published, journaled);
        worker.until_mode("journaling").await;
    }

    /// Kafka loses all that it has: only the journal has it now.
    pub async fn delete_records(&self) {
        self.fixture.delete_records().await;
    }

    pub async fn remove(self) {
        self.fixture.remove().await;
    }
}

/// Waits until the journal, opened by anyone, has all that Kafka has and the database lacks.
pub async fn until_found(away: &FixtureWithProxy, directory: &Path) {
    let fixture = &away.fixture;
    let ends = fixture.broker.ends(&fixture.points_topic, fixture.partitions);
    let applied = fixture.next_offsets().await;
    until(60, "all is in the journal", async || {
        let Ok(journal) = Inspection::open(RealFiles, directory) else { return false };
        let mut spans: HashMap<i32, Vec<(i64, i64)>> = HashMap::new();
        for record in journal.records().filter(|record| record.partition.source.topic == fixture.points_topic) {
            spans.entry(record.partition.number).or_default().push((record.from, record.until));
        }
        applied.iter().zip(&ends).enumerate().all(|(number, (applied, end))| {
            let mut spans = spans.get(&(number as i32)).cloned().unwrap_or_default();
            spans.sort_unstable();
            let reach = |next: i64, (from, until): (i64, i64)| if from <= next { next.max(until) } else { next };
            spans.into_iter().fold(*applied, reach) >= *end
        })
    })
    .await;
}
