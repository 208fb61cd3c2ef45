//! Points as batches of Arrow.
//!
//! - `options`: what is asked for; [`Plan`]: what a series has of it.
//! - `windows`: the points of one span of time after the other.
//! - `sql`: the question for them; `decode`: its answer.
//! - `wide`, `long`: their rows.

mod decode;
mod long;
mod options;
mod plan;
mod sql;
mod wide;
mod windows;

pub use options::{Aggregate, Bucket, Duplicates, Form, Options, Part};
pub use plan::Plan;
pub use windows::{Read, estimate, first_time, part_start, read};
