//! All processes that a command has started, for ending them together.
//!
//! Whoever daemonises leaves its parent, its session and its terminal; but orphans go to the nearest
//! ancestor that has declared itself a subreaper, which this process does. So the tree is what
//! descends from the command, and the orphans that have come here, with what descends from them.
//! Where the system gives a call a group of processes, which nobody leaves, those in it belong to
//! the tree as well, and are killed all at once.

use std::collections::HashSet;
use std::convert::Infallible;
use std::ffi::OsString;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use legatus_core::{CallId, ProcessGroup};
use rustix::process::{Pid, Signal, WaitOptions, kill_process};
use tokio::process::Child;
use tokio::signal::unix::{SignalKind, signal};

/// The variable that marks a call's processes. It begins with the call's id.
pub(super) const CALL_VARIABLE: &str = "LEGATUS_CALL";

/// What processes get to end in an orderly way, before they are killed.
const GRACE: Duration = Duration::from_secs(1);

/// What killed processes get to disappear: those inside a system call on a dead disk do not.
const KILL_WAIT: Duration = Duration::from_secs(2);

/// How often a group is looked at until it is empty.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// How often the tree is searched for processes that are not stopped yet. Each round can find only
/// what was started during the one before.
const STOP_ROUNDS: usize = 100;

/// Calls that this process has run so far.
static CALLS: AtomicU64 = AtomicU64::new(0);

/// All processes of one call. Those that still run when it is dropped are killed, unless it was
/// released.
#[derive(Debug)]
pub(super) struct ProcessTree {
    command: Option<Pid>,
    command_reaped: AtomicBool,
    released: AtomicBool,
    /// Children of this process that were there before the call.
    others: HashSet<Pid>,
    mark: Mark,
    group: Option<Arc<dyn ProcessGroup>>,
}

/// Marks the processes of a call in their environment.
///
/// A process that runs one call only, as the server's children do, knows that every orphan belongs
/// to it. Where several calls share a process, as in tests, the mark tells them apart.
#[derive(Debug)]
pub(super) struct Mark(String);

impl Mark {
    /// A new mark for a call.
    pub(super) fn new(id: &CallId) -> Self {
        let serial = CALLS.fetch_add(1, Ordering::Relaxed);
        let process = std::process::id();
        Self(format!("{id}.{process}.{serial}"))
    }

    /// The variable's value.
    pub(super) fn value(&self) -> OsString {
        self.0.clone().into()
    }

    fn is_on(&self, process: Pid) -> bool {
        if CALLS.load(Ordering::Relaxed) == 1 {
            return true;
        }
        let wanted = format!("{CALL_VARIABLE}={}", self.0);
        std::fs::read(format!("/proc/{process}/environ")).is_ok_and(|environment| {
            environment
                .split(|byte| *byte == 0)
                .any(|variable| variable == wanted.as_bytes())
        })
    }
}

/// Prepares for orphans. To be called before a command is started.
pub(super) fn adopt_orphans() -> HashSet<Pid> {
    if let Err(error) = rustix::process::set_child_subreaper(Some(rustix::process::getpid())) {
        tracing::warn!(%error, "cannot become a subreaper: daemons may outlive their call");
    }
    children(rustix::process::getpid()).into_iter().collect()
}

impl ProcessTree {
    /// The tree of a command that has just been started.
    pub(super) fn new(
        child: &Child,
        mark: Mark,
        others: HashSet<Pid>,
        group: Option<Arc<dyn ProcessGroup>>,
    ) -> Self {
        let command = child.id().and_then(|id| i32::try_from(id).ok());
        Self {
            command: command.and_then(Pid::from_raw),
            command_reaped: AtomicBool::new(false),
            released: AtomicBool::new(false),
            others,
            mark,
            group,
        }
    }

    /// The group that the processes are in, if the system has one for them.
    pub(super) fn group(&self) -> Option<&dyn ProcessGroup> {
        self.group.as_deref()
    }

    /// The command's process.
    pub(super) fn command(&self) -> Option<Pid> {
        self.command
    }

    /// The command has been waited for: its process id may be given to another one.
    pub(super) fn command_reaped(&self) {
        self.command_reaped.store(true, Ordering::Relaxed);
    }

    /// Lets the processes go on that are still there.
    pub(super) fn release(&self) {
        self.released.store(true, Ordering::Relaxed);
    }

    /// Reaps orphans as long as the call runs: a shell that is used for days may leave many.
    pub(super) async fn reap_orphans(&self) -> Infallible {
        let Ok(mut deaths) = signal(SignalKind::child()) else {
            return std::future::pending().await;
        };
        // Elsewhere nobody could tell whose orphan a dead process was.
        while CALLS.load(Ordering::Relaxed) == 1 {
            for orphan in self.orphans() {
                reap(orphan);
            }
            if deaths.recv().await.is_none() {
                break;
            }
        }
        std::future::pending().await
    }

