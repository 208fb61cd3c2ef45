//! `demo`: real data and a larger load through the real worker, and the table compared with what was published.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;
use tokio::sync::oneshot;

use super::{Failure, print, print_line, progress_bar, synthetic_message};
use crate::config::{Config, Kafka, Secret};
use crate::database::schema;
use crate::database::scratch::{Scratch, TableSummary};
use crate::kafka::embedded::EmbeddedKafka;
use crate::kafka::publisher::Publisher;
use crate::kafka::settings;
use crate::pipeline;
use crate::telemetry::health::Health;
use crate::telemetry::logging;

/// NOAA's daily observations of Seattle, 2012 to 2015, in the public domain.
const SEATTLE: &str = include_str!("../../examples/seattle-weather.csv");
const SEATTLE_COLUMNS: [&str; 4] = ["precipitation", "temp_max", "temp_min", "wind"];
const DAYS_A_MESSAGE: usize = 100;
const PARTITIONS: i32 = 8;
/// The points of one synthetic message: 20 timestamps of 5 columns.
const SYNTHETIC_TIMES: usize = 20;
const SYNTHETIC_COLUMNS: usize = 5;
const SYNTHETIC_SERIES: usize = 100;
/// The time span of the demo's chunks: 26 weeks.
const CHUNK_S: u64 = 26 * 7 * 86_400;
/// How long the worker may take without a single new point.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// A Kafka to use instead of the one embedded in the demo: `host:port`.
    #[arg(long, env = "KAFKA_BROKERS")]
    brokers: Option<String>,
    /// The synthetic points, besides the real ones.
    #[arg(long, default_value_t = 300_000)]
    points: usize,
    /// Leave the demo's database and topics there.
    #[arg(long)]
    keep: bool,
}

/// What was published. All values have one decimal, so that their sum can be compared exactly.
#[derive(Debug, Default)]
struct Published {
    messages: usize,
    points: usize,
    tenths: i64,
}

pub(super) async fn run(config: Arc<Config>, arguments: Arguments) -> Result<(), Failure> {
    config.require_database()?;
    // The worker's own story is not the demo's: only what goes wrong.
    logging::init(config.log.format, "warn").map_err(|error| Failure::Usage(error.to_string()))?;
    let embedded = if arguments.brokers.is_none() { Some(EmbeddedKafka::start()?) } else { None };
    let brokers =
        embedded.as_ref().map_or_else(|| arguments.brokers.clone().unwrap_or_default(), EmbeddedKafka::brokers);
    let scratch = Scratch::create(&config.database, "series_ingest_demo").await?;
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
    demo.database.url = Secret::new(scratch.url().to_owned());
    // Four years of daily values: chunks of a day would hold four points each.
    demo.database.chunk_interval_s = CHUNK_S;
    let demo = Arc::new(demo);

    let result = ingest(&demo, &arguments, &scratch, embedded.as_ref()).await;
    if arguments.keep {
        print_line(format_args!("kept: database {}", scratch.name()));
    } else {
        clean_up(&demo, scratch, embedded.is_none()).await;
    }
    result
}

