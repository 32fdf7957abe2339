//! Starts module hosts, and ends them whatever happens.

use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use serde::{Deserialize, Serialize};
use tokio::net::UnixStream;
use tokio::process::{Child, ChildStderr, Command};

use super::super::fault::Failure;
use super::super::grants::Grants;
use super::super::manifest::Limits;
use super::protocol::{Frame, Kind, PROTOCOL};
use super::sandbox::Rules;
use crate::messages::RunAs;
use crate::user::{User, Users};

/// How long a module host that was killed may take to be gone.
const GONE_WITHIN: Duration = Duration::from_secs(2);

/// Where programs are looked for by a module host.
const SEARCH_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// How a module host is started: this program, with its hidden subcommand.
#[derive(Clone, Debug)]
pub(crate) struct HostCommand {
    pub(crate) executable: PathBuf,
    pub(crate) arguments: Vec<OsString>,
}

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
    pub(crate) command: HostCommand,
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
        user: Option<&User>,
    ) -> Result<(Process, UnixStream, ChildStderr), Failure> {
        let failed = |error: io::Error| Failure::Host(format!("cannot start a process: {error}"));
        let (ours, theirs) = StdUnixStream::pair().map_err(failed)?;
        let input = OwnedFd::from(theirs);
        let output = input.try_clone().map_err(failed)?;
        let mut command = std::process::Command::new(&self.command.executable);
        command
            .args(&self.command.arguments)
            .env_clear()
            .env("PATH", SEARCH_PATH)
            .env("LANG", "C.UTF-8")
            .env("LEGATUS_MODULE_PROTOCOL", PROTOCOL.to_string())
            .current_dir("/")
            .process_group(0)
            .stdin(Stdio::from(input))
            .stdout(Stdio::from(output))
            .stderr(Stdio::piped());
        command.envs(self.environment());
        if let Some(folder) = &self.folder {
            command.env("LEGATUS_MODULE_DIR", folder);
        }
        let mut child = Command::from(command).spawn().map_err(failed)?;
        let stderr = child.stderr.take();
        let process = Process::new(child);
        ours.set_nonblocking(true).map_err(failed)?;
        let mut socket = UnixStream::from_std(ours).map_err(failed)?;
        let start = Frame::json(Kind::Start, &self.start(user)).map_err(failed)?;
        start.write(&mut socket).await.map_err(failed)?;
        let stderr = stderr.ok_or_else(|| failed(io::ErrorKind::BrokenPipe.into()))?;
        Ok((process, socket, stderr))
    }
}

/// A running module host with all that it has started. Dropping this kills them.
#[derive(Debug)]
pub(super) struct Process {
    child: Option<Child>,
    group: Option<Pid>,
}

impl Process {
    fn new(child: Child) -> Self {
        let id = child.id().and_then(|id| i32::try_from(id).ok());
        Self {
            group: id.and_then(Pid::from_raw),
            child: Some(child),
        }
    }

    /// Its number, unless it was waited for.
    pub(super) fn id(&self) -> Option<u32> {
        self.child.as_ref()?.id()
    }

    /// How it ended, having closed its socket; it is killed if it has not ended.
    pub(super) async fn end(&mut self) -> Option<ExitStatus> {
        let child = self.child.as_mut()?;
        if let Ok(status) = tokio::time::timeout(Duration::from_millis(200), child.wait()).await {
            self.group = None;
            return status.ok();
        }
        self.kill();
        let child = self.child.as_mut()?;
        let status = tokio::time::timeout(GONE_WITHIN, child.wait()).await;
        status.ok()?.ok()
    }

    /// Kills the whole group. Its leader was not waited for yet, so that nobody else has its id.
    fn kill(&mut self) {
        if let Some(group) = self.group.take() {
            // They may be gone already.
            kill_process_group(group, Signal::KILL).ok();
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        let Some(mut child) = self.child.take() else {
            return;
        };
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
