//! What is known of a file of the archive.

use serde::{Deserialize, Serialize};

use super::origin::Origin;
use super::summary::Summary;

/// The version of the form of manifests.
pub(super) const FORMAT_VERSION: u32 = 1;

/// The manifest of a file: JSON, next to it. It appears after the file, so that a file that has one is whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// The version of this form.
    pub format_version: u32,
    /// The program that has written it, with its version.
    pub program: String,
    /// When it was written, by RFC 3339.
    pub created_at: String,
    /// Where the points come from.
    pub origin: Origin,
    /// The first time of the unit, by RFC 3339.
    pub from: String,
    /// The first time after it.
    pub until: String,
    /// The first time of the unit, in microseconds since the Unix epoch.
    pub from_us: i64,
    /// The first time after it.
    pub until_us: i64,
    /// The name of the file, in the same folder.
    pub file: String,
    /// Its length, in bytes.
    pub bytes: u64,
    /// Its SHA-256 in hexadecimal, as `sha256sum` prints it.
    pub sha256: String,
    /// The number of its rows, each a point.
    pub rows: u64,
    /// The number of series that they have.
    pub series: u64,
    /// The number of columns that these have.
    pub columns: u64,
    /// The time of the first point, by RFC 3339.
    pub first_time: Option<String>,
    /// The time of the last point.
    pub last_time: Option<String>,
    /// The SHA-256 of its points in their order: series, column, time, and the bits of the value.
    pub content_sha256: String,
    /// What the server said of the rows of the unit when they were read.
    pub table_summary: Summary,
    /// The ids of some of these rows: if the table has none of them, the rows were dropped.
    pub sample_ids: Vec<i64>,
}
