//! The steps in which the server sees what messages say: what a failure means rests on them.

/// The step at which the server refuses rows.
pub(in crate::database) const COPY_STEP: &str = "copy";
/// Creating or updating series by their definitions.
pub(in crate::database) const DEFINE_STEP: &str = "define series";
/// Making sure that the series of points have their rows.
pub(in crate::database) const ENSURE_SERIES_STEP: &str = "list the columns of series";
/// Storing dead letters.
pub(in crate::database) const LETTERS_STEP: &str = "store dead letters";
/// Counting those that are not stored.
pub(in crate::database) const COUNT_STEP: &str = "count dead letters that are not stored";
/// What is deferred to the transaction's end is checked in this one.
pub(in crate::database) const COMMIT_STEP: &str = "commit";
/// The steps in which the server sees what messages say, and may refuse it.
pub(in crate::database) const STEPS_WITH_ROWS: [&str; 6] =
    [COPY_STEP, DEFINE_STEP, ENSURE_SERIES_STEP, LETTERS_STEP, COUNT_STEP, COMMIT_STEP];
