//! `forward`: connections through the server, to sockets that it reaches and from sockets on which
//! it listens.
//!
//! One call carries one connection: flow control, half-close and cancellation are those of the call.
//! TCP needs nobody's rights and is handled inside the server, within the allow-lists of its
//! settings; Unix sockets are opened in a holder, with the user's rights.

mod allowed;
mod carry;
mod commander;
mod dial;
mod lines;
mod listen;
mod places;
mod request;
mod sender;
pub mod sockets;
mod socks;
#[cfg(test)]
mod tests;
mod unix;

/// The messages of `proto/legatus/forward/v1/forward.proto`.
#[expect(unreachable_pub, reason = "generated")]
mod messages {
    include!(concat!(env!("OUT_DIR"), "/legatus.forward.v1.rs"));
}

use std::sync::Arc;

use legatus_core::{
    Argument, Arguments, BoxFuture, Call, Caller, Channel, Commander, Effects, Example, Fault,
    Inspection, Local, Module, Outcome, Placement, Request, Sender, Settings, Spec, ValueKind,
};
use tracing::Instrument;

use crate::configured::Configured;
use allowed::Allowed;
pub use dial::dial;
use listen::Waiting;

/// The module's name.
pub const NAME: &str = "forward";

/// The module `forward`.
pub(crate) fn module() -> impl Module {
    Forward {
        spec: spec(),
        allowed: Configured::default(),
        waiting: Arc::default(),
    }
}

struct Forward {
    spec: Spec,
    allowed: Configured<Allowed>,
    /// Connections that were announced and wait to be fetched.
    waiting: Arc<Waiting>,
}

impl Module for Forward {
    fn spec(&self) -> &Spec {
        &self.spec
    }

    fn commander(&self) -> Option<&dyn Commander> {
        Some(self)
    }

    fn sender(&self) -> Option<&dyn Sender> {
        Some(self)
    }

    fn configure(&self, settings: &Settings) -> Result<(), Fault> {
        self.allowed.set(Allowed::from_settings(settings)?)
    }
}

impl Commander for Forward {
    fn inspect(&self, request: &Request) -> Result<Inspection, Fault> {
        let what = request::decode(request)?;
        Ok(Inspection {
            // What listens on a port may do anything: the engine of containers, a database.
            effects: Effects::EXEC,
            summary: request::summary(&what),
        })
    }

    fn admit(&self, request: Request) -> Result<Request, Fault> {
        self.allowed.get().check(&request::decode(&request)?)?;
        Ok(request)
    }

    fn placement(&self, request: &Request) -> Option<Placement> {
        match request::decode(request) {
            Ok(what) if what.needs_rights() => None,
            _ => Some(Placement::Server),
        }
    }

    fn execute(&self, call: Call, channel: Channel) -> BoxFuture<'_, Result<Outcome, Fault>> {
        let span = call.span().clone();
        Box::pin(commander::execute(&self.waiting, call, channel).instrument(span))
    }
}

impl Sender for Forward {
    fn send<'a>(
        &'a self,
        arguments: Arguments,
        caller: &'a dyn Caller,
        local: &'a dyn Local,
    ) -> BoxFuture<'a, Result<Outcome, Fault>> {
        Box::pin(sender::send(arguments, caller, local))
    }
}

fn spec() -> Spec {
    Spec {
        name: NAME.into(),
        version: env!("CARGO_PKG_VERSION").into(),
        summary: "Carry connections to and from the server's network".into(),
        description: "Listens here and connects from there (--local), the other way round \
            (--remote), or where a SOCKS5 client wants (--dynamic), until it is interrupted. PORT \
            may have an address to listen on before it; without one it is the loopback address, \
            and with `*` any may connect. Wherever HOST:PORT or PORT stands, the path of a Unix \
            socket can stand instead. Names are looked up on the side that connects. With --stdio \
            standard input and output are the connection, as a ProxyCommand of ssh has it."
            .into(),
        effects: Effects::EXEC,
        placement: Placement::Child,
        arguments: arguments(),
        examples: vec![
            Example::new(
                "legatus forward web1 -L 8080:localhost:80",
                "Port 8080 here is port 80 there",
            ),
            Example::new(
                "legatus forward web1 -R 2222:localhost:22",
                "Port 2222 there is port 22 here",
            ),
            Example::new(
                "legatus forward web1 -D 1080",
                "A SOCKS5 proxy here whose connections begin there",
            ),
            Example::new(
                "legatus forward web1 -L /tmp/docker.sock:/run/docker.sock",
                "A Unix socket here is one there",
            ),
            Example::new(
                "legatus forward web1 -W db:5432",
                "Standard input and output are a connection to db, made there",
            ),
        ],
        ..Spec::default()
    }
}

fn arguments() -> Vec<Argument> {
    vec![
        Argument::option(
            "local",
            "[ADDR:]PORT:HOST:PORT",
            "Listen here, connect from there",
        )
        .short('L')
        .repeated(),
        Argument::option(
            "remote",
            "[ADDR:]PORT:HOST:PORT",
            "Listen there, connect from here",
        )
        .short('R')
        .repeated(),
        Argument::option(
            "dynamic",
            "[ADDR:]PORT",
            "Listen here for SOCKS5 clients, connect from there",
        )
        .short('D')
        .repeated(),
        Argument::option(
            "stdio",
            "HOST:PORT",
            "Connect standard input and output from there",
        )
        .short('W')
        .conflicts(&["local", "remote", "dynamic", "hold"]),
        Argument::flag("hold", "Stay connected even if nothing is to be forwarded"),
        Argument::option(
            "reconnect",
            "TIME",
            "Look for a lost connection so long, and go on (10m); 0: do not",
        )
        .value(ValueKind::Duration)
        .conflicts(&["stdio"]),
        Argument::flag(
            "quiet",
            "Do not tell what is forwarded, nor of lost connections",
        )
        .short('q'),
    ]
}
