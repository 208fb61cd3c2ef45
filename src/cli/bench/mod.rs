//! `bench`: drains a topic with the real worker, beside COPY of the same rows into the same table by the server itself, and
//! beside a replay of the same messages from a journal. Then it drains the same points in the ways that cost more: one a
//! message, stored once each, and into a table that refuses some rows. At last it sends messages at a steady rate.

mod limits;
mod live;
mod process;
mod report;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};

use super::interrupt::{Interrupts, is_interrupted};
use super::{Failure, SYNTHETIC_FIRST_S, brokers_of, output, print_line, progress_bar, synthetic_message};
use crate::config::{Config, OnDuplicate, Secret};
use crate::database::schema::set_profile;
use crate::database::schema::profile::Profile;
use crate::database::scratch::Scratch;
use crate::database::{Database, schema};
use crate::journal::{Journal, Options, RealFiles};
use crate::kafka::publisher::Publisher;
use crate::raw::Kind;
use crate::raw::{MessageSetBuilder, RawMessage, Source};
use crate::telemetry::metrics::{self, Step};
use limits::{Files, Limit};
use process::{Running, Worker, postgres_cpu};
use report::{Report, rounded};

const PARTITIONS: i32 = 8;
/// What the consumer hands on at once, in bytes.
const SET_BYTES: usize = 128 * 1024;
/// Sets of one append.
const APPEND_SETS: usize = 64;
/// The ends of the names of all topics that are made.
const TOPICS: [&str; 5] = ["many", "one", "wide", "live", "half"];
/// The rate at which messages are sent, besides half of the drain's.
const LIVE_POINTS_A_SECOND: f64 = 20_000.0;
/// When the policy compresses a chunk: later than any benchmark lasts, whose points are of years ago.
const COMPRESS_AFTER_S: u64 = 100 * 365 * 86_400;
/// How long the worker may take without a single new message.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, Args)]
pub(super) struct Arguments {
    /// The broker to preload, `host:port`. Also KAFKA_BROKERS.
    #[arg(long, value_name = "HOST:PORT")]
    brokers: Option<String>,
    /// How many points.
    #[arg(long, default_value_t = 1_000_000)]
    points: usize,
    /// Over how many series they are spread, one after the other.
    #[arg(long, default_value_t = 1000)]
    series: usize,
    /// Columns of a message.
    #[arg(long, default_value_t = 5)]
    columns: usize,
    /// Timestamps of a message.
    #[arg(long, default_value_t = 20)]
    timestamps: usize,
    /// Where the figures go as JSON, besides the table; the file is whole after each part.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Only this part; may be given several times, and with commas. All by default.
    #[arg(long, value_enum, value_name = "PART", value_delimiter = ',')]
    only: Vec<Part>,
}

/// A part of the benchmark, in the order in which they are measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Drain a topic, beside COPY of the same rows by the server itself.
    Drain,
    /// Replay the same messages from a journal.
    Replay,
    /// Drain into a table of the profile throughput, beside COPY.
    Throughput,
    /// Drain messages of one point.
    OnePoint,
    /// Drain the points of a hundred times as many series.
    ManySeries,
    /// Delays from send to commit at 20,000 points/s, and at half of the drain's rate if that is measured.
    Live,
    /// Drain with points.on_duplicate = "ignore" and "replace".
    OnceEach,
    /// Drain into a table with a CHECK that refuses nothing, and with one that refuses 0.01 % of the rows.
    Refused,
}

impl Part {
    /// Its name, as the arguments have it.
    fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }
}

impl Arguments {
    /// As many points and columns, with one point a message: each column is of a series of its own.
    fn with_one_point(&self) -> Self {
        Self { series: self.series * self.columns, columns: 1, timestamps: 1, ..self.clone() }
    }

    /// As many points of a hundred times as many series, in messages with fewer timestamps.
    fn with_many_series(&self) -> Self {
        let series = (100 * self.series).min(self.points.div_ceil(self.columns));
        Self { series, timestamps: (self.points / (series * self.columns)).max(1), ..self.clone() }
    }

