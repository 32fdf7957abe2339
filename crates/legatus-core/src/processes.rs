//! What holds the processes of a call together.

use std::fmt;
use std::io;
use std::time::Duration;

/// A group that what a process starts is born in, and cannot leave (cgroup v2). A call has one where
/// the system lets it; a Commander that starts processes falls back on what it knows of their
/// descent where there is none.
pub trait ProcessGroup: fmt::Debug + Send + Sync {
    /// The ids of the processes that are in it, without this one.
    fn members(&self) -> Vec<i32>;

    /// Kills all of them at once; none can escape by starting others. This process has no group then.
    ///
    /// # Errors
    /// When the kernel cannot do that (Linux before 5.14).
    fn kill(&self) -> io::Result<()>;

    /// The processor time of all that have ever been in it but this process, in user mode and in the
    /// kernel.
    fn processor_time(&self) -> Option<(Duration, Duration)>;
}
