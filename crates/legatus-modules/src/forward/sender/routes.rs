//! What listens, and what is done with each connection.

use std::io;
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt};
use legatus_core::{
    BoxFuture, Caller, Channel, Connection, Conversation, Fault, Listener, Local, Outcome,
    SocketName,
};

use tokio::sync::mpsc;
use tokio::time::Instant;

use super::reconnecting::{self, Reconnecting};
use crate::forward::lines::Lines;
use crate::forward::listen::{PAUSE, cannot_listen, reason};
use crate::forward::messages::{Announced, Listening, output, refused::Reason};
use crate::forward::places::Route;
use crate::forward::request::{self, What};
use crate::forward::{carry, socks};

/// What every route needs.
#[derive(Clone, Copy)]
pub(super) struct Forwarding<'a> {
    pub(super) caller: &'a dyn Caller,
    pub(super) lines: &'a Lines<'a>,
    pub(super) reconnecting: &'a Reconnecting<'a>,
    pub(super) local: &'a dyn Local,
    pub(super) is_quiet: bool,
}

/// A call in which the server listens, and on what.
struct ListeningThere {
    conversation: Conversation,
    names: Vec<SocketName>,
}

impl ListeningThere {
    /// The port that was given, if it is one.
    fn port(&self) -> Option<u16> {
        self.names.iter().find_map(|name| match name {
            SocketName::Tcp { port, .. } => Some(*port),
            SocketName::Unix(_) => None,
        })
    }
}

/// How long a place there may be taken yet when the server is to listen on it again: so long it may take
/// to learn that a connection is lost (two of its pings).
const FREE_WITHIN: Duration = Duration::from_secs(40);

/// A pause before it is asked once more.
const FREE_PAUSE: Duration = Duration::from_millis(500);

/// Whether the system chooses the port.
fn is_any_port(at: &SocketName) -> bool {
    matches!(at, SocketName::Tcp { port: 0, .. })
}

/// Whither the connections of a listener here go.
enum Target {
    Fixed(SocketName),
    Socks,
}

