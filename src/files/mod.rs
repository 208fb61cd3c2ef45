//! Files of series and points: CSV, JSON lines, Parquet and Arrow. Knows nothing of the database.
//!
//! - [`mod@write`]: batches of rows into a file of any of the formats.
//! - [`whole`]: files that appear whole or not at all.
//! - `definition`: what is known of a series.

pub mod whole;
pub mod write;

mod definition;
mod error;

pub use definition::Definition;
pub use error::Error;
