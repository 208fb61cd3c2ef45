//! Backups of the tables by pg_dump, each with a manifest of what it has.
//!
//! - `create`: a dump and its manifest, as of one moment; `folder`: how it becomes whole.
//! - `manifest`: what a backup has; `contents`: reading that from tables, and so comparing a restored backup.
//! - `restore`: into an empty database, to the same kind of server as a whole; `rows`: to another kind, row by row; `target`:
//!   which of them it is.
//! - `programs`: PostgreSQL's own programs. `record`: what the database remembers of its backups.
//! - `error`: what can go wrong.

mod contents;
mod create;
mod error;
mod folder;
mod manifest;
mod programs;
mod record;
mod restore;
mod rows;
mod target;

use std::sync::Arc;

pub use create::create;
pub use error::Error;
pub use folder::{Backup, Verification};
pub use manifest::{Contents, Manifest, Origin, PartitionProgress, SourceProgress};
pub use record::{record, record_verification, remove_older};
pub use restore::{Options, Restored, restore};
pub use target::Way;

/// A part of the work on a backup, whose progress is reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Bytes that pg_dump has written.
    Dump,
    /// Points counted.
    Count,
    /// Bytes of the dump read for its hash.
    Hash,
    /// Points restored; unknown while pg_restore works.
    Restore,
    /// Points of the restored tables counted.
    Compare,
}

/// Gets how far a stage is.
pub type Report = Arc<dyn Fn(Stage, u64) + Send + Sync>;

/// A suffix for a database's name that no other process has.
pub fn unique_suffix() -> String {
    let mut bytes = [0; 6];
    // Without randomness the process's number has to do, which the name has as well.
    let _ = getrandom::fill(&mut bytes);
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
