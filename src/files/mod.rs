//! Files of series and points: CSV, JSON lines, Parquet and Arrow. Knows nothing of the database.
//!
//! - [`read`]: the contents of a file, and each of its rows as a native message.
//! - [`mod@write`]: batches of rows into a file of any of the formats.
//! - [`whole`]: files that appear whole or not at all.
//! - `format`: the formats, their compression, and what a row is; `definition`: what is known of a series.

pub mod read;
pub mod whole;
pub mod write;

mod definition;
mod error;
mod format;
#[cfg(test)]
mod tests;

pub use definition::{BESIDE, Definition};
pub use error::Error;
pub use format::{Compression, Form, Format};

/// Bytes as hexadecimal digits, such as those of a hash.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