async fn clean_up(demo: &Config, scratch: Scratch, delete_topics: bool) {
    if delete_topics {
        let deleted = async {
            Publisher::new(&settings::client(&demo.kafka))?
                .delete_topics(&[&demo.kafka.series_topic, &demo.kafka.points_topic])
                .await
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

async fn ingest(
    demo: &Arc<Config>,
    arguments: &Arguments,
    scratch: &Scratch,
    embedded: Option<&EmbeddedKafka>,
) -> Result<(), Failure> {
    for note in schema::migrate(demo).await?.notes {
        print_line(note);
    }
    let publisher = Publisher::new(&settings::client(&demo.kafka))?;
    match embedded {
        Some(embedded) => {
            embedded.create_topic(&demo.kafka.series_topic, 1)?;
            embedded.create_topic(&demo.kafka.points_topic, PARTITIONS)?;
        }
        None => {
            publisher.create_topics(&[(&demo.kafka.series_topic, 1), (&demo.kafka.points_topic, PARTITIONS)]).await?
        }
    }
    let (points, kafka) = (arguments.points, demo.kafka.clone());
    let published = tokio::task::spawn_blocking(move || publish(&publisher, &kafka, points))
        .await
        .map_err(|error| Failure::Internal(error.to_string()))??;
    print_line(format_args!("published {} messages with {} points", published.messages, published.points));

    let health = Arc::new(Health::new("demo", Duration::from_secs(30)));
    let database = crate::database::Database::new(demo)?;
    let (stop, stopped) = oneshot::channel::<()>();
    let start = Instant::now();
    let worker =
        tokio::spawn(pipeline::run(Arc::clone(demo), database, None, health, async move { drop(stopped.await) }));
    let summary = watch(scratch, published.points).await;
    let took = start.elapsed();
    // Where the worker has ended already, its result says why.
    let _ = stop.send(());
    worker.await.map_err(|error| Failure::Internal(error.to_string()))??;
    let summary = summary?;
    report(&summary, scratch, &published, took)
}

/// Waits until the table has as many points as were published, or nothing comes any more.
async fn watch(scratch: &Scratch, expected: usize) -> Result<TableSummary, Failure> {
    let bar = progress_bar(expected, "points");
    let mut last = (0, Instant::now());
    loop {
        let points = scratch.count_points().await?;
        bar.set_position(points as u64);
        if points != last.0 {
            last = (points, Instant::now());
        }
        if points >= expected || last.1.elapsed() >= PATIENCE {
            break;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    bar.finish_and_clear();
    Ok(scratch.summary().await?)
}

fn report(summary: &TableSummary, scratch: &Scratch, published: &Published, took: Duration) -> Result<(), Failure> {
    // Every published point has a (series, column, time) of its own, so what is there twice was doubled.
    let doubled = summary.points - summary.distinct_points;
    let lost = published.points.saturating_sub(summary.distinct_points);
    let rate = summary.points as f64 / took.as_secs_f64();
    let rows: [(&str, String); 6] = [
        ("published", published.points.to_string()),
        ("written", summary.points.to_string()),
        ("dead letters", summary.dead_letters.to_string()),
        ("lost", lost.to_string()),
        ("doubled", doubled.to_string()),
        ("points per second", format!("{rate:.0}")),
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
    let seattle: BTreeMap<String, usize> = summary.columns_of("seattle-weather");
    let days = SEATTLE.lines().count() - 1;
    let complete = SEATTLE_COLUMNS.iter().all(|column| seattle.get(*column) == Some(&days));
    let exact = summary.points == published.points && summary.tenths == published.tenths;
    if doubled == 0 && lost == 0 && summary.dead_letters == 0 && exact && complete {
        return Ok(());
    }
    Err(Failure::Internal("the table does not hold what was published".to_owned()))
}

fn publish(publisher: &Publisher, kafka: &Kafka, synthetic_points: usize) -> Result<Published, Failure> {
    let mut published = Published::default();
    let mut send = |topic: &str, key: &str, payload: &str, points: usize| -> Result<(), Failure> {
        publisher.send(topic, None, key, payload.as_bytes())?;
        published.messages += 1;
        published.points += points;
        published.tenths += tenths(payload);
        Ok(())
    };
    let definition = serde_json::json!({
        "type": "series-create", "id": "seattle-weather", "name": "Seattle weather", "description": "NOAA daily",
        "time_column": "date", "value_columns": SEATTLE_COLUMNS,
    });
    send(&kafka.series_topic, "seattle-weather", &definition.to_string(), 0)?;
    for (payload, points) in seattle_batches() {
        send(&kafka.points_topic, "seattle-weather", &payload, points)?;
    }
    let a_message = SYNTHETIC_TIMES * SYNTHETIC_COLUMNS;
    for number in 0..synthetic_points.div_ceil(a_message) {
        let series = format!("synthetic-{:03}", number % SYNTHETIC_SERIES);
        send(
            &kafka.points_topic,
            &series,
            &synthetic_message(&series, number / SYNTHETIC_SERIES, SYNTHETIC_TIMES, SYNTHETIC_COLUMNS),
            a_message,
        )?;
    }
    publisher.flush()?;
    Ok(published)
}

/// The sum of a message's values, in tenths.
fn tenths(payload: &str) -> i64 {
    let message: serde_json::Value = serde_json::from_str(payload).unwrap_or_default();
    let columns = message["columns"].as_object().into_iter().flat_map(|columns| columns.values());
    let values =
        columns.flat_map(|values| values.as_array().into_iter().flatten()).filter_map(serde_json::Value::as_f64);
    values.map(|value| (value * 10.0).round() as i64).sum()
}

/// The real data as point batches, in the columnar shape.
fn seattle_batches() -> Vec<(String, usize)> {
    let rows: Vec<Vec<&str>> = SEATTLE.lines().skip(1).map(|line| line.split(',').collect()).collect();
    rows.chunks(DAYS_A_MESSAGE)
        .map(|days| {
            let dates: Vec<String> = days.iter().map(|row| row[0].replace('/', "-")).collect();
            let columns: serde_json::Map<String, serde_json::Value> = SEATTLE_COLUMNS
                .iter()
                .zip(1..)
                .map(|(name, at)| {
                    let values: Vec<f64> = days.iter().map(|row| row[at].parse().unwrap_or(f64::NAN)).collect();
                    ((*name).to_owned(), values.into())
                })
                .collect();
            let message = serde_json::json!({
                "type": "point-batch", "time_series_id": "seattle-weather", "timestamps": dates, "columns": columns,
            });
            (message.to_string(), days.len() * SEATTLE_COLUMNS.len())
        })
        .collect()
}
