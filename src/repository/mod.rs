//! What analysts do with series and points, as SQL and types: for the commands, and for tests.
//!
//! - [`Snapshot`]: the database at one moment, which everything that reads asks.
//! - `replica`: which server is read; `fresh`: when it has what must be seen.
//! - `series`: series, their columns, and their first and last times.
//! - `gaps`: spans of time without points.
//! - `glob`: patterns of ids; `literal`: times in SQL; `copy_rows`: the format of COPY.
//! - [`backup`]: backups by pg_dump, their verification and their restore.
//! - [`export`]: points as batches of Arrow.
//! - [`archive`]: old points into files, compared, and then dropped.
//! - [`import`]: files into the database, each row once.
//! - [`view`]: SQL views of one series.
//! - [`advise`]: what could be better in the database.
//! - `error`: what can go wrong.

pub mod advise;
pub mod archive;
pub mod backup;
pub mod export;
pub mod import;

mod copy_rows;
mod error;
mod fresh;
mod gaps;
mod glob;
mod literal;
mod replica;
mod series;
mod snapshot;
pub mod view;

pub use error::Error;
pub use fresh::FreshAsOf;
pub use gaps::TimeGap;
pub use glob::Glob;
pub use replica::ReadOptions;
pub use series::{ColumnSpan, Selection, Series, chosen_columns};
pub use snapshot::Snapshot;
