//! What a module is: a spec and two halves.

use std::future::Future;
use std::pin::Pin;

use tokio::sync::oneshot;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::{
    Arguments, Call, Channel, ControlSender, Effects, Fault, Local, Outcome, Placement, Request,
    Settings, Spec,
};

/// A future in a box, so that traits with it can be used behind `dyn`.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A named command with a [`Spec`] and one or both halves.
pub trait Module: Send + Sync {
    /// Data about the module.
    fn spec(&self) -> &Spec;

    /// The server half, if it has one.
    fn commander(&self) -> Option<&dyn Commander> {
        None
    }

    /// The client half, if it has one.
    fn sender(&self) -> Option<&dyn Sender> {
        None
    }

    /// Where it comes from; part of the program unless it says something else.
    fn origin(&self) -> Origin {
        Origin::default()
    }

    /// Takes what the server's configuration says to the module, once, before any call. Only the
    /// server itself is told: what a Commander elsewhere has to know goes into its request
    /// ([`Commander::admit`]).
    ///
    /// # Errors
    /// When there is a setting that the module does not know, or whose value makes no sense.
    fn configure(&self, settings: &Settings) -> Result<(), Fault> {
        settings.check_names(&[])
    }
}

/// Where a module comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// What runs it.
    pub kind: &'static str,
    /// The SHA-256 of a client half that clients may take, in hexadecimal.
    pub travelling: Option<String>,
}

impl Default for Origin {
    fn default() -> Self {
        Self {
            kind: "built-in",
            travelling: None,
        }
    }
}

/// What a request would do, told before anything is done: for policy and audit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inspection {
    /// The effects that the call would have, a part of [`Spec::effects`].
    pub effects: Effects,
    /// The request in one line, for the audit. No secrets: values of environment variables and
    /// contents of files do not belong here.
    pub summary: String,
}

/// The server half: does what was asked.
pub trait Commander: Send + Sync {
    /// Tells what a request would do, without doing it. Runs in the server before policy decides,
    /// so it only looks at the request: no file, no process.
    ///
    /// # Errors
    /// When the request cannot be understood.
    fn inspect(&self, request: &Request) -> Result<Inspection, Fault>;

    /// What the server's settings make of a request that policy has permitted: the request that
    /// [`execute`](Self::execute) gets. Runs in the server.
    ///
    /// # Errors
    /// When the settings forbid it; the outcome is [`Outcome::Denied`].
    fn admit(&self, request: Request) -> Result<Request, Fault> {
        Ok(request)
    }

    /// Where a request runs, if it is not where all of the module's do ([`Spec::placement`]).
    /// Only a module whose placement is [`Placement::Child`] can have calls that run elsewhere.
    fn placement(&self, _request: &Request) -> Option<Placement> {
        None
    }

    /// Does what was asked, speaking to the Sender through `channel`.
    ///
    /// The call's outcome reaches the client behind all messages that were sent. When
    /// [`Call::cancellation`] fires it should clean up and return; it is dropped some seconds
    /// later.
    ///
    /// # Errors
    /// A [`Fault`] makes the outcome [`Outcome::Failed`].
    fn execute(&self, call: Call, channel: Channel) -> BoxFuture<'_, Result<Outcome, Fault>>;
}

/// The client half: turns a user's arguments into a request and drives the conversation.
pub trait Sender: Send + Sync {
    /// Opens one call (or several) through `caller` and drives it, using nothing of the user's
    /// machine but `local`.
    ///
    /// # Errors
    /// A [`Fault`] for what went wrong on the client's side, such as bad arguments or an unreadable
    /// file; it makes the outcome [`Outcome::Failed`].
    fn send<'a>(
        &'a self,
        arguments: Arguments,
        caller: &'a dyn Caller,
        local: &'a dyn Local,
    ) -> BoxFuture<'a, Result<Outcome, Fault>>;

    /// Drives a kept call of this module that somebody has opened before, using nothing of the
    /// user's machine but `local`. The conversation begins with what is kept of its messages.
    ///
    /// # Errors
    /// When the module's calls cannot be attached to, or as [`Sender::send`].
    fn attach<'a>(
        &'a self,
        attach: crate::Attach,
        caller: &'a dyn Caller,
        local: &'a dyn Local,
    ) -> BoxFuture<'a, Result<Outcome, Fault>> {
        let _ = (attach, caller, local);
        Box::pin(std::future::ready(Err(Fault::new(
            "calls of this module cannot be attached to",
        ))))
    }
}

