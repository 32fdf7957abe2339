//! What holds the processes of a call together.

use std::fmt;
use std::io;
use std::os::fd::BorrowedFd;
use std::time::Duration;

/// A group that processes enter and cannot leave, with all that they start (cgroup v2). A call has
/// one where the system lets it; a Commander that starts processes puts them there, and falls back
/// on what it knows of their descent where there is none.
pub trait ProcessGroup: fmt::Debug + Send + Sync {
    /// A new process enters by writing `0` here, before it becomes its program.
    fn entrance(&self) -> BorrowedFd<'_>;

    /// The ids of the processes that are in it.
    fn members(&self) -> Vec<i32>;

    /// Kills all of them at once; none can escape by starting others.
    ///
    /// # Errors
    /// When the kernel cannot do that (Linux before 5.14).
    fn kill(&self) -> io::Result<()>;

    /// The processor time of all that have ever been in it, in user mode and in the kernel.
    fn processor_time(&self) -> Option<(Duration, Duration)>;
}
