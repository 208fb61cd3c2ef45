//! `demo`: real data and a larger load through the real worker, with a database outage in the middle, and a comparison of the
//! table with what was published.

mod load;
mod outage;
mod proxy;

use std::fmt::Write as _;
use std::os::unix::fs::DirBuilderExt as _;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use tokio::sync::oneshot;

use super::interrupt::Interrupts;
use super::run::open_journal;
use super::synthetic::synthetic_message;
use super::{Failure, brokers_of, print, print_line, progress_bar};
use crate::config::{Config, Secret};
use crate::database::Database;
use crate::database::schema;
use crate::database::scratch::{ScratchDatabase, TableSummary};
use crate::kafka::embedded::EmbeddedKafka;
use crate::kafka::publisher::Publisher;
use crate::pipeline;
use crate::telemetry::health::Health;
use crate::telemetry::logging;

use load::{Load, Published};
use outage::Story;
use proxy::Proxy;

const PARTITIONS: i32 = 8;
/// The time span of the demo's chunks: 26 weeks.
const CHUNK_S: u64 = 26 * 7 * 86_400;
/// Time for which the database may fail before the demo's worker journals.
const OUTAGE_GRACE_MS: u64 = 500;
/// The length of a segment of the demo's journal, and the maximum size of the journal.
const SEGMENT_BYTES: u64 = 1 << 20;
const JOURNAL_BYTES: u64 = 1 << 30;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// A Kafka to use instead of the embedded one: `host:port`. Also KAFKA_BROKERS.
    #[arg(long, value_name = "HOST:PORT")]
    brokers: Option<String>,
    /// Number of synthetic points, besides the real ones.
    #[arg(long, default_value_t = 300_000)]
    points: usize,
    /// Keep the demo's database and topics.
    #[arg(long)]
    keep: bool,
}

/// A directory for this process only, which is removed when dropped.
#[derive(Debug)]
struct JournalDirectory(String);

impl JournalDirectory {
    fn create() -> Result<Self, Failure> {
        let name = format!("{}/series-ingest-demo-{}", std::env::temp_dir().display(), std::process::id());
        let made = std::fs::DirBuilder::new().mode(0o700).create(&name);
        made.map_err(|error| Failure::Usage(format!("the demo's journal, {name}: {error}")))?;
        Ok(Self(name))
    }
}

impl Drop for JournalDirectory {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            print_line(format_args!("the demo's journal {} is still there: {error}", self.0));
        }
    }
}

pub(super) async fn run(config: Arc<Config>, arguments: Arguments) -> Result<(), Failure> {
    config.require_database()?;
    // The worker's log lines are not part of the demo, and its warnings of the outage are expected: only errors are shown.
    logging::init(config.log.format, "error").map_err(|error| Failure::Usage(error.to_string()))?;
    let mut interrupts = Interrupts::listen()?;
    let given = brokers_of(arguments.brokers.as_deref(), &config)?;
    let embedded = if given.is_none() { Some(EmbeddedKafka::start()?) } else { None };
    let brokers = embedded.as_ref().map_or_else(|| given.unwrap_or_default(), EmbeddedKafka::brokers);
    let directory = JournalDirectory::create()?;
    let scratch = ScratchDatabase::create(&config.database, "series_ingest_demo").await?;
    print_line(format_args!(
        "Kafka {} at {brokers}; database {} made for the demo",
        if embedded.is_some() { "embedded in the demo" } else { "as given" },
        scratch.name(),
    ));
    let mut demo = (*config).clone();
    demo.kafka.brokers = brokers;
    demo.kafka.group_id = format!("series-ingest-demo-{}", std::process::id());
    demo.kafka.series_topic = format!("{}.series", demo.kafka.group_id);
    demo.kafka.points_topic = format!("{}.points", demo.kafka.group_id);
    let proxy = Proxy::start(scratch.addresses()?).await?;
    demo.database.url = Secret::new(scratch.url_by(proxy.port())?);
    demo.database.outage_grace_ms = OUTAGE_GRACE_MS;
    demo.journal.enabled = true;
    demo.journal.directory = directory.0.clone();
    demo.journal.segment_bytes = SEGMENT_BYTES;
    demo.journal.max_bytes = JOURNAL_BYTES;
    demo.journal.min_free_bytes = 0;
    // Nothing that the database has is kept, so that an empty journal is a drained one.
    demo.journal.grace_s = 0;
    // Four years of daily values: chunks of a day would hold four points each.
    demo.database.chunk_interval_s = CHUNK_S;
    let demo = Arc::new(demo);

    let result = ingest(&demo, &arguments, &scratch, embedded.as_ref(), &proxy, &mut interrupts).await;
    if arguments.keep {
        print_line(format_args!("kept: database {}", scratch.name()));
    } else {
        let name = scratch.name().to_owned();
        let cleaned = interrupts.or_work(async {
            clean_up(&demo, scratch, embedded.is_none()).await;
            Ok(())
        });
        if let Err(failure) = cleaned.await {
            print_line(format_args!("the demo's database {name} is still there: {failure}"));
        }
    }
    result
}

