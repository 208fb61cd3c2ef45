//! The program: arguments in, exit code out.

mod standard_output;

use std::process::ExitCode;

use series_ingest::{allocator, cli};

fn main() -> ExitCode {
    allocator::give_back_large_blocks();
    ExitCode::from(cli::main(standard_output::was_closed()))
}