    fn points_a_message(&self) -> usize {
        self.columns * self.timestamps
    }

    /// Whole rounds over all series.
    fn rounds(&self) -> usize {
        self.points.div_ceil(self.points_a_message() * self.series)
    }

    fn total(&self) -> usize {
        self.rounds() * self.series * self.points_a_message()
    }

    fn message(&self, series: usize, round: usize) -> String {
        synthetic_message(&series_id(series), round, self.timestamps, self.columns)
    }

    /// The rows of these series' messages: in the order of the messages and within each as the worker reads them, or sorted.
    fn rows_sql(&self, from: usize, until: usize, sorted: bool) -> String {
        let order = if sorted { "series, col, round, time" } else { "round, series, col, time" };
        format!(
            "select 'bench-' || lpad(series::text, 6, '0'), to_timestamp({first} + round * {times} + time), \
                    'c' || col, (({first} + round * {times} + time) * (col + 1) % 1000) / 10.0::float8 \
             from generate_series(0::bigint, {rounds} - 1) as round, generate_series({from}, {until} - 1) as series, \
                  generate_series(0, {columns} - 1) as col, generate_series(0, {times} - 1) as time \
             order by {order}",
            first = SYNTHETIC_FIRST_S,
            times = self.timestamps,
            rounds = self.rounds(),
            columns = self.columns,
        )
    }

    fn series_sql(&self) -> String {
        format!(
            "insert into time_series_metadata (id, name) select 'bench-' || lpad(n::text, 6, '0'), n::text \
             from generate_series(0, {} - 1) as n",
            self.series
        )
    }

    /// Makes the chunks of all rows, empty: by a row of each day, which goes again.
    fn chunks_sql(&self) -> String {
        let last = SYNTHETIC_FIRST_S + self.rounds() * self.timestamps - 1;
        format!(
            "insert into time_series_data_points (time_series_id, \"timestamp\", column_name) \
             select '{id}', to_timestamp(least(second, {last})), 'c0' \
             from generate_series({first}, {last} + 86399, 86400) as second; \
             delete from time_series_data_points",
            id = series_id(0),
            first = SYNTHETIC_FIRST_S,
        )
    }
}

fn series_id(series: usize) -> String {
    format!("bench-{series:06}")
}

/// Every 10,000th row, in no order that the worker knows.
const EVERY_10000TH: &str =
    "abs(hashtext(time_series_id || column_name)::bigint + extract(epoch from \"timestamp\")::bigint * 7919) % 10000";

/// What the worker took for the drain.
struct Drain {
    points: usize,
    points_a_second: f64,
    cpu: Duration,
    /// The database's; `None` where it runs elsewhere.
    database_cpu: Option<Duration>,
    peak_rss_bytes: u64,
    /// The seconds of each step, of all of the worker's threads together.
    steps: Vec<(Step, f64)>,
    /// Points in compressed rows, where the table compresses any.
    compressed: usize,
}

pub(super) async fn run(config: Arc<Config>, file: Option<PathBuf>, arguments: Arguments) -> Result<(), Failure> {
    config.require_database()?;
    if [arguments.points, arguments.series, arguments.columns, arguments.timestamps].contains(&0) {
        return Err(Failure::Usage("--points, --series, --columns and --timestamps must be above 0".to_owned()));
    }
    let brokers = brokers_of(arguments.brokers.as_deref(), &config)?;
    let brokers = brokers
        .ok_or_else(|| Failure::Usage("bench needs a broker: give --brokers, or set KAFKA_BROKERS".to_owned()))?;
    // A file that cannot be written is better known before than after.
    let mut report = Report::new(arguments.json.clone())?;
    let mut interrupts = Interrupts::listen()?;
    let scratch = Scratch::create(&config.database, "series_ingest_bench").await?;
    let mut bench = (*config).clone();
    let name = scratch.name().to_owned();
    print_line(format_args!("Kafka at {brokers}; database {name} made for the benchmark"));
    bench.kafka.brokers = brokers;
    bench.kafka.group_id = name.replace('_', "-");
    bench.database.url = Secret::new(scratch.url().to_owned());
    // What is compressed is compressed as it is copied, and not by the policy meanwhile.
    bench.database.compress_after_s = COMPRESS_AFTER_S;
    let run = Run {
        bench: &bench,
        file: file.as_deref(),
        arguments: &arguments,
        scratch: &scratch,
        report: &mut report,
        is_published: false,
        files: None,
        drained: None,
    };
    let measured = interrupts.or_work(run.measure()).await;
    report.print();
    let cleaned = interrupts.or_work(async {
        clean_up(&bench, scratch).await;
        Ok(())
    });
    if let Err(failure) = cleaned.await {
        print_line(format_args!("the benchmark's database {name} is still there: {failure}"));
    }
    measured?;
    report.complete()
}