    /// Ends all processes: asks them to end, and kills those that do not.
    pub(super) async fn terminate(&self, child: &mut Child, on_terminal: bool) {
        // On a terminal that has gone, an interactive shell expects SIGHUP and ignores SIGTERM.
        // Stopped processes get to see either only when they go on.
        let hang_up = on_terminal.then_some(Signal::HUP);
        for process in self.members() {
            for signal in hang_up.into_iter().chain([Signal::TERM, Signal::CONT]) {
                kill_process(process, signal).ok();
            }
        }
        let gone = self.wait_until_gone(child, || ());
        if tokio::time::timeout(GRACE, gone).await.is_err() {
            let gone = self.wait_until_gone(child, || self.kill());
            if tokio::time::timeout(KILL_WAIT, gone).await.is_err() {
                let left = self.members();
                tracing::warn!(?left, "processes of the call cannot be ended");
            }
        }
        self.release();
    }

    /// Waits until no process is left, doing `again` whenever one has gone and others remain.
    async fn wait_until_gone(&self, child: &mut Child, again: impl Fn()) {
        let Ok(mut deaths) = signal(SignalKind::child()) else {
            return std::future::pending().await;
        };
        let mut known = HashSet::new();
        loop {
            again();
            if matches!(child.try_wait(), Ok(Some(_))) {
                self.command_reaped();
            }
            known.extend(self.orphans());
            known.retain(|orphan| !reap(*orphan));
            if self.members().is_empty() {
                return;
            }
            // Of those in the group that are no descendants any more nobody tells here.
            let look_again = async {
                match self.group {
                    Some(_) => tokio::time::sleep(LOOK_AGAIN).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                death = deaths.recv() => if death.is_none() {
                    return std::future::pending().await;
                },
                () = look_again => {}
            }
        }
    }

    /// Kills all processes at once. Where there is no group they are stopped first, until there is
    /// none that could still start another.
    fn kill(&self) {
        // What has not entered it, or not yet, is left for what follows.
        if let Some(Err(error)) = self.group.as_ref().map(|group| group.kill()) {
            tracing::debug!(%error, "a group cannot be killed at once");
        }
        let mut stopped = HashSet::new();
        for _ in 0..STOP_ROUNDS {
            let running: Vec<Pid> = self
                .members()
                .into_iter()
                .filter(|process| !stopped.contains(process))
                .collect();
            if running.is_empty() {
                break;
            }
            for process in running {
                kill_process(process, Signal::STOP).ok();
                stopped.insert(process);
            }
        }
        for process in stopped {
            kill_process(process, Signal::KILL).ok();
        }
    }

    /// All processes of the tree.
    fn members(&self) -> HashSet<Pid> {
        let command = self.command;
        let command = command.filter(|_| !self.command_reaped.load(Ordering::Relaxed));
        let grouped = self.group.iter().flat_map(|group| group.members());
        let mut roots: Vec<Pid> = grouped.filter_map(Pid::from_raw).collect();
        roots.extend(command.into_iter().chain(self.orphans()));
        let mut members = HashSet::new();
        while let Some(process) = roots.pop() {
            if members.insert(process) {
                roots.extend(children(process));
            }
        }
        members
    }

    /// The orphans that have come to this process.
    fn orphans(&self) -> Vec<Pid> {
        let mut orphans = children(rustix::process::getpid());
        orphans.retain(|process| {
            Some(*process) != self.command
                && !self.others.contains(process)
                && self.mark.is_on(*process)
        });
        orphans
    }
}

impl Drop for ProcessTree {
    fn drop(&mut self) {
        if !self.released.load(Ordering::Relaxed) {
            self.kill();
        }
    }
}

/// Whether a child of this process is gone, having been reaped if it was dead.
fn reap(process: Pid) -> bool {
    !matches!(
        rustix::process::waitpid(Some(process), WaitOptions::NOHANG),
        Ok(None)
    )
}

/// The children of all threads of a process (proc(5), `/proc/PID/task/TID/children`).
fn children(process: Pid) -> Vec<Pid> {
    let Ok(threads) = std::fs::read_dir(format!("/proc/{process}/task")) else {
        return Vec::new();
    };
    threads
        .flatten()
        .filter_map(|thread| std::fs::read_to_string(thread.path().join("children")).ok())
        .flat_map(|list| {
            list.split_ascii_whitespace()
                .filter_map(|pid| pid.parse().ok().and_then(Pid::from_raw))
                .collect::<Vec<Pid>>()
        })
        .collect()
}