async fn clean_up(demo: &Config, scratch: ScratchDatabase, delete_topics: bool) {
    if delete_topics {
        let deleted = async {
            Publisher::new(&demo.kafka)?.delete_topics(&[&demo.kafka.series_topic, &demo.kafka.points_topic]).await
        };
        if let Err(error) = deleted.await {
            print_line(format_args!("the demo's topics are still there: {error}"));
        }
    }
    let name = scratch.name().to_owned();
    if let Err(error) = scratch.remove().await {
        print_line(format_args!("the demo's database {name} is still there: {error}"));
    }
}

/// Creates the tables and the topics, and publishes the first half of the load.
async fn prepare(
    demo: &Arc<Config>,
    arguments: &Arguments,
    embedded: Option<&EmbeddedKafka>,
) -> Result<(Arc<Load>, Published), Failure> {
    for note in schema::migrate(demo).await?.notes {
        print_line(note);
    }
    let publisher = Publisher::new(&demo.kafka)?;
    match embedded {
        Some(embedded) => {
            embedded.create_topic(&demo.kafka.series_topic, 1)?;
            embedded.create_topic(&demo.kafka.points_topic, PARTITIONS)?;
        }
        None => {
            publisher.create_topics(&[(&demo.kafka.series_topic, 1), (&demo.kafka.points_topic, PARTITIONS)]).await?
        }
    }
    let load = Arc::new(Load::new(publisher, &demo.kafka, arguments.points));
    let published = load.publish(0..4).await?;
    Ok((load, published))
}

async fn ingest(
    demo: &Arc<Config>,
    arguments: &Arguments,
    scratch: &ScratchDatabase,
    embedded: Option<&EmbeddedKafka>,
    proxy: &Proxy,
    interrupts: &mut Interrupts,
) -> Result<(), Failure> {
    let prepared = interrupts.or_work(prepare(demo, arguments, embedded));
    let (load, published) = prepared.await?;

    let health = Arc::new(Health::new("demo", Duration::from_secs(30)));
    let database = Database::new(demo)?;
    let journal = open_journal(demo).await?;
    let (stop, stopped) = oneshot::channel::<()>();
    let worker =
        pipeline::run(
            Arc::clone(demo),
            database,
            journal.clone(),
            Arc::clone(&health),
            async move { drop(stopped.await) },
        );
    let worker = tokio::spawn(worker);
    let bar = progress_bar(load.points(), "points");
    let mut story =
        Story { load: &load, scratch, proxy, journal: &journal, health: &health, bar, published, rate: None };
    let told = interrupts.or_work(story.run()).await;
    story.bar.finish_and_clear();
    // If the worker has ended already, its result has the reason.
    let _ = stop.send(());
    worker.await.map_err(|error| Failure::Internal(error.to_string()))??;
    journal.close().await;
    if let Err(failure @ Failure::Interrupted { .. }) = told {
        return Err(failure);
    }
    let agrees = report(&scratch.summary().await?, scratch, &story);
    told?;
    if agrees { Ok(()) } else { Err(Failure::Internal("the table does not hold what was published".to_owned())) }
}

/// Prints the contents of the table alongside what was published. Returns `true` if they agree.
fn report(summary: &TableSummary, scratch: &ScratchDatabase, story: &Story<'_>) -> bool {
    let published = story.published;
    // Every published point has its own (series, column, time), so a duplicate row is a point written twice.
    let duplicated = summary.points - summary.distinct_points;
    let lost = published.points.saturating_sub(summary.distinct_points);
    let rate = story.rate.map_or_else(|| "-".to_owned(), |rate| format!("{rate:.0}"));
    let rows: [(&str, String); 6] = [
        ("published", published.points.to_string()),
        ("written", summary.points.to_string()),
        ("dead letters", summary.dead_letters.to_string()),
        ("lost", lost.to_string()),
        ("duplicated", duplicated.to_string()),
        ("points per second", rate),
    ];
    let mut table = String::from("\n");
    for (name, value) in rows {
        let _ = writeln!(table, "  {name:<18} {value:>12}");
    }
    let _ = writeln!(
        table,
        "\nto look at the rows (with --keep):\n  psql '{}' -c \"select time_series_id, column_name, count(*), min(value), max(value) \
         from time_series_data_points where time_series_id = 'seattle-weather' group by 1, 2 order by 2\"",
        scratch.masked_url()
    );
    print(&table);
    let complete = load::is_all_of_seattle(&summary.columns_of("seattle-weather"));
    let exact = summary.points == published.points && summary.tenths == published.tenths;
    duplicated == 0 && lost == 0 && summary.dead_letters == 0 && exact && complete
}
