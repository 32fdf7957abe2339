//! A kept call in its holder: the Commander speaks into a log, clients attach to it and go.
//!
//! The server that started the call is its first client's way in; later ones, also of other servers,
//! come through a socket in the sessions' folder. The holder outlives them all.

mod attachment;
mod clients;
mod door;
mod log;
mod spill;

use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use legatus_core::{
    Channel, ChannelReceiver, ChannelSender, Control, ControlSender, Execution, Keeping, Outcome,
    limits,
};
use tokio::net::UnixStream;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::clients::{Clients, Fate, Place};
use self::log::Log;
use self::spill::Spill;
use crate::holder::{GRACE, Prepared, outcome_bytes};
use crate::messages::{AttachRequest, Facts, Hello, PROTOCOL, Sealed};
use crate::pump::Link;
use crate::slab::{self, End};

/// A call that ends within this time needs no way in for later clients.
const OPEN_AFTER: Duration = Duration::from_millis(100);

/// How long after an aborted Commander its outcome is made up.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// What a holder is given to keep a call.
#[derive(Debug)]
pub(crate) struct Keep {
    pub(crate) keeping: Keeping,
    pub(crate) sealed: Sealed,
    pub(crate) facts: Facts,
    /// The folder of the sockets of this user's sessions.
    pub(crate) folder: OwnedFd,
    pub(crate) server_uid: u32,
    /// Bytes that may be put on disk beside those in memory.
    pub(crate) spill_bytes: u64,
}

impl Keep {
    /// Where output goes that memory is not to hold.
    fn spill(&self) -> Spill {
        match self.spill_bytes {
            0 => Spill::none(),
            bytes => Spill::new(&self.folder, bytes).unwrap_or_else(|error| {
                tracing::warn!(%error, "a session puts nothing on disk");
                Spill::none()
            }),
        }
    }
}

/// What the tasks of a kept call share.
struct Session {
    keep: Keep,
    clients: Mutex<Clients>,
    /// Counts changes that writers, the Commander's messages and the call's fate wait for.
    changes: watch::Sender<u64>,
    /// The Commander's input; gone when it has ended.
    input: Mutex<Option<ChannelSender>>,
    controls: ControlSender,
    cancellation: CancellationToken,
    /// Fires when later clients must find a way in at once.
    open: CancellationToken,
    door_is_open: AtomicBool,
    /// Fires when the holder ends.
    over: CancellationToken,
}

/// Runs a call and keeps it until nobody needs it any more.
pub(crate) async fn run(
    prepared: Prepared,
    sockets: (UnixStream, UnixStream),
    memory: OwnedFd,
    keep: Keep,
) -> io::Result<()> {
    let Prepared {
        module,
        call,
        controls,
        inline_bytes,
    } = prepared;
    let (ours, theirs) = Channel::pair(limits::CHANNEL_BYTES);
    let (input, output) = ours.split();
    let keeping = &keep.keeping;
    let log = Log::new(keeping.replay_bytes, keep.spill());
    let clients = Clients::new(log, keeping.linger, keeping.keep);
    let session = Arc::new(Session {
        clients: Mutex::new(clients),
        changes: watch::Sender::new(0),
        input: Mutex::new(Some(input)),
        controls,
        cancellation: call.cancellation.clone(),
        open: CancellationToken::new(),
        door_is_open: AtomicBool::new(false),
        over: CancellationToken::new(),
        keep,
    });
    let first = AttachRequest {
        client: session.keep.facts.id.clone(),
        ..AttachRequest::default()
    };
    let deadline = call.deadline;
    let link = Link::new(End::Holder, sockets, memory, inline_bytes);
    if let Ok((place, taken)) = session.clients().attach(&first) {
        tokio::spawn(attachment::run(Arc::clone(&session), place, taken, link));
    }
    let commander = Execution::start(module, call, theirs);
    tokio::spawn(door::keep_open(Arc::clone(&session)));
    tokio::spawn(Arc::clone(&session).listen_to(output, commander, deadline));
    session.outlive().await;
    session.over.cancel();
    session.close_door();
    Ok(())
}

impl Session {
    fn clients(&self) -> MutexGuard<'_, Clients> {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where the Commander's input goes, until it has ended.
    fn input_sender(&self) -> Option<ChannelSender> {
        let input = self.input.lock().unwrap_or_else(PoisonError::into_inner);
        input.clone()
    }

