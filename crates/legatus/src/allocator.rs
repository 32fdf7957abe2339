//! Settings of the C library's allocator.

/// Bytes of freed memory that each thread's heap keeps for the next buffers: what one busy call has on
/// its way at one of its ends (a window of 2 MiB, a channel of 1 MiB, records and chunks), and as much
/// again, because it is not freed in the order in which it lies there. By default 128 KiB are kept,
/// and a stream of large messages gives its memory back and takes it anew all the time: a seventh of a
/// server's processor time under load went into the page faults of that, and a tenth of a client's with
/// 2 MiB (both measured).
#[cfg(target_env = "gnu")]
const KEPT_BYTES: libc::c_int = 8 << 20;

/// Keeps the memory of buffers between messages. Must come before the first thread.
#[cfg(target_env = "gnu")]
pub(crate) fn keep_buffers() {
    // The threshold for memory maps of their own has to be set as well, as setting one of the two
    // ends their adaptation to the program (mallopt(3)).
    for parameter in [libc::M_TRIM_THRESHOLD, libc::M_MMAP_THRESHOLD] {
        #[expect(unsafe_code, reason = "no safe crate has mallopt(3)")]
        // SAFETY: it takes two numbers and is called before there is a second thread. Where a
        // number is refused, all stays as it was.
        unsafe {
            libc::mallopt(parameter, KEPT_BYTES)
        };
    }
}

/// Other allocators are left alone.
#[cfg(not(target_env = "gnu"))]
pub(crate) fn keep_buffers() {}
