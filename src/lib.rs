//! `series-ingest` moves time series from Kafka into TimescaleDB, exactly once.
//!
//! ```text
//! Kafka ─ kafka ─ MessageSet ─▶ pipeline ─ Batch ─▶ database : one transaction {COPY + dead letters + claim}
//!                                  │  ▲
//!              the database is away ▼  │ replay: the same decode, batch, transaction
//!                                journal
//! ```
//!
//! The modules in the order in which a message passes through them: [`config`], [`kafka`], [`raw`], [`input`], [`message`],
//! [`batch`], [`pipeline`], [`database`], [`journal`]; alongside them [`telemetry`], [`allocator`] and the commands in [`cli`].
//! The rows of a file that is imported are messages, too, and take the same way: [`files`], [`repository`].
//! ARCHITECTURE.md has the guarantee and its invariants.

pub mod allocator;
pub mod batch;
pub mod cli;
pub mod config;
pub mod database;
pub mod files;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
pub mod input;
pub mod journal;
pub mod kafka;
pub mod message;
pub mod pipeline;
#[cfg(feature = "planted-bugs")]
pub mod planted_bugs;
pub mod raw;
pub mod repository;
pub mod telemetry;
mod tls;
