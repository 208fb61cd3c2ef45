//! The modes, and the transitions between them.

/// The destination of messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::pipeline) enum Mode {
    /// To the database.
    Streaming,
    /// To the journal, because the database is not available.
    Journaling,
    /// To the database, which is available again. The journal's records are written as well, oldest first.
    Replaying,
}

/// The facts that determine the mode, at a tick of the loop.
#[derive(Debug, Clone, Copy)]
pub(super) struct Facts {
    /// There is a journal.
    pub(super) has_journal: bool,
    /// The database has failed for the whole `database.outage_grace_ms`.
    pub(super) is_outage: bool,
    /// The database executes requests, including writes.
    pub(super) is_up: bool,
    /// The database answers queries; it may still refuse rows, for instance if its disk is full.
    pub(super) answers: bool,
    /// The database has all of the journal, and nothing waits for the journal.
    pub(super) is_drained: bool,
    /// The journal was compared with the database, and none of its records is to be written or is being written.
    pub(super) is_trial_over: bool,
    /// The journal refuses records, or does not return its records.
    pub(super) has_problem: bool,
}

/// The decision about the trial of a database that answers queries and may refuse rows: a first record of the journal is
/// written, and an outage ends when that succeeds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Trial {
    /// There is none, or it continues.
    Unchanged,
    /// There is no record to write, or the journal refuses the messages in memory, which are then the trial: the database
    /// counts as up.
    TrustAnswers,
    /// The last record was not written: a survey finds the next.
    SurveyAgain,
}

impl Mode {
    pub(in crate::pipeline) const ALL: [Self; 3] = [Self::Streaming, Self::Journaling, Self::Replaying];

    pub(in crate::pipeline) fn as_str(self) -> &'static str {
        match self {
            Self::Streaming => "streaming",
            Self::Journaling => "journaling",
            Self::Replaying => "replaying",
        }
    }

    /// Returns the mode that follows this one.
    pub(super) fn next(self, facts: Facts) -> Self {
        match self {
            _ if !facts.has_journal => Self::Streaming,
            Self::Streaming | Self::Replaying if facts.is_outage => Self::Journaling,
            Self::Journaling if facts.is_up => Self::Replaying,
            Self::Replaying if facts.is_drained => Self::Streaming,
            // The journal of an earlier process.
            Self::Streaming if !facts.is_drained => Self::Replaying,
            unchanged => unchanged,
        }
    }

    /// Returns the decision about the trial that may end an outage.
    pub(super) fn trial(self, facts: Facts) -> Trial {
        if self != Self::Journaling || facts.is_up || !facts.answers || !facts.is_trial_over {
            Trial::Unchanged
        } else if facts.is_drained || facts.has_problem {
            Trial::TrustAnswers
        } else {
            Trial::SurveyAgain
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Mode::{Journaling, Replaying, Streaming};
    use super::Trial::{SurveyAgain, TrustAnswers, Unchanged};
    use super::*;

    const YES: &[bool] = &[true];
    const NO: &[bool] = &[false];
    const ANY: &[bool] = &[true, false];

    /// All combinations of facts.
    fn all_facts() -> impl Iterator<Item = Facts> {
        (0..128).map(|bits| Facts {
            is_outage: bits & 1 != 0,
            is_up: bits & 2 != 0,
            answers: bits & 4 != 0,
            is_drained: bits & 8 != 0,
            is_trial_over: bits & 16 != 0,
            has_problem: bits & 32 != 0,
            has_journal: bits & 64 != 0,
        })
    }

    /// The one result among a table's rows that match.
    fn only<T: Copy>(fitting: impl Iterator<Item = T>, case: impl std::fmt::Debug) -> T {
        let fitting: Vec<T> = fitting.collect();
        assert_eq!(fitting.len(), 1, "rows that fit {case:?}");
        fitting[0]
    }

    #[test]
    fn the_mode_follows_the_database_and_the_journal() {
        #[rustfmt::skip]
        let table = [
            // mode       journal  outage  up   drained  next
            (Streaming,   NO,      ANY,    ANY,  ANY,    Streaming),
            (Journaling,  NO,      ANY,    ANY,  ANY,    Streaming),
            (Replaying,   NO,      ANY,    ANY,  ANY,    Streaming),
            (Streaming,   YES,     YES,    ANY,  ANY,    Journaling),
            (Streaming,   YES,     NO,     ANY,  YES,    Streaming),
            (Streaming,   YES,     NO,     ANY,  NO,     Replaying),
            (Journaling,  YES,     ANY,    YES,  ANY,    Replaying),
            (Journaling,  YES,     ANY,    NO,   ANY,    Journaling),
            (Replaying,   YES,     YES,    ANY,  ANY,    Journaling),
            (Replaying,   YES,     NO,     ANY,  YES,    Streaming),
            (Replaying,   YES,     NO,     ANY,  NO,     Replaying),
        ];
        for (mode, facts) in Mode::ALL.into_iter().flat_map(|mode| all_facts().map(move |facts| (mode, facts))) {
            let fits = table.iter().filter(|(from, journal, outage, up, drained, _)| {
                *from == mode
                    && journal.contains(&facts.has_journal)
                    && outage.contains(&facts.is_outage)
                    && up.contains(&facts.is_up)
                    && drained.contains(&facts.is_drained)
            });
            assert_eq!(mode.next(facts), only(fits.map(|row| row.5), (mode, facts)), "{mode:?} {facts:?}");
        }
    }

    #[test]
    fn a_trial_ends_when_no_record_is_left_to_try() {
        #[rustfmt::skip]
        let table = [
            // up   answers  over  drained  problem  what happens
            (YES,   ANY,     ANY,  ANY,     ANY,     Unchanged),
            (NO,    NO,      ANY,  ANY,     ANY,     Unchanged),
            (NO,    YES,     NO,   ANY,     ANY,     Unchanged),
            (NO,    YES,     YES,  YES,     ANY,     TrustAnswers),
            (NO,    YES,     YES,  NO,      YES,     TrustAnswers),
            (NO,    YES,     YES,  NO,      NO,      SurveyAgain),
        ];
        for facts in all_facts() {
            let fits = table.iter().filter(|(up, answers, over, drained, problem, _)| {
                up.contains(&facts.is_up)
                    && answers.contains(&facts.answers)
                    && over.contains(&facts.is_trial_over)
                    && drained.contains(&facts.is_drained)
                    && problem.contains(&facts.has_problem)
            });
            assert_eq!(Journaling.trial(facts), only(fits.map(|row| row.5), facts), "{facts:?}");
            assert_eq!(Streaming.trial(facts), Unchanged, "{facts:?}");
            assert_eq!(Replaying.trial(facts), Unchanged, "{facts:?}");
        }
    }
}