async fn clean_up(bench: &Config, scratch: Scratch) {
    let name = scratch.name().to_owned();
    let topics: Vec<String> = TOPICS
        .iter()
        .map(|name| with_own_topics(bench, name))
        .flat_map(|bench| [bench.kafka.series_topic, bench.kafka.points_topic])
        .collect();
    let topics: Vec<&str> = topics.iter().map(String::as_str).collect();
    let deleted = async { Publisher::new(&bench.kafka)?.delete_topics(&topics).await };
    if let Err(error) = deleted.await {
        print_line(format_args!("the benchmark's topics are still there: {error}"));
    }
    if let Err(error) = scratch.remove().await {
        print_line(format_args!("the benchmark's database {name} is still there: {error}"));
    }
}

/// The parts, one after the other, and what the later ones need of the earlier ones.
struct Run<'a> {
    bench: &'a Config,
    file: Option<&'a Path>,
    arguments: &'a Arguments,
    scratch: &'a Scratch,
    report: &'a mut Report,
    /// Whether the topic that most parts drain is filled.
    is_published: bool,
    /// The server's files with the same rows.
    files: Option<Files>,
    /// The rate of the drain, in points a second, if it was measured.
    drained: Option<f64>,
}

impl Run<'_> {
    async fn measure(mut self) -> Result<(), Failure> {
        for note in schema::migrate(self.bench).await?.notes {
            print_line(note);
        }
        let points = self.arguments.total();
        self.report.add("points", "points", format!("{points:>8}"), points);
        let points = self.arguments.points_a_message();
        self.report.add("points a message", "points_a_message", format!("{points:>8}"), points);
        let only = &self.arguments.only;
        for part in Part::value_variants().iter().filter(|part| only.is_empty() || only.contains(part)) {
            self.part(*part).await?;
            self.report.done(&part.name())?;
        }
        Ok(())
    }

    async fn part(&mut self, part: Part) -> Result<(), Failure> {
        match part {
            Part::Drain => self.drain().await,
            Part::Replay => self.replay().await,
            Part::Throughput => self.throughput().await,
            Part::OnePoint => self.one_point().await,
            Part::ManySeries => self.many_series().await,
            Part::Live => self.live().await,
            Part::OnceEach => self.once_each().await,
            Part::Refused => self.refused().await,
        }
    }

    /// The configuration of the topic that most parts drain, which is filled by the first of them.
    async fn many(&mut self) -> Result<Config, Failure> {
        let many = with_own_topics(self.bench, "many");
        if !self.is_published {
            publish(&many, self.arguments).await?;
            self.is_published = true;
        }
        Ok(many)
    }

    async fn files(&mut self) -> Result<Files, Failure> {
        match &self.files {
            Some(files) => Ok(files.clone()),
            None => Ok(self.files.insert(Files::make(self.scratch, self.arguments).await?).clone()),
        }
    }

    /// The drain, for ratios to it.
    fn beside(&self) -> Vec<(&'static str, &'static str, f64)> {
        self.drained.map(|rate| ("the drain", "drain", rate)).into_iter().collect()
    }

    async fn drain(&mut self) -> Result<(), Failure> {
        let (many, files) = (self.many().await?, self.files().await?);
        let standard = drain_beside(&many, self.file, self.arguments, self.scratch, &files, &limits::STANDARD).await?;
        self.drained = Some(standard.drain.points_a_second);
        standard.report(self.report, "", "", &[]);
        Ok(())
    }

    async fn replay(&mut self) -> Result<(), Failure> {
        let many = with_own_topics(self.bench, "many");
        let took = replay(&many, self.file, self.arguments, self.scratch).await?;
        let rate = self.arguments.total() as f64 / took.as_secs_f64();
        let beside = self.beside();
        self.report.rate("replay of a journal", "replay", rate, &beside);
        Ok(())
    }

    async fn throughput(&mut self) -> Result<(), Failure> {
        let (many, files) = (self.many().await?, self.files().await?);
        let (throughput, direct_compress) =
            drain_on_throughput(&many, self.file, self.arguments, self.scratch, &files).await?;
        let beside = self.beside();
        throughput.report(self.report, "throughput: ", "throughput_", &beside);
        let share = throughput.drain.compressed as f64 / self.arguments.total() as f64;
        let text = format!("{share:>8.2} of all; direct compress {direct_compress}");
        self.report.add("throughput: points in compressed rows", "throughput_compressed", text, rounded(share));
        self.files = None;
        files.remove(self.scratch).await
    }

    async fn one_point(&mut self) -> Result<(), Failure> {
        let (one, single) = (with_own_topics(self.bench, "one"), self.arguments.with_one_point());
        publish(&one, &single).await?;
        self.scratch.empty_tables().await?;
        let one = drain(&one, self.file, &single, self.scratch).await?;
        check_points(self.scratch, &single).await?;
        let beside = self.beside();
        self.report.rate("drain, 1 point a message", "one_point", one.points_a_second, &beside);
        one.report_cost(self.report, "one_point_");
        Ok(())
    }

    async fn many_series(&mut self) -> Result<(), Failure> {
        let (wide, of_many_series) = (with_own_topics(self.bench, "wide"), self.arguments.with_many_series());
        publish(&wide, &of_many_series).await?;
        let files = Files::make(self.scratch, &of_many_series).await?;
        let limits = [limits::WITHOUT_TRIGGER];
        let wide = drain_beside(&wide, self.file, &of_many_series, self.scratch, &files, &limits).await?;
        files.remove(self.scratch).await?;
        let beside = self.beside();
        wide.report(self.report, &format!("{} series: ", of_many_series.series), "many_series_", &beside);
        Ok(())
    }

    async fn live(&mut self) -> Result<(), Failure> {
        self.live_at("live", "", LIVE_POINTS_A_SECOND).await?;
        match self.drained {
            Some(rate) => self.live_at("half", ", half of the drain", rate / 2.0).await,
            None => Ok(()),
        }
    }

    async fn live_at(&mut self, key: &str, words: &str, rate: f64) -> Result<(), Failure> {
        let bench = with_own_topics(self.bench, key);
        let delays = live::measure(&bench, self.file, self.arguments, self.scratch, rate).await?;
        let [p50, p99] = [50, 99].map(|percent| delays.percentile(percent).as_millis() as u64);
        let text = format!("{p50:>8} ms from send to commit at the median");
        self.report.add(&format!("live, {rate:.0} points/s{words}"), &format!("{key}_p50_ms"), text, p50);
        self.report.add("", &format!("{key}_p99_ms"), format!("{p99:>8} ms for 99 % of the messages"), p99);
        Ok(())
    }

    async fn once_each(&mut self) -> Result<(), Failure> {
        let many = self.many().await?;
        for rule in [OnDuplicate::Ignore, OnDuplicate::Replace] {
            let drain = drain_once_each(&many, self.file, self.arguments, self.scratch, rule).await?;
            let name = rule.as_str();
            let beside = self.beside();
            self.report.rate(&format!("drain, on_duplicate {name}"), name, drain.points_a_second, &beside);
        }
        self.scratch.execute("drop the unique index", "drop index idx_time_series_data_points_unique").await?;
        Ok(())
    }

    async fn refused(&mut self) -> Result<(), Failure> {
        let many = self.many().await?;
        let clean = drain_with_check(&many, self.file, self.arguments, self.scratch, "-1").await?.points_a_second;
        let beside = self.beside();
        self.report.rate("drain with a CHECK", "check", clean, &beside);
        let refused = drain_with_check(&many, self.file, self.arguments, self.scratch, "0").await?.points_a_second;
        self.report.rate("the same, 0.01 % refused", "refused", refused, &[("that", "check", clean)]);
        Ok(())
    }
}

