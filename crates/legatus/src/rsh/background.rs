//! `-f`: the process that does the work is another one, started by this, which leaves when that has
//! connected. A process with threads cannot fork, so the program is started anew.

use std::ffi::OsString;
use std::io::{PipeReader, PipeWriter, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Command, ExitCode};

use anyhow::Context as _;
use command_fds::{CommandFdExt, FdMapping};

/// The number of the descriptor in the new process.
const DESCRIPTOR: i32 = 3;

/// What is written when the process in the foreground may leave.
const READY: &[u8] = b"r";

/// Starts the program anew, waits until it has connected, and leaves; or until it has failed, and
/// tells its status.
pub(super) fn start(words: &[OsString]) -> anyhow::Result<ExitCode> {
    let (mut reader, writer): (PipeReader, PipeWriter) = std::io::pipe()?;
    let program = std::env::current_exe().context("cannot find this program's file")?;
    let mut command = Command::new(program);
    command
        .arg("rsh")
        .arg(format!("--ready-descriptor={DESCRIPTOR}"))
        .args(words)
        .stdin(std::process::Stdio::null())
        .fd_mappings(vec![FdMapping {
            parent_fd: OwnedFd::from(writer),
            child_fd: DESCRIPTOR,
        }])?;
    let mut child = command.spawn().context("cannot go to the background")?;
    // The command holds the writing end, too.
    drop(command);
    let mut told = Vec::new();
    reader.read_to_end(&mut told)?;
    if told == READY {
        return Ok(ExitCode::SUCCESS);
    }
    let status = child
        .wait()?
        .code()
        .and_then(|code| u8::try_from(code).ok());
    Ok(ExitCode::from(status.unwrap_or(super::OUR_ERROR)))
}

/// The end of the pipe to the process in the foreground.
pub(super) struct Ready(std::fs::File);

impl Ready {
    /// That of this process, if it was started to work in the background. From now on it belongs
    /// to no terminal.
    pub(super) fn take(descriptor: Option<i32>) -> Option<Self> {
        let descriptor = descriptor?;
        // Opening it anew by name makes it ours without unsafe code.
        let path = format!("/proc/self/fd/{descriptor}");
        let file = std::fs::File::options().write(true).open(path).ok()?;
        let null = std::fs::File::open("/dev/null").ok()?;
        let number = std::os::fd::AsRawFd::as_raw_fd(&null.as_fd());
        tracing::debug!(number, "in the background");
        rustix::process::setsid().ok();
        Some(Self(file))
    }

    /// Lets the process in the foreground leave.
    pub(super) fn tell(mut self) {
        self.0.write_all(READY).ok();
    }
}
