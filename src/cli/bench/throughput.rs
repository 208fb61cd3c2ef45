//! A drain into a table of the profile `throughput`.

use std::path::Path;

use super::arguments::Arguments;
use super::compared_drain::{ComparedDrain, compared_drain};
use super::limits::{self, Files};
use super::topics::with_own_group;
use crate::cli::Failure;
use crate::config::Config;
use crate::database::Database;
use crate::database::schema::profile::Profile;
use crate::database::schema::set_profile;
use crate::database::scratch::ScratchDatabase;

/// Drains the topic again into a table of the profile `throughput`, and restores the table's profile. Returns the drain, and a
/// text that says whether the server could compress the copied rows.
pub(super) async fn drain_on_throughput(
    bench: &Config,
    file: Option<&Path>,
    arguments: &Arguments,
    scratch: &ScratchDatabase,
    files: &Files,
) -> Result<(ComparedDrain, String), Failure> {
    let bench = with_own_group(bench, "throughput");
    scratch.empty_tables().await?;
    set_profile::set(&bench.database, Profile::Throughput, false, |_| ()).await?;
    let table = Database::new(&bench)?.look_at_table().await?;
    let mut limits = limits::THROUGHPUT.to_vec();
    if table.direct_compress.is_ok() {
        limits.extend(limits::DIRECT_COMPRESS);
    }
    let compared = compared_drain(&bench, file, arguments, scratch, files, &limits).await?;
    set_profile::set(&bench.database, Profile::Standard, false, |_| ()).await?;
    Ok((compared, table.direct_compress_text()))
}
