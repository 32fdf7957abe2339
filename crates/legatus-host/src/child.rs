//! Holders as a server has them: children that it has started, and sessions that it has found.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::Duration;

use legatus_core::{Attach, Call, Fault, Outcome, Persistence, limits};
use prost::Message;
use tokio::net::UnixStream;
use tokio::time::Instant;

use crate::descriptors;
use crate::fork_server::Forked;
use crate::frame::Frame;
use crate::holder::GRACE;
use crate::messages::{AttachRequest, Purpose};
use crate::relay::Ended;
use crate::sessions::{Reached, SessionError, SessionFolder, Wanted};
use crate::slab;
use crate::{Launcher, User};

/// How long after its cancellation a holder is killed: the grace that it gives its Commander, and
/// a second to tell the outcome.
pub(crate) const KILL_AFTER: Duration = GRACE.saturating_add(Duration::from_secs(1));

/// How long a holder that has closed its sockets may take to exit.
const EXIT_WITHIN: Duration = Duration::from_secs(1);

/// How long a holder whose sockets have closed is watched to see whether it has died.
const LOOK: Duration = Duration::from_millis(200);

/// How long a session may take to open its door after its client was lost, and how often it is
/// looked for.
const APPEARS_WITHIN: Duration = Duration::from_secs(2);
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// The server's ends of a holder's sockets, and the shared memory.
#[derive(Debug)]
pub(crate) struct Sockets {
    pub(crate) data: UnixStream,
    pub(crate) control: UnixStream,
    pub(crate) memory: OwnedFd,
    /// What has yet to be written of the first control frame.
    pub(crate) start: Vec<u8>,
    pub(crate) inline_bytes: usize,
}

/// Reaches a session; one whose client has just been lost may still be about to open its door.
async fn reach(
    sessions: &SessionFolder,
    wanted: &Wanted<'_>,
    request: AttachRequest,
    descriptors: &[OwnedFd],
    resume: bool,
) -> Result<Reached, SessionError> {
    let deadline = Instant::now() + APPEARS_WITHIN;
    loop {
        match sessions.reach(wanted, request.clone(), descriptors).await {
            Err(SessionError::Unknown(_)) if resume && Instant::now() < deadline => {
                tokio::time::sleep(LOOK_AGAIN).await;
            }
            reached => return reached,
        }
    }
}

/// A running holder; whatever happens, it is reaped.
#[derive(Debug)]
pub(crate) struct Holder {
    /// Missing if another process has started it.
    child: Option<Forked>,
    /// When it is killed if it has not ended by itself.
    pub(crate) kill_at: Option<Instant>,
}

impl Holder {
    /// Starts one; `kept` if it is to keep its call.
    pub(crate) async fn start(
        launcher: &Launcher,
        user: Option<&User>,
        kept: bool,
    ) -> io::Result<(Self, Sockets)> {
        let (data, data_there) = StdUnixStream::pair()?;
        let (control, control_there) = StdUnixStream::pair()?;
        let memory = slab::create()?;
        let sessions = launcher.sessions.as_deref().filter(|_| kept);
        let folder = match sessions {
            Some(sessions) => Some(sessions.of_user(launcher.uid(user))?),
            None => None,
        };
        let first = launcher.start(user, folder.is_some());
        let (mut start, payload) = Frame::User(first.encode_to_vec().into()).encode();
        let descriptors: Vec<_> = [Some(&memory), folder.as_ref()]
            .into_iter()
            .flatten()
            .map(AsFd::as_fd)
            .collect();
        descriptors::send_bytes(&control, &start, &descriptors)?;
        start.clear();
        start.extend_from_slice(&payload);
        data.set_nonblocking(true)?;
        control.set_nonblocking(true)?;
        let sockets = Sockets {
            data: UnixStream::from_std(data)?,
            control: UnixStream::from_std(control)?,
            memory,
            start,
            inline_bytes: launcher.inline_bytes,
        };
        let child = launcher
            .fork(data_there.into(), control_there.into())
            .await?;
        let holder = Self {
            child: Some(child),
            kill_at: None,
        };
        Ok((holder, sockets))
    }