/// A drain, and the server's limits before and after it in points a second.
struct Beside {
    limits: Vec<Limit>,
    before: Vec<f64>,
    drain: Drain,
    after: Vec<f64>,
}

impl Beside {
    /// Adds all of it, the names and keys with something before them.
    fn report(&self, report: &mut Report, name: &str, key: &str, others: &[(&str, &str, f64)]) {
        let mut faster_ones = Vec::new();
        for ((limit, before), after) in self.limits.iter().zip(&self.before).zip(&self.after) {
            let text = format!("{before:>8.0} points/s before the drain, {after:.0} after");
            let faster = before.max(*after);
            let (name, key) = (format!("{name}COPY, {}", limit.name), format!("{key}copy_{}_points_per_s", limit.key));
            report.add(&name, &key, text, faster.round());
            faster_ones.push((limit, faster));
        }
        let drain = &self.drain;
        report.rate(&format!("{name}drain by the worker"), &format!("{key}drain"), drain.points_a_second, others);
        for (limit, faster) in faster_ones {
            let ratio = drain.points_a_second / faster;
            let key = format!("{key}drain_to_copy_{}", limit.key);
            report.add(&format!("  to COPY, {}", limit.name), &key, format!("{ratio:>8.2}"), rounded(ratio));
        }
        drain.report_cost(report, key);
    }
}

