//! Faults that tests switch on to prove that a checker catches them. Only in builds with the feature `planted-bugs`, and
//! only if the environment names the fault.

/// The environment variable that names the faults to switch on, with commas between them.
pub const VARIABLE: &str = "SERIES_INGEST_PLANTED_BUGS";

/// Returns `true` if the fault `name` is switched on.
pub fn is_on(name: &str) -> bool {
    std::env::var(VARIABLE).is_ok_and(|names| names.split(',').any(|on| on == name))
}
