//! The checkers catch what they are for.

use super::fault_files::{Call, Fault, FaultFiles};
use super::{crash, damage, faults, lost};
use crate::journal::planted::{Bug, with};

/// The checker passes without the bug and fails with it, for the reason that the bug is one.
fn caught<T>(bug: Bug, reason: &str, checker: impl Fn() -> Result<T, String>) {
    if let Err(error) = checker() {
        panic!("{bug:?} is off: {error}");
    }
    match with(bug, &checker) {
        Ok(_) => panic!("{bug:?} is not caught"),
        Err(error) if error.contains(reason) => println!("{bug:?} is caught: {error:.200}"),
        Err(error) => panic!("{bug:?} is caught for another reason: {error}"),
    }
}

#[test]
fn a_skipped_fsync_is_caught() {
    caught(Bug::NoSync, "lost", || crash::crash_everywhere(1, 2, FaultFiles::new));
}

#[test]
fn a_skipped_directory_fsync_is_caught() {
    caught(Bug::NoDirectorySync, "lost", || crash::crash_everywhere(1, 2, FaultFiles::new));
}

#[test]
fn a_retried_fsync_is_caught() {
    let retry = |nth| Fault { call: Call::Sync, nth, times: 1, errno: 5 };
    // By what it costs, and by the call itself.
    caught(Bug::SyncRetried, "after a power failure: lost", || {
        (0..10).try_for_each(|nth| {
            faults::inject(nth, retry(nth))
                .map(|_| ())
                .or_else(|error| if error.contains("lost") { Err(error) } else { Ok(()) })
        })
    });
    caught(Bug::SyncRetried, "sync of a file after its write or sync failed", || {
        (0..10).try_for_each(|nth| {
            faults::inject(nth, retry(nth))
                .map(|_| ())
                .or_else(|error| if error.contains("lost") { Ok(()) } else { Err(error) })
        })
    });
}

#[test]
fn damage_in_the_middle_taken_for_a_torn_tail_is_caught() {
    caught(Bug::DamageIsTornTail, "00003.segment, byte", || damage::flip_every_byte(13));
    caught(Bug::DamageIsTornTail, "lost", || damage::flip_every_byte(13));
}

#[test]
fn a_checksum_without_its_salt_is_caught() {
    caught(Bug::NoSalt, "invented", damage::another_journals_records);
}

#[test]
fn a_full_journal_that_drops_is_caught() {
    caught(Bug::DropWhenFull, "lost", faults::fill);
}

#[test]
fn records_that_are_acknowledged_in_a_file_that_is_gone_are_caught() {
    caught(Bug::NotFoundAgain, "lost", || lost::lose(1, lost::Loss::Directory, false));
    caught(Bug::NotFoundAgain, "lost", || lost::lose(1, lost::Loss::LastSegment, false));
    caught(Bug::NotFoundAgain, "another process gets it", || lost::lose(1, lost::Loss::Lock, false));
}