impl Drain {
    /// Adds what it took, the keys with something before them.
    fn report_cost(&self, report: &mut Report, key: &str) {
        for (whose, cpu) in [("worker", Some(self.cpu)), ("database", self.database_cpu)] {
            let Some(cpu) = cpu else { continue };
            let seconds = cpu.as_secs_f64() * 1e6 / self.points as f64;
            report.add(
                &format!("  CPU of the {whose}"),
                &format!("{key}{whose}_cpu_s_per_million"),
                format!("{seconds:>8.2} s per million points"),
                rounded(seconds),
            );
        }
        let mib = self.peak_rss_bytes as f64 / f64::from(1 << 20);
        report.add("  peak resident memory", &format!("{key}peak_rss_mib"), format!("{mib:>8.0} MiB"), mib.round());
        let all: f64 = self.steps.iter().map(|(_, seconds)| seconds).sum();
        let shares: Vec<(Step, f64)> =
            self.steps.iter().map(|(step, seconds)| (*step, seconds / all.max(f64::MIN_POSITIVE))).collect();
        let words: Vec<String> =
            shares.iter().map(|(step, share)| format!("{} {:.1} %", step.as_str(), 100.0 * share)).collect();
        let values: serde_json::Map<String, serde_json::Value> =
            shares.iter().map(|(step, share)| (step.as_str().to_owned(), rounded(*share).into())).collect();
        report.add("  share of each step", &format!("{key}step_shares"), format!("  {}", words.join(", ")), values);
    }
}

/// Drains the topic once, beside what the server does in these ways.
async fn drain_beside(
    bench: &Config,
    file: Option<&Path>,
    arguments: &Arguments,
    scratch: &Scratch,
    files: &Files,
    limits: &[Limit],
) -> Result<Beside, Failure> {
    let before = limits::measure(scratch, arguments, files, limits).await?;
    let drain = drain(bench, file, arguments, scratch).await?;
    check_points(scratch, arguments).await?;
    let after = limits::measure(scratch, arguments, files, limits).await?;
    Ok(Beside { limits: limits.to_vec(), before, drain, after })
}

