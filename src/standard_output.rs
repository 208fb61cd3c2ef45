//! Detection of a process that was started without a standard output. The standard library opens `/dev/null` in its place
//! before `main`, and all that is printed would be lost without an error.
#![allow(unsafe_code, reason = "the only place before the standard library's start is a section of the linker")]

use std::sync::atomic::{AtomicBool, Ordering};

static CLOSED: AtomicBool = AtomicBool::new(false);

/// Called by the C library before `main`, as the System V ABI says of `.init_array`.
#[cfg(target_os = "linux")]
#[used]
// SAFETY: the section holds pointers to functions of the C ABI, and this is one. It makes one system call and stores a boolean,
// and these two do not need the standard library's runtime.
#[unsafe(link_section = ".init_array")]
static BEFORE_MAIN: extern "C" fn() = {
    extern "C" fn look() {
        let found = rustix::io::fcntl_getfd(rustix::stdio::stdout());
        CLOSED.store(found == Err(rustix::io::Errno::BADF), Ordering::Relaxed);
    }
    look
};

/// Returns `true` if the process was started without a standard output.
pub(crate) fn was_closed() -> bool {
    CLOSED.load(Ordering::Relaxed)
}
