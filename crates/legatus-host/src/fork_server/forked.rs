//! A child that was forked for this process.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, WaitOptions, kill_process, pidfd_open,
    pidfd_send_signal, waitid, waitpid,
};
use tokio::net::unix::pipe::Receiver;

use crate::cgroup::ControlGroup;

/// A child of this process. Should its owner not wait for it, a thread does.
#[derive(Debug)]
pub(crate) struct Forked {
    process: Pid,
    /// Its descriptor (pidfd_open(2)), at the end of a pipe's place because that can be waited for
    /// as well; missing once this is dropped.
    descriptor: Option<Receiver>,
    group: Option<ControlGroup>,
    status: Option<ExitStatus>,
}

impl Forked {
    /// A child that nobody has waited for yet.
    pub(super) fn new(process: Pid, group: Option<ControlGroup>) -> io::Result<Self> {
        let descriptor = pidfd_open(process, PidfdFlags::empty()).map_err(io::Error::from);
        let descriptor = descriptor.and_then(|one| Receiver::from_file_unchecked(one.into()));
        let descriptor = descriptor.inspect_err(|_| {
            // Without one (there are too many open files) nobody could wait for it later. It ends
            // at once, and so does this wait.
            kill_process(process, Signal::KILL).ok();
            waitpid(Some(process), WaitOptions::empty()).ok();
        })?;
        Ok(Self {
            process,
            descriptor: Some(descriptor),
            group,
            status: None,
        })
    }

    /// Its process id, which nobody else gets before it has been waited for.
    pub(crate) fn id(&self) -> Pid {
        self.process
    }

    /// Whether it has been waited for.
    pub(crate) fn has_ended(&self) -> bool {
        self.status.is_some()
    }

    /// Waits until it has ended, and leaves it to be waited for: its id stays its own.
    pub(crate) async fn ended(&self) -> io::Result<()> {
        match &self.descriptor {
            Some(descriptor) if self.status.is_none() => descriptor.readable().await,
            _ => Ok(()),
        }
    }

    /// Waits for its end. Its control group ends with it: what it has started and left behind goes
    /// on only if it has ended by itself.
    pub(crate) async fn wait(&mut self) -> io::Result<ExitStatus> {
        if let Some(status) = self.status {
            return Ok(status);
        }
        let Some(descriptor) = &self.descriptor else {
            return Err(io::ErrorKind::NotFound.into());
        };
        // It becomes readable when the process has ended, and stays so.
        descriptor.readable().await?;
        let status = reap(descriptor.as_fd())?;
        self.status = Some(status);
        end_group(self.group.take(), status);
        Ok(status)
    }

    /// Kills it, and all that is in its control group.
    pub(crate) fn kill(&self) {
        if self.status.is_some() {
            return;
        }
        if let Some(group) = &self.group {
            // Linux before 5.14 cannot do that.
            group.kill().ok();
        }
        if let Some(descriptor) = &self.descriptor {
            // It may have ended by itself already.
            pidfd_send_signal(descriptor, Signal::KILL).ok();
        }
    }
}

impl Drop for Forked {
    fn drop(&mut self) {
        let (None, Some(descriptor)) = (self.status, self.descriptor.take()) else {
            return;
        };
        let Ok(descriptor) = descriptor.into_nonblocking_fd() else {
            return;
        };
        let group = self.group.take();
        // There is no runtime left to wait in, or nobody who cares.
        let reaper = std::thread::Builder::new().spawn(move || {
            if let Ok(status) = reap(descriptor.as_fd()) {
                end_group(group, status);
            }
        });
        if let Err(error) = reaper {
            tracing::error!(%error, "nobody waits for a child of this process");
        }
    }
}

/// Ends the group of a process that has ended; what is left in it goes on only if that ended by
/// itself.
fn end_group(group: Option<ControlGroup>, status: ExitStatus) {
    if let Some(group) = group
        && !status.success()
    {
        // There is nobody left to tell.
        group.kill().ok();
    }
}

/// Waits for a child of this process.
fn reap(descriptor: BorrowedFd<'_>) -> io::Result<ExitStatus> {
    let ended = waitid(WaitId::PidFd(descriptor), WaitIdOptions::EXITED)?;
    let ended = ended.ok_or(io::ErrorKind::WouldBlock)?;
    // The encoding of wait(2): a signal is in the lowest bits, an exit status above them.
    let status = match ended.exit_status() {
        Some(code) => (code & 0xff) << 8,
        None => ended.terminating_signal().unwrap_or_default(),
    };
    Ok(ExitStatus::from_raw(status))
}
