//! The side that asks for processes.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};
use tokio::io::{AsyncReadExt, Interest};
use tokio::net::UnixStream;
use tokio::process::{Child, Command};
use tokio::sync::{Mutex, oneshot};

use super::{ANSWER_BYTES, Forked, IN_GROUP, PLAIN};
use crate::cgroup::ControlGroup;
use crate::descriptors;

/// How long a process may take to be forked: far longer than a loaded machine needs.
const PATIENCE: Duration = Duration::from_secs(10);

/// A process that is forked for each call; it is started when it is first needed, and again
/// should somebody have killed it. It ends when this is dropped.
#[derive(Debug)]
pub(crate) struct ForkServer {
    program: Program,
    running: Arc<Mutex<Option<Running>>>,
}

/// What a fork server is started from.
#[derive(Clone, Debug)]
pub(crate) struct Program {
    pub(crate) executable: PathBuf,
    pub(crate) arguments: Vec<OsString>,
    /// The soft limit of open files, if it is another than this process's.
    pub(crate) descriptor_limit: Option<u64>,
}

#[derive(Debug)]
struct Running {
    socket: UnixStream,
    child: Option<Child>,
}

impl ForkServer {
    pub(crate) fn new(program: Program) -> Self {
        Self {
            program,
            running: Arc::default(),
        }
    }

    /// Another one of the same program, for who must not wait for those that use this one.
    pub(crate) fn another(&self) -> Self {
        Self::new(self.program.clone())
    }

    /// Forks a process that gets these descriptors; in a control group of its own where that can
    /// be had.
    ///
    /// # Errors
    /// When there can be no more processes or descriptors, or the program cannot be executed.
    pub(crate) async fn fork(&self, descriptors: Vec<OwnedFd>) -> io::Result<Forked> {
        let (forked, wanted) = oneshot::channel();
        let (program, running) = (self.program.clone(), Arc::clone(&self.running));
        // A task of its own: once asked for, a process is there, also if its caller is not.
        tokio::spawn(async move {
            // One that nobody wants any more ends when its sockets close, and is waited for.
            forked
                .send(fork(&running, &program, descriptors).await)
                .ok();
        });
        wanted
            .await
            .unwrap_or_else(|error| Err(io::Error::other(error)))
    }

    /// Starts it ahead of the first call.
    pub(crate) async fn prepare(&self) -> io::Result<()> {
        let mut running = self.running.lock().await;
        if running.is_none() {
            *running = Some(Running::start(&self.program)?);
        }
        Ok(())
    }
}

async fn fork(
    running: &Mutex<Option<Running>>,
    program: &Program,
    descriptors: Vec<OwnedFd>,
) -> io::Result<Forked> {
    let group = ControlGroup::new()
        .inspect_err(|error| tracing::debug!(%error, "a process has no control group"))
        .ok();
    let folder = group.as_ref().map(ControlGroup::folder);
    let request = if folder.is_some() { IN_GROUP } else { PLAIN };
    let borrowed: Vec<_> = descriptors.iter().map(AsFd::as_fd).chain(folder).collect();
    let mut running = running.lock().await;
    let process = match ask(&mut running, program, request, &borrowed).await {
        // It was killed since the last call, and got nothing of this one.
        Err(Asked::Gone) => ask(&mut running, program, request, &borrowed).await,
        asked => asked,
    };
    let process = process.inspect_err(|_| {
        if let Some(group) = &group {
            // Whatever came of a request without an answer.
            group.kill().ok();
        }
    });
    Forked::new(process?, group)
}

/// Why nothing was forked.
enum Asked {
    /// The fork server had ended before it was asked; another one can be started.
    Gone,
    Failed(io::Error),
}

impl From<Asked> for io::Error {
    fn from(asked: Asked) -> Self {
        match asked {
            Asked::Gone => Self::other("the process that is forked for calls ends at once"),
            Asked::Failed(error) => error,
        }
    }
}

/// Asks the fork server, which is started if there is none.
async fn ask(
    running: &mut Option<Running>,
    program: &Program,
    request: u8,
    descriptors: &[BorrowedFd<'_>],
) -> Result<Pid, Asked> {
    let asked = match running {
        Some(running) => running,
        None => running.insert(Running::start(program).map_err(Asked::Failed)?),
    };
    match asked.send(request, descriptors).await {
        Err(error) if is_gone(&error) => {
            *running = None;
            return Err(Asked::Gone);
        }
        sent => sent.map_err(Asked::Failed)?,
    }
    let answer = tokio::time::timeout(PATIENCE, asked.answer()).await;
    let answer = answer.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
    let answer = answer.map_err(|error| {
        // Its answer would be taken for that of the next question.
        if let Some(mut lost) = running.take() {
            lost.kill();
        }
        Asked::Failed(error)
    })?;
    match Pid::from_raw(answer) {
        Some(process) if answer > 0 => Ok(process),
        _ => Err(Asked::Failed(io::Error::from_raw_os_error(
            answer.saturating_neg(),
        ))),
    }
}

fn is_gone(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionReset, NotConnected};
    matches!(error.kind(), BrokenPipe | ConnectionReset | NotConnected)
}

impl Running {
    fn start(program: &Program) -> io::Result<Self> {
        let (ours, theirs) = StdUnixStream::pair()?;
        ours.set_nonblocking(true)?;
        let child = Command::new(&program.executable)
            .args(&program.arguments)
            .env_clear()
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            .stderr(Stdio::inherit())
            .spawn()?;
        program.limit(&child)?;
        Ok(Self {
            socket: UnixStream::from_std(ours)?,
            child: Some(child),
        })
    }

    async fn send(&self, request: u8, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        let send = || descriptors::send_bytes(&self.socket, &[request], descriptors);
        self.socket.async_io(Interest::WRITABLE, send).await
    }

    async fn answer(&mut self) -> io::Result<i32> {
        let mut answer = [0; ANSWER_BYTES];
        self.socket.read_exact(&mut answer).await?;
        Ok(i32::from_ne_bytes(answer))
    }

    fn kill(&mut self) {
        if let Some(child) = &mut self.child {
            // It may have ended by itself already.
            child.start_kill().ok();
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let Some(mut child) = self.child.take() else {
            return;
        };
        // It ends when its socket closes. Without a runtime this process is ending as well.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                // Somebody may have killed it before.
                child.wait().await.ok();
            });
        }
    }
}

impl Program {
    /// Sets the limit of open files in a process that waits to be asked; its children inherit it.
    fn limit(&self, child: &Child) -> io::Result<()> {
        let (Some(soft), Some(process)) = (self.descriptor_limit, child.id()) else {
            return Ok(());
        };
        let process = i32::try_from(process).ok().and_then(Pid::from_raw);
        let limit = Rlimit {
            current: Some(soft),
            ..getrlimit(Resource::Nofile)
        };
        prlimit(process, Resource::Nofile, limit)?;
        Ok(())
    }
}
