//! A child that was forked for this process.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, pidfd_open, pidfd_send_signal, waitid,
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
        let descriptor = pidfd_open(process, PidfdFlags::empty())?;
        Ok(Self {
            process,
            descriptor: Some(Receiver::from_file_unchecked(descriptor.into())?),
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
        if let Some(group) = self.group.take() {
            if !status.success() {
                // There is nobody left to tell.
                group.kill().ok();
            }
            group.remove();
        }
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
        std::thread::spawn(move || {
            if reap(descriptor.as_fd()).is_ok()
                && let Some(group) = group
            {
                group.remove();
            }
        });
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
