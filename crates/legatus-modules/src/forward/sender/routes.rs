//! What listens, and what is done with each connection.

use std::future::Future;
use std::io;
use std::pin::Pin;

use futures_util::stream::{FuturesUnordered, StreamExt};
use legatus_core::{
    BoxFuture, Caller, Channel, Connection, Conversation, Fault, Listener, Local, Outcome,
    SocketName,
};

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
    pub(super) local: &'a dyn Local,
    pub(super) is_quiet: bool,
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
                let asks_for_any = matches!(&at, SocketName::Tcp { port: 0, .. });
                let (conversation, names) = self.listen_there(at).await?;
                if self.is_quiet && asks_for_any {
                    // Nobody could know otherwise; the words are those of ssh.
                    let port = names.iter().find_map(|name| match name {
                        SocketName::Tcp { port, .. } => Some(*port),
                        SocketName::Unix(_) => None,
                    });
                    let port = port.unwrap_or_default();
                    let line = format!("Allocated port {port} for remote forward to {to}");
                    self.local.report(&line);
                }
                self.tell_listening("there", &names, &to.to_string());
                Ok(Box::pin(self.carry_remote(conversation, to)))
            }
        }
    }

    async fn listen_here(self, at: &SocketName) -> Result<Box<dyn Listener>, Fault> {
        let listener = self.local.listen(at).await;
        listener.map_err(|error| Fault::new(cannot_listen(at, &error)))
    }

    /// Has the server listen.
    async fn listen_there(self, at: SocketName) -> Result<(Conversation, Vec<SocketName>), Fault> {
        let mut conversation = self.caller.open(What::Listen(at.clone()).encode()).await?;
        while let Some(message) = conversation.channel.receive().await {
            if let Some(output::Part::Listening(Listening { sockets })) = carry::decode(message)? {
                let names: Result<_, _> = sockets.into_iter().map(request::name).collect();
                return Ok((conversation, names?));
            }
        }
        let outcome = conversation.outcome.wait().await;
        let fault = outcome.fault().cloned();
        Err(fault.unwrap_or_else(|| Fault::new(format!("the server does not listen on {at}"))))
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
                if let Err(fault) = opened.carry(connection).await {
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
    async fn carry_remote(self, conversation: Conversation, to: SocketName) -> Outcome {
        let Conversation {
            channel,
            controls: _controls,
            outcome,
        } = conversation;
        // Dropping the sending end would end the call.
        let (_sink, mut source) = Channel::split(channel);
        let mut running: FuturesUnordered<Pin<Box<dyn Future<Output = ()> + Send + '_>>> =
            FuturesUnordered::new();
        loop {
            tokio::select! {
                message = source.receive() => {
                    let Some(message) = message else {
                        return super::ended(outcome.wait().await);
                    };
                    match carry::decode(message) {
                        Ok(Some(output::Part::Announced(announced))) => {
                            running.push(Box::pin(self.carry_from_there(announced, &to)));
                        }
                        Ok(_) => {}
                        Err(fault) => return Outcome::Failed(fault),
                    }
                }
                Some(()) = running.next() => {}
            }
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
                if let Err(fault) = opened.carry(connection).await {
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
