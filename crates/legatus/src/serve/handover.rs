//! Listening sockets: bound here, handed over by systemd, or by the process before this one.
//!
//! A restart passes them on as systemd does (`LISTEN_FDS`, sd_listen_fds(3)), so that there is one
//! way for a server to inherit sockets, and no connection is refused in between.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, Result, bail};
use command_fds::{CommandFdExt as _, FdMapping};
use legatus_core::Fault;
use legatus_net::Restart;
use listenfd::ListenFd;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::retry_on_intr;

/// Names the descriptor at which a process that was started by a restart says that it is ready.
const READY: &str = "LEGATUS_READY_FD";

/// How long a new process may take until it is ready, in seconds: reading its files takes
/// milliseconds.
const READY_SECONDS: i64 = 20;

/// What a restart needs.
pub(super) struct Handover {
    executable: PathBuf,
    /// None once they are in other hands: nobody would accept what comes to this process.
    listeners: Mutex<Vec<OwnedFd>>,
}

/// The sockets to listen on: inherited ones if there are any, else bound to these addresses.
pub(super) fn listeners(addresses: &[String]) -> Result<Vec<TcpListener>> {
    let mut inherited = ListenFd::from_env();
    if inherited.len() > 0 {
        let taken =
            (0..inherited.len()).filter_map(|index| inherited.take_tcp_listener(index).transpose());
        return taken
            .map(|listener| listener.context("an inherited descriptor is no listening TCP socket"))
            .collect();
    }
    addresses
        .iter()
        .map(|address| {
            let listener = TcpListener::bind(address)
                .with_context(|| format!("cannot listen on `{address}`"))?;
            // The library's 128 makes a burst of clients wait for seconds; the system cuts this
            // to its own limit (net.core.somaxconn).
            rustix::net::listen(&listener, 4096)?;
            Ok(listener)
        })
        .collect()
}

/// Tells systemd, and the process that started this one, that connections are taken from now on.
pub(super) fn tell_ready() {
    if let Err(error) = sd_notify::notify(&[sd_notify::NotifyState::Ready]) {
        tracing::warn!(%error, "cannot tell systemd that the server is ready");
    }
    let Some(descriptor) = std::env::var_os(READY) else {
        return;
    };
    let path = PathBuf::from("/proc/self/fd").join(descriptor);
    let told = std::fs::OpenOptions::new()
        .write(true)
        .open(path)
        .and_then(|mut pipe| pipe.write_all(b"ready"));
    if let Err(error) = told {
        tracing::warn!(%error, "cannot tell the old server that this one is ready");
    }
}

impl Handover {
    /// Remembers the executable's path now: a new version may lie there later.
    pub(super) fn new(listeners: &[TcpListener]) -> Result<Self> {
        let listeners = listeners
            .iter()
            .map(|listener| listener.as_fd().try_clone_to_owned());
        Ok(Self {
            executable: std::env::current_exe().context("cannot find the own executable")?,
            listeners: Mutex::new(listeners.collect::<Result<_, _>>()?),
        })
    }

    /// Starts a process that takes over the sockets, and waits until it is ready.
    pub(super) fn restart(self) -> Restart {
        let handover = Arc::new(self);
        Arc::new(move || {
            let handover = Arc::clone(&handover);
            Box::pin(async move {
                let started = tokio::task::spawn_blocking(move || handover.start()).await;
                let started = started.map_err(|error| Fault::new(error.to_string()))?;
                started.map_err(|error| {
                    tracing::error!(error = format!("{error:#}"), "cannot restart");
                    Fault::new("the new server process did not come up; the old one goes on")
                        .with_hint("the server's log tells why")
                })
            })
        })
    }

    fn start(&self) -> Result<u32> {
        let (mut ready, told) = std::io::pipe()?;
        let mut listeners = self
            .listeners
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let count = listeners.len();
        let first = 3_i32; // SD_LISTEN_FDS_START
        let mut mappings = Vec::with_capacity(count + 1);
        for (descriptor, child_fd) in listeners.iter().zip(first..) {
            mappings.push(FdMapping {
                parent_fd: descriptor.try_clone()?,
                child_fd,
            });
        }
        let ready_fd = first + i32::try_from(count)?;
        mappings.push(FdMapping {
            parent_fd: told.into(),
            child_fd: ready_fd,
        });
        let mut command = Command::new(&self.executable);
        command
            .args(std::env::args_os().skip(1))
            .stdin(Stdio::null())
            .env("LISTEN_FDS", count.to_string())
            .env_remove("LISTEN_PID")
            .env_remove("LISTEN_FDNAMES")
            .env_remove("LISTEN_FDS_FIRST_FD")
            .env(READY, ready_fd.to_string())
            .fd_mappings(mappings)?;
        let mut child = command
            .spawn()
            .with_context(|| format!("cannot start `{}`", self.executable.display()))?;
        drop(command); // holds our end of the pipe
        if !is_readable(&ready)? {
            child.kill()?;
            child.wait()?;
            bail!("the new process was not ready within {READY_SECONDS} s");
        }
        let mut answer = [0; 5];
        if let Err(error) = ready.read_exact(&mut answer) {
            let status = child.wait()?;
            return Err(error).with_context(|| format!("the new process left with {status}"));
        }
        listeners.clear();
        tracing::info!(pid = child.id(), "a new process has taken over");
        let main_pid = sd_notify::NotifyState::MainPid(child.id());
        if let Err(error) = sd_notify::notify(&[main_pid]) {
            tracing::warn!(%error, "cannot tell systemd of the new process");
        }
        Ok(child.id())
    }
}

/// Whether something can be read (or the end has come) within [`READY_SECONDS`].
fn is_readable(pipe: &std::io::PipeReader) -> Result<bool> {
    let mut waiting = [PollFd::new(pipe, PollFlags::IN)];
    let timeout = Timespec {
        tv_sec: READY_SECONDS,
        tv_nsec: 0,
    };
    Ok(retry_on_intr(|| poll(&mut waiting, Some(&timeout)))? > 0)
}
