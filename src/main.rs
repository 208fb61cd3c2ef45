//! The program: arguments in, exit code out.

mod standard_output;

use std::process::ExitCode;

use series_ingest::telemetry::logging;
use series_ingest::{allocator, cli};

fn main() -> ExitCode {
    allocator::give_back_large_blocks();
    let _flush = logging::FlushOnDrop;
    ExitCode::from(cli::main(standard_output::was_closed()))
}
