//! `schema set-profile`: the indexes and constraints of the table of points.

use clap::{Args, Subcommand, ValueEnum};

use super::{Failure, print_line};
use crate::config::Config;
use crate::database::schema::profile::Profile;
use crate::database::schema::set_profile;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Convert the table of points to a profile; parts that already conform stay. It may be stopped, and repeated.
    SetProfile(SetProfile),
}

#[derive(Debug, Args)]
pub(super) struct SetProfile {
    /// The profile.
    #[arg(value_enum)]
    profile: Name,
    /// Only print the statements, the locks that each takes, and for how long.
    #[arg(long)]
    dry_run: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Name {
    /// All indexes, the primary key and the foreign key.
    Standard,
    /// Without the two keys, and the indexes that others cover: several times as fast.
    Throughput,
}

pub(super) async fn run(config: &Config, Command::SetProfile(arguments): Command) -> Result<(), Failure> {
    config.require_database()?;
    let profile = match arguments.profile {
        Name::Standard => Profile::Standard,
        Name::Throughput => Profile::Throughput,
    };
    set_profile::set(&config.database, profile, arguments.dry_run, |line| print_line(line)).await?;
    Ok(())
}
