//! The inputs of a plan besides the payload, and its result.

/// The parts of a message besides the payload.
#[derive(Debug, Clone, Copy)]
pub(super) struct Around<'a> {
    pub(super) key: Option<&'a [u8]>,
    pub(super) headers: Option<&'a [u8]>,
    pub(super) time_ms: Option<i64>,
    pub(super) topic: &'a str,
    pub(super) groups: &'a [String],
}

/// The result of a plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Made {
    /// Points, which were added.
    Points,
    /// Nothing: its values are skipped, as the input is configured.
    Skipped,
    /// Nothing, because it has no values by its nature.
    Nothing,
}
