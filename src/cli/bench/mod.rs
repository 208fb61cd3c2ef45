//! `bench`: drains a topic with the real worker, and compares it with COPY of the same rows into the same table by the server
//! itself, and with a replay of the same messages from a journal. Then it drains the same points in the more expensive ways:
//! one per message, stored once each, and into a table that rejects some rows. Finally it sends messages at a steady rate.

mod arguments;
mod compared_drain;
mod drain;
mod limits;
mod live;
mod once_each;
mod parts;
mod process;
mod refused;
mod replay;
mod report;
mod throughput;
mod topics;

use std::path::PathBuf;
use std::sync::Arc;

use super::interrupt::Interrupts;
use super::{Failure, brokers_of, print_line};
use crate::config::{Config, Secret};
use crate::database::scratch::ScratchDatabase;
pub(super) use arguments::Arguments;
use parts::Run;
use report::Report;
use topics::delete_topics;

/// Age at which the policy compresses a chunk: longer than any benchmark lasts, and older than its points.
const COMPRESS_AFTER_S: u64 = 100 * 365 * 86_400;

pub(super) async fn run(config: Arc<Config>, file: Option<PathBuf>, arguments: Arguments) -> Result<(), Failure> {
    config.require_database()?;
    if [arguments.points, arguments.series, arguments.columns, arguments.timestamps].contains(&0) {
        return Err(Failure::Usage("--points, --series, --columns and --timestamps must be above 0".to_owned()));
    }
    let brokers = brokers_of(arguments.brokers.as_deref(), &config)?;
    let brokers = brokers
        .ok_or_else(|| Failure::Usage("bench needs a broker: give --brokers, or set KAFKA_BROKERS".to_owned()))?;
    // A file that cannot be written is reported before the measurements.
    let mut report = Report::new(arguments.json.clone())?;
    let mut interrupts = Interrupts::listen()?;
    let scratch = ScratchDatabase::create(&config.database, "series_ingest_bench").await?;
    let mut bench = (*config).clone();
    let name = scratch.name().to_owned();
    print_line(format_args!("Kafka at {brokers}; database {name} made for the benchmark"));
    bench.kafka.brokers = brokers;
    bench.kafka.group_id = name.replace('_', "-");
    bench.database.url = Secret::new(scratch.url().to_owned());
    // Rows are compressed as they are copied, and not by the policy meanwhile.
    bench.database.compress_after_s = COMPRESS_AFTER_S;
    let run = Run::new(&bench, file.as_deref(), &arguments, &scratch, &mut report);
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

async fn clean_up(bench: &Config, scratch: ScratchDatabase) {
    let name = scratch.name().to_owned();
    if let Err(error) = delete_topics(bench).await {
        print_line(format_args!("the benchmark's topics are still there: {error}"));
    }
    if let Err(error) = scratch.remove().await {
        print_line(format_args!("the benchmark's database {name} is still there: {error}"));
    }
}
