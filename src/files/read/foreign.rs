//! Calls of libraries with the bytes of a file: one that is damaged may make them panic.

use std::cell::Cell;
use std::panic::{self, AssertUnwindSafe};
use std::path::Path;
use std::sync::Once;

use super::ReadError;

thread_local! {
    /// `true` while a panic of this thread becomes an error, and is not reported otherwise.
    static IS_CAUGHT: Cell<bool> = const { Cell::new(false) };
}

/// Reports no panic that becomes an error.
fn silence() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let report = panic::take_hook();
        panic::set_hook(Box::new(move |panic| {
            if !IS_CAUGHT.get() {
                report(panic);
            }
        }));
    });
}

/// Calls a library, and takes its panic for damage of the file after this row. What the call works on is not used after it.
pub(super) fn guarded<T>(path: &Path, row: i64, call: impl FnOnce() -> T) -> Result<T, ReadError> {
    silence();
    let before = IS_CAUGHT.replace(true);
    let result = panic::catch_unwind(AssertUnwindSafe(call));
    IS_CAUGHT.set(before);
    result
        .map_err(|_| ReadError::damaged(path, row, "the file's format cannot be read: its parts contradict each other"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_damage() {
        let path = Path::new("f");
        assert_eq!(guarded(path, 7, || 1).unwrap(), 1);
        let error = guarded(path, 7, || [1][path.as_os_str().len()]).unwrap_err();
        assert!(error.to_string().starts_with("f: after row 7: "), "{error}");
    }
}