/// Drains it again into a table of the profile `throughput`, and gives the table its profile back. With it, in words, whether
/// the server could compress what was copied.
async fn drain_on_throughput(
    bench: &Config,
    file: Option<&Path>,
    arguments: &Arguments,
    scratch: &Scratch,
    files: &Files,
) -> Result<(Beside, String), Failure> {
    let bench = with_own_group(bench, "throughput");
    scratch.empty_tables().await?;
    set_profile::set(&bench.database, Profile::Throughput, false, |_| ()).await?;
    let table = Database::new(&bench)?.look_at_table().await?;
    let mut limits = limits::THROUGHPUT.to_vec();
    if table.direct_compress.is_ok() {
        limits.extend(limits::DIRECT_COMPRESS);
    }
    let beside = drain_beside(&bench, file, arguments, scratch, files, &limits).await?;
    set_profile::set(&bench.database, Profile::Standard, false, |_| ()).await?;
    Ok((beside, table.direct_compress_text()))
}

/// A publisher, once the benchmark's topics are made.
async fn publisher_with_topics(bench: &Config) -> Result<Publisher, Failure> {
    let publisher = Publisher::new(&bench.kafka)?;
    let topics = [(bench.kafka.series_topic.as_str(), 1), (bench.kafka.points_topic.as_str(), PARTITIONS)];
    publisher.create_topics(&topics).await?;
    Ok(publisher)
}

async fn publish(bench: &Config, arguments: &Arguments) -> Result<(), Failure> {
    let publisher = publisher_with_topics(bench).await?;
    let points_topic = bench.kafka.points_topic.clone();
    let messages = arguments.rounds() * arguments.series;
    print_line(format_args!("publishing {messages} messages with {} points", arguments.total()));
    let bar = progress_bar(messages, "messages");
    let arguments = arguments.clone();
    tokio::task::spawn_blocking(move || -> Result<(), Failure> {
        for message in 0..messages {
            if is_interrupted() {
                break;
            }
            let (round, series) = (message / arguments.series, message % arguments.series);
            publisher.send(&points_topic, None, &series_id(series), arguments.message(series, round).as_bytes())?;
            bar.inc(1);
        }
        publisher.flush()?;
        bar.finish_and_clear();
        Ok(())
    })
    .await
    .map_err(|error| Failure::Internal(error.to_string()))?
}

/// A killed worker is a member of its group for a while, and the next one would wait for that.
fn with_own_group(bench: &Config, name: &str) -> Config {
    let mut bench = bench.clone();
    bench.kafka.group_id = format!("{}-{name}", bench.kafka.group_id);
    bench
}

/// The benchmark with topics of this name, and a group of its own.
fn with_own_topics(bench: &Config, name: &str) -> Config {
    let mut bench = with_own_group(bench, name);
    bench.kafka.series_topic = format!("{}.series", bench.kafka.group_id);
    bench.kafka.points_topic = format!("{}.points", bench.kafka.group_id);
    bench
}

/// Drains it again, each point stored once: none comes twice, so that it is the cost of looking.
async fn drain_once_each(
    bench: &Config,
    file: Option<&Path>,
    arguments: &Arguments,
    scratch: &Scratch,
    on_duplicate: OnDuplicate,
) -> Result<Drain, Failure> {
    let mut bench = with_own_group(bench, on_duplicate.as_str());
    bench.points.on_duplicate = on_duplicate;
    scratch.empty_tables().await?;
    schema::migrate(&bench).await?;
    let drain = drain(&bench, file, arguments, scratch).await?;
    check_points(scratch, arguments).await?;
    Ok(drain)
}