impl<'a> Forwarding<'a> {
    /// Listens; what is returned carries the connections, and ends when it cannot any more.
    pub(super) async fn start(self, route: Route) -> Result<BoxFuture<'a, Outcome>, Fault> {
        match route {
            Route::Local(at, to) => {
                let listener = self.listen_here(&at).await?;
                self.tell_listening("here", &listener.names(), &to.to_string());
                Ok(Box::pin(self.carry_local(listener, Target::Fixed(to))))
            }
            Route::Dynamic(at) => {
                let listener = self.listen_here(&at).await?;
                self.tell_listening("here", &listener.names(), "where SOCKS5 clients want");
                Ok(Box::pin(self.carry_local(listener, Target::Socks)))
            }
            Route::Remote(at, to) => {
                let listening = self.listen_there(at.clone()).await;
                let listening = listening.map_err(|outcome| match outcome.fault() {
                    Some(fault) => fault.clone(),
                    None => Fault::new(format!("the server does not listen on {at}")),
                })?;
                if self.is_quiet && is_any_port(&at) {
                    // Nobody could know otherwise; the words are those of ssh.
                    let port = listening.port().unwrap_or_default();
                    let line = format!("Allocated port {port} for remote forward to {to}");
                    self.local.report(&line);
                }
                self.tell_listening("there", &listening.names, &to.to_string());
                Ok(Box::pin(self.carry_remote(at, listening, to)))
            }
        }
    }

    async fn listen_here(self, at: &SocketName) -> Result<Box<dyn Listener>, Fault> {
        let listener = self.local.listen(at).await;
        listener.map_err(|error| Fault::new(cannot_listen(at, &error)))
    }

    /// Has the server listen.
    async fn listen_there(self, at: SocketName) -> Result<ListeningThere, Outcome> {
        let opened = self.caller.open(What::Listen(at).encode()).await;
        let mut conversation = opened.map_err(Outcome::Failed)?;
        while let Some(message) = conversation.channel.receive().await {
            let part = carry::decode(message).map_err(Outcome::Failed)?;
            if let Some(output::Part::Listening(Listening { sockets })) = part {
                let names: Result<_, _> = sockets.into_iter().map(request::name).collect();
                return Ok(ListeningThere {
                    conversation,
                    names: names.map_err(Outcome::Failed)?,
                });
            }
        }
        Err(reconnecting::ended(conversation.outcome.wait().await))
    }

    /// Has the server listen again, over the connection that comes after the one of number `used`.
    async fn listen_there_again(
        self,
        at: &SocketName,
        used: &mut u64,
        ended: Outcome,
    ) -> Result<ListeningThere, Outcome> {
        let mut ended = ended;
        let mut until = None;
        loop {
            match ended {
                // Who listened there before may not have gone yet.
                Outcome::Failed(_) if until.is_some_and(|until| Instant::now() < until) => {
                    tokio::time::sleep(FREE_PAUSE).await;
                }
                ended => {
                    *used = self.reconnecting.after(*used, ended).await?;
                    until = Some(Instant::now() + FREE_WITHIN);
                }
            }
            match self.listen_there(at.clone()).await {
                Ok(listening) => return Ok(listening),
                Err(outcome) => ended = outcome,
            }
        }
    }

    fn tell_listening(self, side: &str, names: &[SocketName], to: &str) {
        let names: Vec<_> = names.iter().map(ToString::to_string).collect();
        let record = serde_json::json!({
            "forwarding": { "side": side, "listening": names, "to": to }
        });
        self.local.record(&record.to_string());
        if !self.is_quiet {
            let names = names.join(" and ");
            self.local
                .report(&format!("forwarding {names} {side} to {to}"));
        }
    }

    /// Carries the connections of a listener here.
    async fn carry_local(self, mut listener: Box<dyn Listener>, target: Target) -> Outcome {
        let mut running = FuturesUnordered::new();
        loop {
            tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok((connection, peer)) => running.push(self.carry_from_here(connection, peer, &target)),
                    Err(error) => {
                        self.local.report(&format!("cannot accept a connection: {}", reason(&error)));
                        tokio::time::sleep(PAUSE).await;
                    }
                },
                Some(()) = running.next() => {}
            }
        }
    }

    /// One connection that was made here.
    async fn carry_from_here(
        self,
        mut connection: Box<dyn Connection>,
        peer: String,
        target: &Target,
    ) {
        let carried = match target {
            Target::Fixed(to) => {
                let opened = self.lines.open_in_time(What::Connect(to.clone())).await;
                opened.map(|opened| (opened, connection))
            }
            Target::Socks => {
                let wish = socks::accept(&mut connection);
                let wish = tokio::time::timeout(socks::GREETING_TIMEOUT, wish).await;
                let wish = wish.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
                let to = match wish {
                    Ok(to) => to,
                    Err(error) => return self.complain(&peer, &reason(&error)),
                };
                let opened = self.lines.open_in_time(What::Connect(to)).await;
                let replied = match &opened {
                    Ok(_) => socks::reply_connected(&mut connection).await,
                    Err(not) => {
                        let reason = match (&not.refused, &not.outcome) {
                            (Some(refused), _) => Some(refused.reason()),
                            (None, Outcome::Denied(_)) => Some(Reason::NotAllowed),
                            (None, _) => None,
                        };
                        socks::reply_refused(&mut connection, reason).await
                    }
                };
                match replied {
                    Ok(()) => opened.map(|opened| (opened, connection)),
                    Err(_) => return,
                }
            }
        };
        match carried {
            Ok((opened, connection)) => {
                if let Err(fault) = opened.carry(connection, None).await {
                    tracing::debug!(peer, %fault, "a forwarded connection failed");
                }
            }
            Err(not) => {
                let told = not.outcome.fault().map(Fault::message);
                self.complain(&peer, told.unwrap_or("the server has ended the call"));
            }
        }
    }

    fn complain(self, peer: &str, why: &str) {
        self.local
            .report(&format!("the connection of {peer} is closed: {why}"));
    }

    /// Carries the connections that the server announces.
    async fn carry_remote(
        self,
        at: SocketName,
        listening: ListeningThere,
        to: SocketName,
    ) -> Outcome {
        let (announce, mut announced) = mpsc::channel(1);
        let carry = async {
            let mut running = FuturesUnordered::new();
            loop {
                tokio::select! {
                    Some(announced) = announced.recv() => {
                        running.push(self.carry_from_there(announced, &to));
                    }
                    Some(()) = running.next() => {}
                }
            }
        };
        tokio::select! {
            outcome = self.keep_listening_there(at, listening, &to, announce) => outcome,
            never = carry => never,
        }
    }

    /// Passes on what the server announces, over one connection after the other.
    async fn keep_listening_there(
        self,
        at: SocketName,
        listening: ListeningThere,
        to: &SocketName,
        announce: mpsc::Sender<Announced>,
    ) -> Outcome {
        // The port that was given once is kept: it may have been told to others.
        let at = match (at, listening.port()) {
            (SocketName::Tcp { host, port: 0 }, Some(port)) => SocketName::Tcp { host, port },
            (at, _) => at,
        };
        let mut used = 0;
        let mut conversation = listening.conversation;
        loop {
            let Conversation {
                channel,
                controls: _controls,
                outcome,
            } = conversation;
            // Dropping the sending end would end the call.
            let (_sink, mut source) = Channel::split(channel);
            while let Some(message) = source.receive().await {
                match carry::decode(message) {
                    Ok(Some(output::Part::Announced(announced))) => {
                        announce.send(announced).await.ok(); // both live as long as the route
                    }
                    Ok(_) => {}
                    Err(fault) => return Outcome::Failed(fault),
                }
            }
            let outcome = outcome.wait().await;
            let in_good_order = matches!(outcome, Outcome::Exit(_));
            let ended = reconnecting::ended(outcome);
            let listening = match self.listen_there_again(&at, &mut used, ended).await {
                Ok(listening) => listening,
                // What is open goes on until the server has gone, which whoever holds it tells.
                Err(Outcome::Lost(_) | Outcome::Unavailable(_)) if in_good_order => {
                    std::future::pending().await
                }
                Err(outcome) => return outcome,
            };
            self.reconnecting.opened().await;
            self.tell_listening("there", &listening.names, &to.to_string());
            conversation = listening.conversation;
        }
    }

    /// One connection that was made there.
    async fn carry_from_there(self, announced: Announced, to: &SocketName) {
        let Some(ticket) = announced.ticket else {
            return;
        };
        let peer = announced.peer;
        // Fetched even if there is nothing to connect it to, so that it is closed there.
        let (connected, opened) = tokio::join!(
            self.local.connect(to),
            self.lines.open_in_time(What::Take(ticket))
        );
        match (connected, opened) {
            (Ok(connection), Ok(opened)) => {
                if let Err(fault) = opened.carry(connection, None).await {
                    tracing::debug!(peer, %fault, "a forwarded connection failed");
                }
            }
            (Err(error), _) => {
                let why = format!("cannot connect to {to}: {}", reason(&error));
                self.complain(&peer, &why);
            }
            (_, Err(not)) => {
                let told = not.outcome.fault().map(Fault::message);
                self.complain(&peer, told.unwrap_or("the server has ended the call"));
            }
        }
    }
}
