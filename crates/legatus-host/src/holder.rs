//! The child's side: becomes the caller's user, then runs one Commander.

use std::ffi::OsStr;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use legatus_core::{
    Call, CallId, Channel, Control, ControlSender, Execution, Fault, Module, Outcome, Peer, Policy,
    Registry, limits, wire,
};
use prost::Message;
use thiserror::Error;
use tokio::net::UnixStream;
use tokio::net::unix::OwnedWriteHalf;
use tokio_util::sync::CancellationToken;

use crate::cgroup::OwnGroup;
use crate::descriptors;
use crate::fork_server::{self, Newborn};
use crate::frame::{self, Frame, FrameError};
use crate::messages::{self, Facts, Opening, Start};
use crate::pump::{Link, Notices, PumpError};
use crate::session::{self, Keep};
use crate::slab::End;
use crate::user::UserError;

/// How long a Commander may clean up after its cancellation before it is dropped: enough to end a
/// process tree politely and, failing that, by force.
pub(crate) const GRACE: Duration = Duration::from_secs(5);

/// How long the outcome may take to be written after that.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// The holder cannot do its work.
#[derive(Debug, Error)]
enum HolderError {
    #[error("cannot {doing}")]
    System {
        doing: &'static str,
        source: io::Error,
    },
    #[error("this is started by a server only: standard input is no socket of one")]
    NotStartedByServer(#[source] io::Error),
    #[error("the server cannot be understood")]
    Frame(#[source] FrameError),
    #[error("the server sent something else than a call")]
    Unintelligible,
    #[error(transparent)]
    User(#[from] UserError),
}

/// Forks a process for each call, as the server at the other end of standard input asks, which
/// must be a [`Launcher`](crate::Launcher); each of them returns from here when its call has ended.
/// The process must have a single thread yet. `registry` has to know the modules that the server
/// isolates.
///
/// The exit status is 0 when the server was told an outcome. What is wrong is logged.
pub fn holder_main(registry: &Registry) -> ExitCode {
    // A terminal that the server was started from is not ours, nor are its signals. It fails if
    // somebody has seen to that already.
    rustix::process::setsid().ok();
    let held = match fork_server::serve() {
        Ok(Some(newborn)) => hold(newborn, registry),
        Ok(None) => Ok(()),
        Err(error) => Err(HolderError::NotStartedByServer(error)),
    };
    match held {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let cause = std::error::Error::source(&error).map(ToString::to_string);
            tracing::error!(%error, cause, "a holder failed");
            ExitCode::FAILURE
        }
    }
}

fn hold(newborn: Newborn, registry: &Registry) -> Result<(), HolderError> {
    rustix::process::setsid()
        .map_err(|error| system("leave the server's session")(error.into()))?;
    rustix::thread::set_name(c"legatus-holder").ok();
    let [data, control] =
        <[OwnedFd; 2]>::try_from(newborn.descriptors).map_err(|_| HolderError::Unintelligible)?;
    let mut data = StdUnixStream::from(data);
    let mut control = StdUnixStream::from(control);
    let (start, memory, sessions) = receive_start(&mut control)?;
    fork_server::set_environment(&start.environment);
    // While this is still root, if it was.
    let group = newborn.group.and_then(|folder| {
        OwnGroup::new(folder)
            .inspect_err(|error| tracing::debug!(%error, "the control group is of no use"))
            .ok()
    });
    if let Some(user) = &start.user
        && let Err(error) = user.assume()
    {
        let fault = Fault::new(error.to_string())
            .with_hint("only a server that runs as root can become other users");
        tell(&mut data, Outcome::Unavailable(fault)).map_err(system("tell the outcome"))?;
        return Err(error.into());
    }
    // A user without a usable home works in the root folder, as `login(1)` does.
    let home = Path::new(OsStr::from_bytes(&start.folder));
    if !start.folder.is_empty() && std::env::set_current_dir(home).is_err() {
        std::env::set_current_dir("/").map_err(system("enter the root folder"))?;
    }
    // Only now is anything taken apart that a client has said.
    let mut opening = receive_opening(&mut control)?;
    let keep = keep(&mut opening, sessions, &start);
    match prepare(opening, registry) {
        Ok(mut prepared) => {
            prepared.call.processes = group.map(|group| Arc::new(group) as _);
            run(prepared, data, control, memory, keep)
        }
        Err(fault) => tell(&mut data, Outcome::Unavailable(fault)),
    }
    .map_err(system("run the call"))
}

fn system(doing: &'static str) -> impl Fn(io::Error) -> HolderError {
    move |source| HolderError::System { doing, source }
}

/// Receives the first frame, and with it the shared memory and, for a call that may be kept, the
/// folder of its user's sessions.
fn receive_start(
    control: &mut StdUnixStream,
) -> Result<(Start, OwnedFd, Option<OwnedFd>), HolderError> {
    let received = descriptors::receive_header(&*control);
    let (header, descriptors) =
        received.map_err(|error| HolderError::Frame(FrameError::Read(error)))?;
    let frame = frame::read_payload(control, header).map_err(HolderError::Frame)?;
    let Frame::User(start) = frame else {
        return Err(HolderError::Unintelligible);
    };
    let start = Start::decode(start).map_err(|_| HolderError::Unintelligible)?;
    let mut descriptors = descriptors.into_iter();
    let memory = descriptors.next().ok_or(HolderError::Unintelligible)?;
    let sessions = descriptors.next().filter(|_| start.has_sessions);
    Ok((start, memory, sessions))
}

fn receive_opening(control: &mut impl Read) -> Result<Opening, HolderError> {
    match frame::read(control).map_err(HolderError::Frame)? {
        Frame::Opening(opening) => {
            Opening::decode(opening).map_err(|_| HolderError::Unintelligible)
        }
        _ => Err(HolderError::Unintelligible),
    }
}

/// Tells an outcome before the call has begun.
fn tell(data: &mut StdUnixStream, outcome: Outcome) -> io::Result<()> {
    let (mut bytes, payload) = outcome_frame(outcome).encode();
    bytes.extend_from_slice(&payload);
    io::Write::write_all(data, &bytes)
}

/// The frame of an outcome. A fault that is too long for it is replaced.
fn outcome_frame(outcome: Outcome) -> Frame {
    Frame::Outcome(outcome_bytes(outcome))
}

/// An outcome as it travels.
pub(crate) fn outcome_bytes(outcome: Outcome) -> Bytes {
    let mut bytes = wire::Outcome::from(outcome).encode_to_vec();
    if bytes.len() > limits::MESSAGE_BYTES {
        let fault = Fault::new("the module failed, with a fault too long to be told");
        bytes = wire::Outcome::from(Outcome::Failed(fault)).encode_to_vec();
    }
    bytes.into()
}

/// How the call is kept, if it is to be.
fn keep(opening: &mut Opening, folder: Option<OwnedFd>, start: &Start) -> Option<Keep> {
    let sealed = opening.session.take()?;
    let keeping = opening.open.as_mut()?.keeping.take()?;
    Some(Keep {
        keeping: keeping.into(),
        facts: Facts::decode(sealed.facts.clone()).ok()?,
        sealed,
        folder: folder?,
        server_uid: start.server_uid,
        spill_bytes: start.spill_bytes,
    })
}

/// A call that is ready to run.
pub(crate) struct Prepared {
    pub(crate) module: Arc<dyn Module>,
    pub(crate) call: Call,
    pub(crate) controls: ControlSender,
    pub(crate) inline_bytes: usize,
}

fn prepare(opening: Opening, registry: &Registry) -> Result<Prepared, Fault> {
    let effects = messages::effects(opening.effects());
    let inline_bytes = usize::try_from(opening.inline_bytes)
        .unwrap_or(usize::MAX)
        .min(limits::MESSAGE_BYTES);
    let open = opening.open.unwrap_or_default();
    let module = Arc::clone(registry.resolve(&open.module)?);
    let peer = Peer::assert_verified(opening.identity);
    let permit = Policy::allow_all(opening.rule)
        .authorise(&peer, module.spec(), effects)
        .map_err(|denied| Fault::from(&denied))?;
    let id =
        CallId::try_from(open.call_id.clone()).map_err(|error| Fault::new(error.to_string()))?;
    let (controls, receiver) = Control::queue();
    let (deadline, request) = messages::deadline_and_request(open);
    let mut call = Call::new(id, peer, permit, request, receiver);
    call.deadline = deadline;
    if let Some(account) = opening.account {
        call.account = account.into();
    }
    Ok(Prepared {
        module,
        call,
        controls,
        inline_bytes,
    })
}

fn run(
    prepared: Prepared,
    data: StdUnixStream,
    control: StdUnixStream,
    memory: OwnedFd,
    keep: Option<Keep>,
) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    data.set_nonblocking(true)?;
    control.set_nonblocking(true)?;
    let told = runtime.block_on(async {
        let sockets = (UnixStream::from_std(data)?, UnixStream::from_std(control)?);
        match keep {
            Some(keep) => session::run(prepared, sockets, memory, keep).await,
            None => converse(prepared, sockets, memory).await,
        }
    });
    // Work that cannot be cancelled (a read of a slow disk) ends with the process.
    runtime.shutdown_background();
    told
}

/// Runs the Commander and relays what it says, until its outcome is told.
async fn converse(
    prepared: Prepared,
    sockets: (UnixStream, UnixStream),
    memory: OwnedFd,
) -> io::Result<()> {
    let mut link = Link::new(End::Holder, sockets, memory, prepared.inline_bytes);
    let (ours, theirs) = Channel::pair(limits::CHANNEL_BYTES);
    let (to_commander, from_commander) = ours.split();
    let cancellation = prepared.call.cancellation.clone();
    let theirs = theirs.with_buffers(link.writer.buffers());
    let mut commander = Execution::start(prepared.module, prepared.call, theirs);
    let abort = commander.abort_handle();

    let answer = async {
        // When the server is gone the Commander learns it from its cancellation.
        let open = link.writer.pump(from_commander, &cancellation).await;
        let outcome = commander.outcome().await;
        open?;
        link.writer.write(outcome_frame(outcome)).await
    };
    let messages = async {
        let (never, kept) = (CancellationToken::new(), to_commander.clone());
        let end = link.reader.pump(to_commander, &never).await;
        if !matches!(end, Ok(Some(Frame::End))) {
            // The server was lost, which a Commander must not take for the end of its input.
            cancellation.cancelled().await;
        }
        drop(kept);
        std::future::pending().await
    };
    let controls = async {
        let deliver = |frame| deliver(frame, &prepared.controls, &cancellation);
        if let Err(error) = link.control_reader.pump(deliver).await {
            tracing::error!(%error, "the server's controls cannot be read");
        }
        cancellation.cancel();
        std::future::pending().await
    };
    let notices = async {
        notify(link.control_writer, &link.notices).await.ok();
        std::future::pending().await
    };
    let impatience = async {
        cancellation.cancelled().await;
        tokio::time::sleep(GRACE).await;
        abort.abort();
        tokio::time::sleep(LAST_WORDS).await;
    };
    tokio::select! {
        told = answer => told,
        told = messages => told,
        told = controls => told,
        told = notices => told,
        () = impatience => Err(io::Error::other("the call did not end in time")),
    }
}

/// Passes a control of the server on.
fn deliver(
    frame: Frame,
    controls: &ControlSender,
    cancellation: &CancellationToken,
) -> Result<(), PumpError> {
    let Frame::Control(control) = frame else {
        return Err(PumpError::Misplaced);
    };
    let request = wire::ControlRequest::decode(control).map_err(|_| PumpError::Unintelligible)?;
    match Control::try_from(request.control) {
        // Without being kept it cannot go on alone.
        Ok(Control::Cancel | Control::Detach) => cancellation.cancel(),
        // It is dropped when too many wait already.
        Ok(control) => drop(controls.send(control)),
        Err(_) => return Err(PumpError::Unintelligible),
    }
    Ok(())
}

async fn notify(mut socket: OwnedWriteHalf, notices: &Notices) -> io::Result<()> {
    loop {
        frame::write(&mut socket, notices.next().await).await?;
    }
}