/// Drains it again into a table that refuses those of 10,000 rows that have this number.
async fn drain_with_check(
    bench: &Config,
    file: Option<&Path>,
    arguments: &Arguments,
    scratch: &Scratch,
    refused: &str,
) -> Result<Drain, Failure> {
    scratch.empty_tables().await?;
    let check = format!(
        "alter table time_series_data_points drop constraint if exists bench;
         alter table time_series_data_points add constraint bench check ({EVERY_10000TH} <> {refused})"
    );
    scratch.execute("add a constraint", &check).await?;
    let drain = drain(&with_own_group(bench, &format!("check{refused}")), file, arguments, scratch).await?;
    let summary = scratch.summary().await?;
    if summary.points + summary.dead_letters * arguments.points_a_message() != arguments.total() {
        return Err(Failure::Internal(format!(
            "the table has {} points and {} dead letters",
            summary.points, summary.dead_letters
        )));
    }
    print_line(format_args!(
        "{} messages of {} were refused",
        summary.dead_letters,
        arguments.total() / arguments.points_a_message()
    ));
    Ok(drain)
}

/// Runs the worker as a process of its own, until the table has all points.
async fn drain(
    bench: &Config,
    file: Option<&Path>,
    arguments: &Arguments,
    scratch: &Scratch,
) -> Result<Drain, Failure> {
    print_line("drain by the worker");
    let mut worker = Worker::start(bench, file, scratch)?;
    let bar = progress_bar(arguments.total(), "points");
    let (start, database_cpu) = (Instant::now(), postgres_cpu());
    let messages = arguments.total() / arguments.points_a_message();
    let show = |applied: usize| bar.set_position((applied * arguments.points_a_message()) as u64);
    until_applied(scratch, &mut worker, messages, Duration::from_millis(50), show).await?;
    let took = start.elapsed();
    bar.finish_and_clear();
    let database_cpu = database_cpu.zip(postgres_cpu()).map(|(before, after)| after.saturating_sub(before));
    let (cpu, peak_rss_bytes) = worker.usage()?;
    let steps = metrics::step_seconds(&worker.metrics().await?);
    worker.stop()?;
    let (points, compressed) = (arguments.total(), scratch.count_compressed_points().await?);
    let points_a_second = points as f64 / took.as_secs_f64();
    Ok(Drain { points, points_a_second, cpu, database_cpu, peak_rss_bytes, steps, compressed })
}

/// Asks so often for the number of messages that are applied until it is `expected`, and hands each answer on. The progress
/// costs nothing to ask, as rows would.
async fn until_applied(
    scratch: &Scratch,
    worker: &mut Worker,
    expected: usize,
    every: Duration,
    mut note: impl FnMut(usize),
) -> Result<(), Failure> {
    let mut last = (0, Instant::now());
    loop {
        let applied = scratch.applied_messages().await?;
        note(applied);
        if applied >= expected {
            return Ok(());
        }
        if applied != last.0 {
            last = (applied, Instant::now());
        }
        if last.1.elapsed() >= PATIENCE || worker.has_ended()? {
            return Err(Failure::Internal(format!("the worker stopped at {applied} of {expected} messages")));
        }
        tokio::time::sleep(every).await;
    }
}

/// Whether the table has all points once.
async fn check_points(scratch: &Scratch, arguments: &Arguments) -> Result<(), Failure> {
    let summary = scratch.summary().await?;
    if summary.points != arguments.total() || summary.distinct_points != arguments.total() {
        return Err(Failure::Internal(format!(
            "the table has {} points, {} of them different, of {} published",
            summary.points,
            summary.distinct_points,
            arguments.total()
        )));
    }
    Ok(())
}

/// This program with the benchmark's servers and topics.
fn program(bench: &Config, file: Option<&Path>, scratch: &Scratch) -> Result<Command, Failure> {
    let mut command = Command::new(std::env::current_exe()?);
    command
        .env("DATABASE_URL", scratch.url())
        .env("SERIES_INGEST__KAFKA__BROKERS", &bench.kafka.brokers)
        .env("SERIES_INGEST__KAFKA__GROUP_ID", &bench.kafka.group_id)
        .env("SERIES_INGEST__KAFKA__SERIES_TOPIC", &bench.kafka.series_topic)
        .env("SERIES_INGEST__KAFKA__POINTS_TOPIC", &bench.kafka.points_topic)
        .env("SERIES_INGEST__HTTP__LISTEN", "")
        .env("SERIES_INGEST__JOURNAL__ENABLED", "false")
        .env("SERIES_INGEST__POINTS__ON_DUPLICATE", bench.points.on_duplicate.as_str())
        .env("SERIES_INGEST__LOG__FILTER", "error")
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    if let Some(file) = file {
        command.arg("--config").arg(file);
    }
    Ok(command)
}

