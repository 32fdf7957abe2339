//! `system`: tells about a server and its machine, restarts the server, shuts it down.

mod commander;
mod machine;
mod sender;

use legatus_core::{
    Alias, Argument, Commander, Effects, Example, Fault, Module, Placement, Sender, Spec,
};

use messages::Action;

#[expect(
    unreachable_pub,
    clippy::large_enum_variant,
    reason = "generated; the documentation is in the .proto file"
)]
mod messages {
    include!(concat!(env!("OUT_DIR"), "/legatus.system.v1.rs"));
}

/// The module `system`.
pub(crate) fn module() -> impl Module {
    System { spec: spec() }
}

struct System {
    spec: Spec,
}

impl Module for System {
    fn spec(&self) -> &Spec {
        &self.spec
    }

    fn commander(&self) -> Option<&dyn Commander> {
        Some(self)
    }

    fn sender(&self) -> Option<&dyn Sender> {
        Some(self)
    }
}

fn spec() -> Spec {
    let alias = |action: &'static str, summary| Alias::with_arguments(action, summary, &[action]);
    Spec {
        name: "system".into(),
        aliases: vec![
            alias("info", "Tell about a server and its machine"),
            alias("restart", "Have a new process take a server over"),
            alias("shutdown", "Shut a server down when its calls have ended"),
        ],
        version: env!("CARGO_PKG_VERSION").into(),
        summary: "Tell about a server and its machine, restart it, shut it down".into(),
        description: "`info` tells name, operating system, kernel, architecture, processors, \
            memory, load and uptime of the machine, and the server's version and modules.\n\n\
            `restart` starts a new process of the server's executable, which may have been \
            replaced since, and lets it take over: no connection is refused meanwhile, and running \
            calls finish in the old process.\n\n\
            `shutdown` lets running calls finish, but not for ever, and ends the server."
            .into(),
        effects: Effects::READ.union(Effects::EXEC),
        placement: Placement::Server,
        arguments: vec![
            Argument::positional("action", "ACTION", "`info`, `restart` or `shutdown`").required(),
        ],
        examples: vec![
            Example::new("legatus info web1", "Shows what web1 is and how it is"),
            Example::new(
                "legatus restart web1",
                "After an update: the new program takes over, and nobody notices",
            ),
            Example::new(
                "legatus shutdown web1",
                "Ends the server on web1 (not the machine)",
            ),
        ],
        ..Spec::default()
    }
}

fn unknown_action() -> Fault {
    Fault::new("unknown action of the module `system`")
        .with_hint("it has the actions `info`, `restart` and `shutdown`")
}

impl Action {
    fn from_word(word: &str) -> Option<Self> {
        match word {
            "info" => Some(Self::Info),
            "restart" => Some(Self::Restart),
            "shutdown" => Some(Self::Shutdown),
            _ => None,
        }
    }

    fn word(self) -> Option<&'static str> {
        match self {
            Self::Info => Some("info"),
            Self::Restart => Some("restart"),
            Self::Shutdown => Some("shutdown"),
            Self::Unspecified => None,
        }
    }
}

#[cfg(test)]
mod tests;
