//! Old points into files, which are read back and compared with the table; then the points are dropped.
//!
//! The unit is a chunk, or a day of a plain table. Nothing is remembered besides the files: what is to be done follows from the
//! manifests and the database, so that a command that was killed goes on when it is run again.
//!
//! - [`Archive`]: one unit after the other; `units`: which they are.
//! - `session`: the connection that drops points, and the lock that lets one archive of a database run at a time.
//! - `export`: a unit into a file; `rows`: the rows of the server's answer; `contents`: what they are; [`Manifest`], with its `origin`.
//! - `folder`: the names of the files; `verify`: a file as the disk has it; `older`: files that a newer one makes redundant.
//! - `summary`: what the server says of the rows of a unit; `remove`: dropping them if they are still those of the file.

mod contents;
mod error;
mod export;
mod folder;
mod manifest;
mod older;
mod origin;
mod remove;
mod rows;
mod run;
mod session;
mod summary;
mod units;
mod verify;

pub use error::ArchiveError;
pub use folder::Folder;
pub use manifest::Manifest;
pub use origin::Origin;
pub use run::{Archive, Archived, Options};
pub use summary::Summary;
pub use units::Unit;

use std::time::Duration;

/// The table of points.
const POINTS: &str = "time_series_data_points";
/// The table of the versions of points.
const VERSIONS: &str = "ingest_point_version";
/// Timeout for an answer of the server, which may read and sort all points of a unit first.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3600);
