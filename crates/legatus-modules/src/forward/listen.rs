//! Listening at the server's side: accepted connections wait to be fetched by calls of their own.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use legatus_core::{Channel, ChannelSender, Connection, Fault, Listener, Outcome, SocketName};
use prost::Message;
use tokio::time::Instant;

use super::messages::{Announced, Listening, Output, Ticket, output};
use super::{request, sockets};

/// How long an accepted connection waits to be fetched: a round trip, and a client that is busy.
pub(super) const FETCH_WITHIN: Duration = Duration::from_secs(30);

/// Connections of one listener that wait to be fetched; more are closed at once. As many as a
/// listening socket usually holds itself (`SOMAXCONN` of old).
pub(super) const WAITING: usize = 128;

/// A pause after accepting has failed: a moment later some descriptors may be free again.
pub(super) const PAUSE: Duration = Duration::from_millis(50);

/// Connections that wait to be fetched, by ticket.
#[derive(Default)]
pub(super) struct Waiting {
    connections: Mutex<HashMap<Vec<u8>, Entry>>,
}

struct Entry {
    /// Who listens, and alone may fetch it.
    identity: String,
    connection: Box<dyn Connection>,
}

impl Waiting {
    /// Gives a connection to whoever has its ticket and listened for it.
    pub(super) fn take(&self, identity: &str, ticket: &[u8]) -> Option<Box<dyn Connection>> {
        let mut connections = self.lock();
        let entry = connections.remove(ticket)?;
        if entry.identity == identity {
            return Some(entry.connection);
        }
        connections.insert(ticket.to_vec(), entry);
        None
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Vec<u8>, Entry>> {
        self.connections
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// The connections of one listener that were announced; those that wait still are closed with it.
struct Announcements {
    waiting: Arc<Waiting>,
    identity: String,
    tickets: VecDeque<(Instant, Vec<u8>)>,
}

impl Announcements {
    /// Keeps a connection; `None` if too many wait already.
    fn add(&mut self, connection: Box<dyn Connection>) -> Result<Option<Vec<u8>>, Fault> {
        self.expire();
        let ticket = random_ticket()?;
        let mut connections = self.waiting.lock();
        self.tickets
            .retain(|(_, ticket)| connections.contains_key(ticket));
        if self.tickets.len() >= WAITING {
            return Ok(None);
        }
        let entry = Entry {
            identity: self.identity.clone(),
            connection,
        };
        connections.insert(ticket.clone(), entry);
        self.tickets
            .push_back((Instant::now() + FETCH_WITHIN, ticket.clone()));
        Ok(Some(ticket))
    }

    /// Closes what has waited too long.
    fn expire(&mut self) {
        let now = Instant::now();
        while let Some((_, ticket)) = self.tickets.pop_front_if(|(until, _)| *until <= now) {
            self.waiting.lock().remove(&ticket);
        }
    }

    /// Waits until the oldest connection has waited too long.
    async fn next_expiry(&self) {
        match self.tickets.front() {
            Some((until, _)) => tokio::time::sleep_until(*until).await,
            None => std::future::pending().await,
        }
    }
}

impl Drop for Announcements {
    fn drop(&mut self) {
        let mut connections = self.waiting.lock();
        for (_, ticket) in &self.tickets {
            connections.remove(ticket);
        }
    }
}

/// Listens inside the server until the caller ends it.
pub(super) async fn listen(
    at: &SocketName,
    waiting: &Arc<Waiting>,
    identity: &str,
    channel: Channel,
) -> Result<Outcome, Fault> {
    let (sink, mut source) = channel.split();
    let listener = match sockets::listen(at).await {
        Ok(listener) => listener,
        Err(error) => return refuse(&sink, cannot_listen(at, &error), &error).await,
    };
    tell(&sink, listening(&listener.names())).await?;
    let announcements = Announcements {
        waiting: Arc::clone(waiting),
        identity: identity.to_owned(),
        tickets: VecDeque::new(),
    };
    tokio::select! {
        result = announce(listener, announcements, &sink) => result,
        () = async { while source.receive().await.is_some() {} } => Ok(Outcome::SUCCESS),
        () = sink.closed() => Ok(Outcome::Cancelled),
    }
}

async fn announce(
    mut listener: Box<dyn Listener>,
    mut announcements: Announcements,
    sink: &ChannelSender,
) -> Result<Outcome, Fault> {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = announcements.next_expiry() => {
                announcements.expire();
                continue;
            }
        };
        match accepted {
            Ok((connection, peer)) => match announcements.add(connection)? {
                Some(ticket) => {
                    let ticket = Ticket {
                        ticket: ticket.into(),
                        unix: false,
                    };
                    tell(sink, announced(ticket, peer)).await?;
                }
                None => tracing::warn!(peer, "too many connections wait to be fetched"),
            },
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// 128 bits that nobody guesses.
pub(super) fn random_ticket() -> Result<Vec<u8>, Fault> {
    let mut ticket = vec![0; 16];
    getrandom::fill(&mut ticket).map_err(|error| Fault::new(format!("no randomness: {error}")))?;
    Ok(ticket)
}

pub(super) fn listening(names: &[SocketName]) -> output::Part {
    output::Part::Listening(Listening {
        sockets: names.iter().map(request::wire).collect(),
    })
}

pub(super) fn announced(ticket: Ticket, peer: String) -> output::Part {
    output::Part::Announced(Announced {
        ticket: Some(ticket),
        peer,
    })
}

pub(super) async fn tell(sink: &ChannelSender, part: output::Part) -> Result<(), Fault> {
    let output = Output { part: Some(part) };
    let sent = sink.send(output.encode_to_vec().into()).await;
    sent.map_err(|_| Fault::new("the caller has gone"))
}

pub(super) fn cannot_listen(at: &SocketName, error: &io::Error) -> String {
    format!("cannot listen on {at}: {}", reason(error))
}

/// Why something failed, in the system's words alone.
pub(super) fn reason(error: &io::Error) -> String {
    let text = error.to_string();
    match text.split_once(" (os error") {
        Some((words, _)) => words.to_owned(),
        None => text,
    }
}

/// Tells why there is no connection, for machines and for people.
pub(super) async fn refuse(
    sink: &ChannelSender,
    message: String,
    error: &io::Error,
) -> Result<Outcome, Fault> {
    use super::messages::{Refused, refused::Reason};
    let reason = match error.kind() {
        io::ErrorKind::PermissionDenied => Reason::NotAllowed,
        io::ErrorKind::NetworkUnreachable => Reason::NetworkUnreachable,
        io::ErrorKind::ConnectionRefused => Reason::ConnectionRefused,
        io::ErrorKind::TimedOut => Reason::TimedOut,
        io::ErrorKind::HostUnreachable => Reason::HostUnreachable,
        // What getaddrinfo(3) says has no number of its own.
        _ if error.raw_os_error().is_none() => Reason::HostUnreachable,
        _ => Reason::Unspecified,
    };
    let refused = Refused {
        reason: reason.into(),
        message: message.clone(),
    };
    tell(sink, output::Part::Refused(refused)).await?;
    Err(Fault::new(message))
}
