//! Work for two processors at a time.

use std::io;
use std::thread::{Builder, scope};

/// Does `there` in a thread of its own while `here` is done, or after it where no thread can be started.
///
/// # Errors
/// When the thread panics.
pub(super) fn beside<A: Send, B>(
    there: impl Fn() -> A + Sync,
    here: impl FnOnce() -> B,
) -> io::Result<(A, B)> {
    scope(|scope| {
        let started = Builder::new().spawn_scoped(scope, &there);
        let here = here();
        match started {
            Ok(started) => match started.join() {
                Ok(there) => Ok((there, here)),
                Err(_) => Err(io::Error::other("a thread of the copy failed")),
            },
            Err(_) => Ok((there(), here)),
        }
    })
}
