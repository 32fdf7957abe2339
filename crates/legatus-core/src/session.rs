//! Calls that outlive their connection: sessions.
//!
//! Both sides of such a call count messages and keep those that the other has not acknowledged, so
//! that a client which comes back goes on exactly where it was.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{BoxFuture, Outcome, limits};

/// How a call outlives its connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keeping {
    /// How long a client that was lost without goodbye is waited for, before the call is cancelled.
    /// At most [`limits::SESSION_TIME`].
    pub linger: Duration,
    /// How long the outcome is kept if nobody is there to take it.
    pub keep: Duration,
    /// What people call it; may be empty. At most [`limits::SESSION_NAME_BYTES`].
    pub name: String,
    /// Bytes of messages that are kept for those who attach later, though they were acknowledged;
    /// at most [`limits::SESSION_BYTES`].
    pub replay_bytes: usize,
    /// Whether what it runs has a terminal; for those who attach.
    pub terminal: bool,
    /// Whether the client leaves when the call has begun, so that the outcome is not for it, even if it comes
    /// first.
    pub detached: bool,
}

impl Default for Keeping {
    /// Ten minutes for a lost client, a day for the outcome, and a screenful or two to see.
    fn default() -> Self {
        Self {
            linger: Duration::from_secs(10 * 60),
            keep: Duration::from_secs(24 * 3600),
            name: String::new(),
            replay_bytes: limits::CHUNK_BYTES,
            terminal: false,
            detached: false,
        }
    }
}

/// Attaches to a kept call.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attach {
    /// The call's id, or its name.
    pub session: String,
    /// The client was here before and goes on.
    pub resume: bool,
    /// How many of the Commander's messages it has got.
    pub received: u64,
    /// It only watches.
    pub read_only: bool,
    /// Whether what it runs has a terminal, as far as the client knows.
    pub terminal: bool,
    /// Whether what is typed may be shown before it has come back; for the client alone.
    pub predicts: bool,
    /// Its terminal's size goes before those of other clients, instead of the smallest.
    pub own_size: bool,
    /// Together with `resume`: if the call has not begun it is opened, as it may be that its server
    /// never heard of it.
    pub or_open: bool,
}

/// What a client has acknowledged when it has got the outcome, too.
pub const FETCHED: u64 = u64::MAX;

/// How long a client may take to acknowledge an outcome that it was sent.
const FETCH_WITHIN: Duration = Duration::from_secs(30);

/// Waits until a client has acknowledged the outcome that it was sent, as [`Persistence::received`]
/// tells; whether it has done so before its stream ended, and in time.
pub async fn is_fetched(mut received: watch::Receiver<u64>) -> bool {
    let fetched = received.wait_for(|count| *count == FETCHED);
    matches!(tokio::time::timeout(FETCH_WITHIN, fetched).await, Ok(Ok(_)))
}

/// How far a client's messages have come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Taken {
    /// So many of its messages need not be sent again.
    pub messages: u64,
    /// The Commander's messages that it has not acknowledged begin with this one.
    pub next: u64,
}

/// What a call that outlives its connection shares with whoever speaks to its client.
#[derive(Debug)]
pub struct Persistence {
    /// How it is kept.
    pub keeping: Keeping,
    /// Attaches to a kept call instead of opening one.
    pub attach: Option<Attach>,
    /// The request in one line, for those who list sessions.
    pub summary: String,
    /// How many of the Commander's messages the client has got; [`FETCHED`]: the outcome, too.
    pub received: watch::Receiver<u64>,
    /// How far the client's messages have come; `None` until the call has begun.
    pub taken: watch::Sender<Option<Taken>>,
    /// Fires when the client is lost without goodbye.
    pub lost: CancellationToken,
    /// Whether the call goes on although this client has gone.
    pub kept: Kept,
    /// Whether sessions of other identities may be attached to.
    pub others: bool,
}

/// Whether a call goes on although a client has gone.
#[derive(Clone, Debug, Default)]
pub struct Kept(Arc<AtomicBool>);

impl Kept {
    /// It does.
    pub fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether it does.
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// A kept call, as it is listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionInfo {
    /// The call's id.
    pub id: String,
    /// Whose it is.
    pub identity: String,
    /// The module's canonical name.
    pub module: String,
    /// The request in one line.
    pub summary: String,
    /// What people call it; may be empty.
    pub name: String,
    /// The operating system's user that it runs as.
    pub user: String,
    /// When it began, since 1970.
    pub started: Duration,
    /// Clients that are attached now.
    pub clients: u32,
    /// How long ago the last message passed.
    pub idle: Duration,
    /// Bytes of messages from clients.
    pub bytes_in: u64,
    /// Bytes of messages to clients.
    pub bytes_out: u64,
    /// How it ended, if it has.
    pub outcome: Option<Outcome>,
    /// Whether what it runs has a terminal.
    pub terminal: bool,
}

/// The kept calls of a server.
pub trait Sessions: Send + Sync {
    /// All that there are.
    fn list(&self) -> BoxFuture<'_, Vec<SessionInfo>>;

    /// The ids of all that there may be; cheap.
    ///
    /// # Errors
    /// When they cannot be read.
    fn ids(&self) -> std::io::Result<Vec<String>>;

    /// Waits until a call has ended; `None` if it cannot be told how, as when its process was killed.
    fn watch<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Option<SessionInfo>>;

    /// Cancels a call, or sends a signal (Linux numbering) to what it runs; false if there is none
    /// of that id (or name) and identity; `others`: of any identity.
    fn end<'a>(
        &'a self,
        id: &'a str,
        identity: &'a str,
        others: bool,
        signal: Option<u8>,
    ) -> BoxFuture<'a, bool>;
}