    /// Ends the Commander's input.
    fn end_input(&self) {
        let mut input = self.input.lock().unwrap_or_else(PoisonError::into_inner);
        *input = None;
    }

    fn changed(&self) {
        self.changes.send_modify(|count| *count += 1);
    }

    /// Puts the Commander's messages into the log, and its outcome behind them.
    async fn listen_to(
        self: Arc<Self>,
        mut output: ChannelReceiver,
        mut commander: Execution,
        deadline: Option<std::time::Instant>,
    ) {
        let mut changes = self.changes.subscribe();
        let abort = commander.abort_handle();
        let listening = async {
            loop {
                changes.mark_unchanged();
                if !self.clients().has_room() {
                    changes.changed().await.ok();
                    continue;
                }
                let Some(message) = output.receive().await else {
                    break;
                };
                self.clients().push(message);
                self.changed();
            }
            commander.outcome().await
        };
        let in_time = async {
            match deadline {
                Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
                None => std::future::pending().await,
            }
            self.cancellation.cancel();
        };
        let impatience = async {
            self.cancellation.cancelled().await;
            tokio::time::sleep(GRACE).await;
            abort.abort();
            tokio::time::sleep(LAST_WORDS).await;
        };
        tokio::pin!(listening, in_time, impatience);
        let mut timed_out = false;
        let outcome = loop {
            tokio::select! {
                outcome = &mut listening => break outcome,
                () = &mut in_time, if !timed_out => timed_out = true,
                () = &mut impatience => break Outcome::Cancelled,
            }
        };
        // What a cancelled Commander says of its end is that it was cancelled.
        let outcome = match (timed_out, self.cancellation.is_cancelled()) {
            (true, _) => Outcome::Timeout,
            (false, true) => Outcome::Cancelled,
            (false, false) => outcome,
        };
        self.clients().finish(outcome_bytes(outcome));
        self.changed();
    }

    /// Somebody wants the call to end; the outcome of one that has ended is wanted no more.
    fn end(&self) {
        let mut clients = self.clients();
        if clients.log.outcome().is_some() {
            clients.dismiss();
        }
        drop(clients);
        self.cancellation.cancel();
        self.changed();
    }

    /// Waits until nobody needs the call any more; cancels it if nobody came back for it.
    async fn outlive(&self) {
        let mut changes = self.changes.subscribe();
        loop {
            changes.mark_unchanged();
            let fate = self.clients().fate();
            let at = match fate {
                Fate::GoesOn => None,
                Fate::CancelAt(_) if self.cancellation.is_cancelled() => None,
                Fate::CancelAt(at) | Fate::FinishAt(at) => Some(at),
            };
            let passed = tokio::select! {
                changed = changes.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    false
                }
                () = tokio::time::sleep_until(at.unwrap_or_else(Instant::now)), if at.is_some() => true,
            };
            match fate {
                Fate::FinishAt(_) if passed => return,
                Fate::CancelAt(_) if passed => self.cancellation.cancel(),
                _ => {}
            }
        }
    }

    /// A client is gone.
    fn part(&self, place: &Place, willingly: bool) {
        let size = {
            let mut clients = self.clients();
            clients.gone(place, willingly);
            clients.fitting()
        };
        if let Some(size) = size {
            self.controls.send(Control::Resize(size));
        }
        self.open.cancel();
        self.changed();
    }

    /// What the call is and how it is.
    fn hello(&self, refusal: Option<String>) -> Hello {
        let clients = self.clients();
        let outcome = clients.log.outcome();
        Hello {
            protocol: PROTOCOL,
            sealed: Some(self.keep.sealed.clone()),
            clients: u32::try_from(clients.clients_attached()).unwrap_or(u32::MAX),
            idle: u64::try_from(clients.idle().as_millis()).unwrap_or(u64::MAX),
            bytes_in: clients.bytes_in(),
            bytes_out: clients.log.total(),
            outcome: outcome.and_then(|bytes| prost::Message::decode(bytes.clone()).ok()),
            refusal: refusal.unwrap_or_default(),
            layout: slab::LAYOUT,
        }
    }
}