    /// Attaches to the holder of a kept call.
    pub(crate) async fn attach(
        launcher: &Launcher,
        attach: Attach,
        kept: &Persistence,
        module: &str,
        call: &Call,
    ) -> Result<(Self, Sockets), Outcome> {
        let Some(sessions) = launcher.sessions.as_deref() else {
            return Err(Outcome::Unavailable(Fault::new(
                "this server keeps no calls",
            )));
        };
        let failed = |error: &dyn std::fmt::Display| {
            tracing::error!(parent: call.span(), %error, "cannot attach to a session");
            Outcome::Unavailable(Fault::new("the server cannot reach the session"))
        };
        let (data, data_there) = StdUnixStream::pair().map_err(|error| failed(&error))?;
        let memory = slab::create().map_err(|error| failed(&error))?;
        let there = memory.try_clone().map_err(|error| failed(&error))?;
        let request = AttachRequest {
            purpose: Purpose::Attach.into(),
            client: call.id().to_string(),
            resume: attach.resume,
            received: attach.received,
            read_only: attach.read_only,
            own_size: attach.own_size,
            inline_bytes: u32::try_from(launcher.inline_bytes).unwrap_or(u32::MAX),
            ..AttachRequest::default()
        };
        let wanted = Wanted {
            session: &attach.session,
            identity: call.peer().identity(),
            others: kept.others,
            module: Some(module),
        };
        let descriptors = [there, data_there.into()];
        let reached = reach(sessions, &wanted, request, &descriptors, attach.resume).await;
        let reached = reached.map_err(|error| match error {
            SessionError::Unknown(_) => Outcome::Lost(Fault::new(error.to_string()).with_hint(
                "`legatus sessions HOST` lists those that there are; a restart of the machine ends \
                 them",
            )),
            SessionError::Refused(_) => Outcome::Failed(Fault::new(error.to_string())),
            error => failed(&error),
        })?;
        let data = data
            .set_nonblocking(true)
            .and_then(|()| UnixStream::from_std(data));
        let sockets = Sockets {
            data: data.map_err(|error| failed(&error))?,
            control: reached.stream,
            memory,
            start: Vec::new(),
            inline_bytes: match reached.hello.layout == slab::LAYOUT {
                true => launcher.inline_bytes,
                false => limits::MESSAGE_BYTES,
            },
        };
        let holder = Self {
            child: None,
            kill_at: None,
        };
        Ok((holder, sockets))
    }

    /// Whether the holder goes on although its sockets are closed; it is reaped then when it ends.
    pub(crate) async fn lives_on(&mut self) -> bool {
        let Some(child) = &mut self.child else {
            // Another process has started it, and its own server is told if it dies.
            return true;
        };
        if tokio::time::timeout(LOOK, child.wait()).await.is_ok() {
            return false;
        }
        self.release();
        true
    }

    /// Lets the holder end when it wants to; it is reaped then.
    pub(crate) fn release(&mut self) {
        if let Some(mut child) = self.child.take() {
            tokio::spawn(async move { child.wait().await });
        }
    }

    pub(crate) async fn outcome(&mut self, ended: Ended, call: &Call) -> Outcome {
        let fault = match ended {
            Ended::Told(outcome) => return outcome,
            Ended::Lost | Ended::Left | Ended::ClientLost => self.death().await,
            Ended::Misbehaved(error) => {
                self.kill();
                tracing::error!(parent: call.span(), %error, "a holder misbehaved and was killed");
                "the process that ran the call broke its protocol and was killed".to_owned()
            }
            Ended::Overdue => {
                self.kill();
                tracing::warn!(parent: call.span(), "a holder did not end in time and was killed");
                let seconds = KILL_AFTER.as_secs();
                format!(
                    "the process that ran the call did not end within {seconds} s of its \
                     cancellation and was killed"
                )
            }
        };
        Outcome::Lost(Fault::new(fault).with_hint("what it did until then stays done"))
    }

    /// Waits for a holder that has closed its sockets, and tells how it died.
    async fn death(&mut self) -> String {
        let told = "before it told how the call ended";
        let Some(child) = &mut self.child else {
            return format!("the process that ran the call ended {told}");
        };
        match tokio::time::timeout(EXIT_WITHIN, child.wait()).await {
            Ok(Ok(status)) => format!("the process that ran the call {} {told}", died(status)),
            Ok(Err(_)) => format!("the process that ran the call ended {told}"),
            Err(_) => {
                self.kill();
                format!("the process that ran the call closed its connection {told}")
            }
        }
    }

    fn kill(&mut self) {
        if let Some(child) = &mut self.child {
            child.kill();
        }
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let Some(child) = self.child.take() else {
            return;
        };
        let kill_at = self.kill_at.unwrap_or_else(|| Instant::now() + KILL_AFTER);
        // Without a runtime the server is ending; the holder sees that and ends too.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(reap(child, kill_at));
        }
    }
}

/// Waits for a holder that has nothing more to do; kills it if it takes too long.
async fn reap(mut child: Forked, kill_at: Instant) {
    let in_time = tokio::time::timeout_at(kill_at, child.wait()).await;
    if in_time.is_err() {
        tracing::warn!(
            process = child.id().as_raw_nonzero(),
            "a holder did not end in time and was killed"
        );
        child.kill();
        child.wait().await.ok();
    }
}

fn died(status: ExitStatus) -> String {
    match (status.signal(), status.code()) {
        (Some(signal), _) => format!("was ended by signal {signal}"),
        (None, Some(code)) => format!("exited with status {code}"),
        (None, None) => "ended".to_owned(),
    }
}
