//! The program: arguments in, exit code out.

use std::process::ExitCode;

use clap::Parser;

use series_ingest::allocator;
use series_ingest::cli::{Cli, Failure};

fn main() -> ExitCode {
    allocator::give_back_large_blocks();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let usage = error.use_stderr();
            // Where even this cannot be printed, the exit code still tells.
            drop(error.print());
            return if usage { ExitCode::from(Failure::USAGE) } else { ExitCode::SUCCESS };
        }
    };
    match cli.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("series-ingest: {failure}");
            ExitCode::from(failure.exit_code())
        }
    }
}