/// Opens calls of one module on one host; given to that module's Sender.
pub trait Caller: Send + Sync {
    /// Opens a call. The server's refusal, if any, is the conversation's outcome.
    ///
    /// # Errors
    /// When the connection is gone or the request is longer than the wire takes.
    fn open(&self, request: Request) -> BoxFuture<'_, Result<Conversation, Fault>>;

    /// Attaches to a kept call. The server's refusal, if any, is the conversation's outcome.
    ///
    /// # Errors
    /// When calls cannot be kept here, or the connection is gone.
    fn attach(&self, attach: crate::Attach) -> BoxFuture<'_, Result<Conversation, Fault>> {
        let _ = attach;
        Box::pin(std::future::ready(Err(Fault::new(
            "calls cannot be attached to here",
        ))))
    }

    /// Whether calls that ask for it outlive their connection here.
    fn keeps_calls(&self) -> bool {
        true
    }

    /// Waits for the next change of the connection that kept calls use; never returns where there
    /// is none.
    fn link(&self) -> BoxFuture<'_, Link> {
        Box::pin(std::future::pending())
    }

    /// Opens calls of the same module on the same host over a connection of its own.
    ///
    /// # Errors
    /// When there is no way to connect once more, or it cannot be.
    fn another(&self) -> BoxFuture<'_, Result<Box<dyn Caller>, Fault>> {
        Box::pin(std::future::ready(Err(Fault::new(
            "there is no way to connect once more",
        ))))
    }

    /// Connects again if the connection is lost, or takes no more calls: those that are opened from
    /// then on use the new one. Those of a lost one are ended at the server, should it not know that
    /// they are lost; those of one that takes no more go on.
    fn reconnect(&self) -> BoxFuture<'_, Reconnection> {
        Box::pin(std::future::ready(Reconnection::Impossible))
    }

    /// Waits until what the calls had to say last, such as a cancellation, has left.
    fn finish(self: Box<Self>) -> BoxFuture<'static, ()> {
        Box::pin(std::future::ready(()))
    }
}

/// What an attempt to connect again comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reconnection {
    /// There is a new connection.
    Done,
    /// The connection is not lost, as far as is known: one that takes no more calls is found when one
    /// more is tried.
    NotLost,
    /// Not this time, for this reason; another attempt may be made.
    Failed(Fault),
    /// There is no way to connect again.
    Impossible,
}

/// What has become of the connection of kept calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Link {
    /// It is lost, for this reason; another one is being made.
    Lost(String),
    /// There is one again.
    Back,
}

/// The client's end of a running call. Dropping it cancels the call.
#[derive(Debug)]
pub struct Conversation {
    /// How the call ends. Dropping it ends the call; a channel that is dropped afterwards is not
    /// told as the end of its messages, which the Commander would take for all of them.
    pub outcome: PendingOutcome,
    /// Messages to and from the Commander. It ends when the call has ended.
    pub channel: Channel,
    /// Signals and resizes to what the call runs.
    pub controls: ControlSender,
}

/// How a running call will end.
#[derive(Debug)]
pub struct PendingOutcome {
    outcome: oneshot::Receiver<Outcome>,
    dropped: DropGuard,
}

impl PendingOutcome {
    /// A pending outcome and the end that decides it.
    pub fn new() -> (oneshot::Sender<Outcome>, Self) {
        let (decide, outcome) = oneshot::channel();
        let dropped = CancellationToken::new().drop_guard();
        (decide, Self { outcome, dropped })
    }

    /// Fires when nobody waits for the outcome any more.
    pub fn dropped(&self) -> CancellationToken {
        self.dropped.token().clone()
    }

    /// Waits for the outcome; [`Outcome::Lost`] if whoever should tell it has gone.
    pub async fn wait(self) -> Outcome {
        self.outcome.await.unwrap_or_else(|_| {
            Outcome::Lost(Fault::new("the connection ended before the call did"))
        })
    }
}