/// Writes the messages into a journal, and has `journal replay` write them into empty tables; how long that took.
async fn replay(
    bench: &Config,
    file: Option<&Path>,
    arguments: &Arguments,
    scratch: &Scratch,
) -> Result<Duration, Failure> {
    scratch.empty_tables().await?;
    let source = Arc::new(Source {
        kind: Kind::Points,
        cluster_id: "bench".to_owned(),
        topic: bench.kafka.points_topic.clone(),
        topic_id: "bench".to_owned(),
    });
    let starts: Vec<(i32, i64)> = (0..PARTITIONS).map(|partition| (partition, 0)).collect();
    Database::new(bench)?.start(&source, &starts).await?;
    let directory = Removed(std::env::temp_dir().join(scratch.name()));
    let replayed = async {
        let (journal, messages) = (directory.0.clone(), arguments.clone());
        let filled = tokio::task::spawn_blocking(move || fill_journal(&journal, &source, &messages)).await;
        filled.map_err(|error| Failure::Internal(error.to_string()))??;
        print_line("replay of a journal");
        let start = Instant::now();
        let mut command = program(bench, file, scratch)?;
        let child = Running::new(command.args(["journal", "replay", "--directory"]).arg(&directory.0).spawn()?);
        let status = child.ended().await?;
        let took = start.elapsed();
        if !status.success() {
            return Err(Failure::Internal("the replay failed".to_owned()));
        }
        check_points(scratch, arguments).await?;
        Ok(took)
    };
    replayed.await
}

/// A directory that is removed at the end of its scope.
struct Removed(PathBuf);

impl Drop for Removed {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            print_line(format_args!("the benchmark's journal {} is still there: {error}", self.0.display()));
        }
    }
}

/// A journal with all messages, as a worker would have written them.
fn fill_journal(directory: &Path, source: &Arc<Source>, arguments: &Arguments) -> Result<(), Failure> {
    let failed = |error: &dyn std::error::Error| Failure::Internal(format!("the benchmark's journal: {error}"));
    let segment_bytes = 64 << 20;
    let options = Options { directory: directory.to_owned(), segment_bytes, max_bytes: u64::MAX, min_free_bytes: 0 };
    let mut journal = Journal::open(RealFiles, options).map_err(|error| failed(&error))?;
    let mut building: Vec<MessageSetBuilder> =
        (0..PARTITIONS).map(|partition| MessageSetBuilder::new(Arc::clone(source), partition, 0)).collect();
    let mut sets = Vec::new();
    let next = |builder: &mut MessageSetBuilder, partition: usize| {
        let next = MessageSetBuilder::new(Arc::clone(source), partition as i32, builder.until());
        std::mem::replace(builder, next).build(None)
    };
    for round in 0..arguments.rounds() {
        if is_interrupted() {
            break;
        }
        for series in 0..arguments.series {
            let partition = series % building.len();
            let builder = &mut building[partition];
            let (key, payload) = (series_id(series), arguments.message(series, round));
            let (key, payload) = (Some(key.as_bytes()), Some(payload.as_bytes()));
            builder.push(&RawMessage { offset: builder.until(), key, payload, ..RawMessage::default() });
            if builder.bytes() >= SET_BYTES {
                sets.push(next(builder, partition));
            }
        }
        if sets.len() >= APPEND_SETS {
            journal.append(&std::mem::take(&mut sets)).map_err(|error| failed(&error))?;
        }
    }
    sets.extend(building.iter_mut().zip(0..).map(|(builder, partition)| next(builder, partition)));
    journal.append(&sets).map_err(|error| failed(&error))
}
