//! A replay of the messages from a journal.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::arguments::{Arguments, series_id};
use super::drain::check_points;
use super::process::{Running, program};
use super::topics::PARTITIONS;
use crate::cli::interrupt::is_interrupted;
use crate::cli::{Failure, print_line};
use crate::config::Config;
use crate::database::Database;
use crate::database::scratch::ScratchDatabase;
use crate::journal::{Journal, Options, RealFiles};
use crate::raw::{Kind, MessageSetBuilder, RawMessage, Source};

/// Size of the sets that the consumer hands on, in bytes.
const SET_BYTES: usize = 128 * 1024;
/// Number of sets in one append.
const APPEND_SETS: usize = 64;

/// Writes the messages into a journal, and has `journal replay` write them into empty tables. Returns how long that took.
pub(super) async fn replay(
    bench: &Config,
    file: Option<&Path>,
    arguments: &Arguments,
    scratch: &ScratchDatabase,
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
