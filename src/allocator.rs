//! glibc's allocator, set to return large blocks.
#![allow(unsafe_code)]

/// Blocks of at least this many bytes are mapped individually, and returned to the system when they are freed. It is glibc's
/// own default, which glibc raises to up to 32 MiB as soon as such a block is freed.
///
/// librdkafka allocates what the brokers send and what it decompresses on one thread, and other threads free it. In the arenas
/// of threads such blocks leave holes of many sizes that are never returned, several times what is in use.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const MAPPED_BYTES: libc::c_int = 128 * 1024;

/// Returns large blocks to the system from now on; allocators other than glibc's are left alone.
pub fn give_back_large_blocks() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        // SAFETY: it sets a number that the allocator reads, under the allocator's own lock.
        let is_set = unsafe { libc::mallopt(libc::M_MMAP_THRESHOLD, MAPPED_BYTES) };
        debug_assert_eq!(is_set, 1, "glibc takes up to half of what an arena's heap has");
    }
}
