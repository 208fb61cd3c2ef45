//! The journal's planted bugs. Tests switch one on for their own thread, or for a process by its environment.

/// A fault that the tests must catch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(not(feature = "planted-bugs"), allow(dead_code, reason = "never on"))]
pub(super) enum Bug {
    /// Records are acknowledged without fdatasync.
    NoSync,
    /// A segment's name is not made durable.
    NoDirectorySync,
    /// A failed fdatasync is called again.
    SyncRetried,
    /// The last segment is cut off at its first damaged place.
    DamageIsTornTail,
    /// Checksums do not depend on the place.
    NoSalt,
    /// What was written to files that no longer exist is acknowledged.
    NotFoundAgain,
    /// What a full journal has no room for is acknowledged and dropped.
    DropWhenFull,
}

#[cfg(feature = "planted-bugs")]
thread_local! {
    static ON: std::cell::Cell<Option<Bug>> = const { std::cell::Cell::new(None) };
}

/// Returns `true` if the bug is switched on: never without the feature.
#[cfg(not(feature = "planted-bugs"))]
pub(super) const fn is_on(_: Bug) -> bool {
    false
}

/// Returns `true` if the bug is switched on.
#[cfg(feature = "planted-bugs")]
pub(super) fn is_on(bug: Bug) -> bool {
    static NAMED: std::sync::OnceLock<Vec<Bug>> = std::sync::OnceLock::new();
    let names = [
        (Bug::NoSync, "journal-no-sync"),
        (Bug::NoDirectorySync, "journal-no-directory-sync"),
        (Bug::SyncRetried, "journal-sync-retried"),
        (Bug::DamageIsTornTail, "journal-damage-is-torn-tail"),
        (Bug::NoSalt, "journal-no-salt"),
        (Bug::NotFoundAgain, "journal-not-found-again"),
        (Bug::DropWhenFull, "journal-drop-when-full"),
    ];
    let named = NAMED.get_or_init(|| {
        names.into_iter().filter(|(_, name)| crate::planted_bugs::is_on(name)).map(|(bug, _)| bug).collect()
    });
    ON.get() == Some(bug) || named.contains(&bug)
}

/// Runs `f` with the bug switched on for this thread.
#[cfg(all(test, feature = "planted-bugs"))]
pub(super) fn with<T>(bug: Bug, f: impl FnOnce() -> T) -> T {
    struct Off;
    impl Drop for Off {
        fn drop(&mut self) {
            ON.set(None);
        }
    }
    let _off = Off;
    ON.set(Some(bug));
    f()
}
