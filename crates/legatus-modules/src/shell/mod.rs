//! `shell`: a command, a line, a script or an interactive login shell on the server.
//!
//! The Commander gives a command the environment of a fresh login, three pipes or a terminal, and
//! ends its whole process tree if the caller goes away. The Sender connects the user's streams,
//! signals and terminal to it.

mod account;
mod arguments;
mod commander;
mod escape;
mod output;
mod process_tree;
mod program;
mod request;
mod script;
mod sender;
mod signals;
mod spawn;
mod subsystems;
#[cfg(test)]
mod tests;
mod usage;

/// The messages of `proto/legatus/shell/v1/shell.proto`.
#[expect(unreachable_pub, reason = "generated")]
mod messages {
    include!(concat!(env!("OUT_DIR"), "/legatus.shell.v1.rs"));
}

use legatus_core::{
    Argument, Arguments, Attach, BoxFuture, Call, Caller, Channel, Commander, Effects, Example,
    Fault, Inspection, Local, Module, Outcome, Placement, Request, Sender, Settings, Spec,
    ValueKind,
};
use tracing::Instrument;

use crate::configured::Configured;
use subsystems::Subsystems;

/// The module's name.
pub const NAME: &str = "shell";

/// A variable of the user's environment: set, it means `--no-prediction` always.
pub const NO_PREDICTION: &str = "LEGATUS_NO_PREDICTION";

/// The module `shell`.
pub(crate) fn module() -> impl Module {
    Shell {
        spec: spec(),
        subsystems: Configured::default(),
    }
}

struct Shell {
    spec: Spec,
    subsystems: Configured<Subsystems>,
}

impl Module for Shell {
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
        self.subsystems.set(Subsystems::from_settings(settings)?)
    }
}

impl Commander for Shell {
    fn inspect(&self, request: &Request) -> Result<Inspection, Fault> {
        let request = request::decode(request)?;
        Ok(Inspection {
            effects: Effects::EXEC,
            summary: request::summary(&request),
        })
    }

    fn admit(&self, request: Request) -> Result<Request, Fault> {
        self.subsystems.get().resolve(request)
    }

    fn execute(&self, call: Call, channel: Channel) -> BoxFuture<'_, Result<Outcome, Fault>> {
        let span = call.span().clone();
        Box::pin(commander::execute(call, channel).instrument(span))
    }
}

impl Sender for Shell {
    fn send<'a>(
        &'a self,
        arguments: Arguments,
        caller: &'a dyn Caller,
        local: &'a dyn Local,
    ) -> BoxFuture<'a, Result<Outcome, Fault>> {
        Box::pin(sender::send(arguments, caller, local))
    }

    fn attach<'a>(
        &'a self,
        attach: Attach,
        caller: &'a dyn Caller,
        local: &'a dyn Local,
    ) -> BoxFuture<'a, Result<Outcome, Fault>> {
        Box::pin(sender::attach(attach, caller, local))
    }
}

fn spec() -> Spec {
    Spec {
        name: NAME.into(),
        version: env!("CARGO_PKG_VERSION").into(),
        summary: "Run a command, a script or an interactive shell".into(),
        description: "Without a command it opens the user's login shell, on a terminal if there \
            is one here. A command gets the environment of a fresh login and runs in the user's \
            home directory; its standard input, output and error are connected to the ones here, \
            and its exit status becomes the one here. Ctrl-C interrupts it; a second one within a \
            second ends it with everything that it started. A lost connection is made again, and \
            it goes on where it was. On a terminal, `~.` at the beginning of a line leaves, and \
            `~?` tells more."
            .into(),
        effects: Effects::EXEC,
        placement: Placement::Child,
        arguments: vec![
            Argument::option("command", "LINE", "Run a line in the user's shell there")
                .short('c')
                .conflicts(&["script", "argument"]),
            Argument::option(
                "subsystem",
                "NAME",
                "Run what the server has under this name, such as sftp",
            )
            .conflicts(&["command", "script", "argument"]),
            Argument::option(
                "script",
                "FILE",
                "Run a script from here; what follows `--` are its arguments",
            )
            .value(ValueKind::Path),
            Argument::option(
                "interpreter",
                "PROGRAM",
                "Run the script with this program instead of the one in its first line",
            ),
            Argument::flag("tty", "Run on a terminal even if a command is given").short('t'),
            Argument::flag(
                "no-tty",
                "Run without a terminal even if it is a login shell",
            )
            .short('T')
            .conflicts(&["tty"]),
            Argument::flag(
                "no-prediction",
                "Show typed characters only when they have come back from there",
            ),
            Argument::option("user", "NAME", "Fail if calls run as somebody else there"),
            Argument::option(
                "env",
                "NAME=VALUE",
                "Set a variable in the environment there",
            )
            .repeated(),
            Argument::option(
                "cwd",
                "DIR",
                "Run in this directory there instead of in the home directory",
            ),
            Argument::option(
                "timeout",
                "DURATION",
                "End the call after so long; 0: never",
            )
            .value(ValueKind::Duration),
            Argument::option(
                "linger",
                "DURATION",
                "Wait so long for a lost connection to come back, then end the call; 0: not at all \
                 [default: 24h on a terminal, else 10m]",
            )
            .value(ValueKind::Duration),
            Argument::flag(
                "detach",
                "Let it run without a client, and print its id: for `legatus attach`",
            )
            .short('d')
            .conflicts(&["script", "linger"]),
            Argument::option("name", "NAME", "What to call it, instead of its id"),
            Argument::option(
                "keep",
                "DURATION",
                "Keep how it ended for so long, if nobody is there to see it \
                 [default: 24h if detached, else as --linger]",
            )
            .value(ValueKind::Duration),
            Argument::trailing(
                "argument",
                "ARG",
                "The program and its arguments, exactly as they stand",
            ),
        ],
        examples: vec![
            Example::new("legatus shell local", "Opens an interactive shell"),
            Example::new("legatus shell local -- uname -a", "Runs one command"),
            Example::new(
                "legatus shell local -c 'ls | wc -l'",
                "Runs one line in the shell there",
            ),
            Example::new(
                "legatus shell web1 --detach --name backup -- /usr/local/bin/backup",
                "Starts a command that runs on alone; `legatus attach web1 backup` shows it",
            ),
            Example::new(
                "legatus shell local --script deploy.sh -- --fast",
                "Runs a script from here there, leaving nothing behind",
            ),
        ],
        ..Spec::default()
    }
}
