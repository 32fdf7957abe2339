//! Starts module hosts, and ends them whatever happens.

use std::io;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::Duration;

use rustix::pipe::PipeFlags;
use rustix::process::{Signal, kill_process_group};
use serde::{Deserialize, Serialize};
use tokio::net::UnixStream;
use tokio::net::unix::pipe;

use super::super::fault::Failure;
use super::super::grants::Grants;
use super::super::manifest::Limits;
use super::protocol::{Frame, Kind, PROTOCOL};
use super::sandbox::Rules;
use crate::fork_server::{ForkServer, Forked};
use crate::messages::RunAs;
use crate::user::{User, Users};

/// How long a module host that was killed may take to be gone.
const GONE_WITHIN: Duration = Duration::from_secs(2);

/// What an artefact is to a module host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Form {
    /// It is loaded, and its functions are called.
    Library,
    /// The module host becomes it.
    Executable,
    /// Compiled WebAssembly, which runs in its sandbox, in the rights of another user.
    #[cfg(feature = "wasm")]
    Component,
}

impl Form {
    /// Bytes of memory beside the module's own: libraries that every program needs, and for
    /// components the engine, its stacks and threads.
    fn extra_memory(self) -> u64 {
        match self {
            Self::Library | Self::Executable => 32 << 20,
            #[cfg(feature = "wasm")]
            Self::Component => 192 << 20,
        }
    }
}

/// What a module host is to run, and as whom.
#[derive(Clone, Debug)]
pub(crate) struct ChildSettings {
    pub(crate) fork_server: Arc<ForkServer>,
    /// The module's `VENDOR/NAME`.
    pub(crate) qualified: String,
    pub(crate) form: Form,
    /// The artefact in the cache.
    pub(crate) artefact: PathBuf,
    /// The module's own folder, if it has one.
    pub(crate) folder: Option<PathBuf>,
    pub(crate) limits: Limits,
    pub(crate) grants: Grants,
    /// What the module asks for and does not have, in words.
    pub(crate) denied: Arc<[String]>,
    /// The host's environment, of which the module gets what is granted.
    pub(crate) environment: Vec<(String, String)>,
    pub(crate) users: Users,
}

/// The first frame, which the module host itself takes.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Start {
    pub(super) protocol: u32,
    pub(super) qualified: String,
    pub(super) form: Form,
    pub(super) artefact: PathBuf,
    pub(super) user: Option<RunAs>,
    pub(super) rules: Rules,
    /// What components are told; other modules have it as their environment.
    pub(super) environment: Vec<(String, String)>,
    pub(super) log_lines: u32,
    pub(super) cpu_milliseconds: u64,
    /// What the module asks for and does not have, in words.
    pub(super) denied: Vec<String>,
}

impl ChildSettings {
    fn start(&self, user: Option<&User>) -> Start {
        Start {
            protocol: PROTOCOL,
            qualified: self.qualified.clone(),
            form: self.form,
            artefact: self.artefact.clone(),
            user: user.map(RunAs::from),
            environment: self.environment(),
            log_lines: self.limits.log_lines,
            cpu_milliseconds: u64::try_from(self.limits.cpu.as_millis()).unwrap_or(u64::MAX),
            denied: self.denied.to_vec(),
            rules: Rules {
                memory: self.limits.memory,
                extra_memory: self.form.extra_memory(),
                cpu_seconds: whole_seconds(self.limits.cpu),
                grants: self.grants.clone(),
                folder: self.folder.clone(),
            },
        }
    }

    /// The granted part of the environment.
    fn environment(&self) -> Vec<(String, String)> {
        let all = self.environment.iter();
        all.filter(|(name, _)| self.grants.environment.contains(name))
            .cloned()
            .collect()
    }

    /// Starts a module host that becomes this user; its socket, and its standard error.
    pub(super) async fn spawn(
        &self,
        fork_server: &ForkServer,
        user: Option<&User>,
    ) -> Result<(Process, UnixStream, pipe::Receiver), Failure> {
        let failed = |error: io::Error| Failure::Host(format!("cannot start a process: {error}"));
        let (ours, theirs) = StdUnixStream::pair().map_err(failed)?;
        let (errors, errors_there) =
            rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(|error| failed(error.into()))?;
        let descriptors = vec![theirs.into(), errors_there];
        let child = fork_server.fork(descriptors).await.map_err(failed)?;
        let process = Process { child: Some(child) };
        ours.set_nonblocking(true).map_err(failed)?;
        let mut socket = UnixStream::from_std(ours).map_err(failed)?;
        let start = Frame::json(Kind::Start, &self.start(user)).map_err(failed)?;
        start.write(&mut socket).await.map_err(failed)?;
        let errors = pipe::Receiver::from_owned_fd(errors).map_err(failed)?;
        Ok((process, socket, errors))
    }
}

/// A running module host with all that it has started. Dropping this kills them.
#[derive(Debug)]
pub(super) struct Process {
    child: Option<Forked>,
}

impl Process {
    /// Its number, unless it was waited for.
    pub(super) fn id(&self) -> Option<u32> {
        let child = self.child.as_ref().filter(|child| !child.has_ended())?;
        u32::try_from(child.id().as_raw_nonzero().get()).ok()
    }

    /// How it ended, having closed its socket; it is killed if it has not ended.
    pub(super) async fn end(&mut self) -> Option<ExitStatus> {
        let child = self.child.as_mut()?;
        if let Ok(status) = tokio::time::timeout(Duration::from_millis(200), child.wait()).await {
            return status.ok();
        }
        kill(child);
        let status = tokio::time::timeout(GONE_WITHIN, child.wait()).await;
        status.ok()?.ok()
    }
}

/// Kills a module host and what it has started.
fn kill(child: &Forked) {
    if child.has_ended() {
        return;
    }
    // It was not waited for yet, so that nobody else has its id. It may be about to make its group;
    // then it has started nothing yet.
    kill_process_group(child.id(), Signal::KILL).ok();
    child.kill();
}

impl Drop for Process {
    fn drop(&mut self) {
        let Some(mut child) = self.child.take() else {
            return;
        };
        kill(&child);
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                // It was killed, so that it will end.
                child.wait().await.ok();
            });
        }
    }
}

/// The kernel counts in whole seconds, at least one.
fn whole_seconds(time: Duration) -> u64 {
    let begun = u64::from(time.subsec_nanos() > 0);
    time.as_secs().saturating_add(begun).max(1)
}

/// How a module host died that did not tell how its call ended.
pub(super) fn died(status: Option<ExitStatus>, limits: &Limits) -> Failure {
    /// SIGXCPU: the processor time is up.
    const TIME_UP: i32 = 24;
    let Some(status) = status else {
        return Failure::Crashed("nobody knows how".to_owned());
    };
    match (status.signal(), status.code()) {
        (Some(TIME_UP), _) => Failure::Limit(format!("{:?} of processor time", limits.cpu)),
        (Some(signal), _) => Failure::Crashed(format!("{} ended it", signal_name(signal))),
        (None, Some(code)) => Failure::Crashed(format!(
            "it exited with status {code} before it told how the call ended"
        )),
        (None, None) => Failure::Crashed("it ended".to_owned()),
    }
}

fn signal_name(signal: i32) -> String {
    let name = match signal {
        4 => "SIGILL",
        6 => "SIGABRT",
        7 => "SIGBUS",
        8 => "SIGFPE",
        9 => "SIGKILL",
        11 => "SIGSEGV",
        15 => "SIGTERM",
        _ => return format!("signal {signal}"),
    };
    format!("signal {signal} ({name})")
}
