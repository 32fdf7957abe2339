//! The program's own subcommands, each in its own file. Modules are not among them.

mod call;
mod completions;
mod help;
mod holder;
mod man;
mod modules;
mod pki;
mod sessions;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::Subcommand;
use legatus_core::Registry;
use legatus_host::external::Catalogue;

use crate::cli::{CommandLine, Globals, Task};
use crate::connect::Connector;
use crate::environment::Environment;
use crate::rsh;
use crate::serve::{self, ServeArguments};

/// The program's own subcommands.
#[derive(Subcommand, Debug)]
pub enum Fixed {
    /// Serve this machine to clients
    Serve(ServeArguments),
    /// Make and show certificates
    #[command(subcommand)]
    Pki(pki::PkiCommand),
    /// Run commands with ssh's command line, for programs that call ssh
    Rsh(rsh::Arguments),
    /// Put an `ssh` that is this program into a folder, for programs that look in PATH only
    LinkSsh(rsh::LinkArguments),
    /// Show the modules, here or on a host
    Modules(modules::Arguments),
    /// List the sessions on a host: calls that run on without a connection
    Sessions(sessions::ListArguments),
    /// Attach to a session
    Attach(sessions::AttachArguments),
    /// End a session, or send it a signal
    End(sessions::EndArguments),
    /// Show how a command is used
    Help(help::Arguments),
    /// Print a completion script for a shell
    Completions(completions::Arguments),
    /// Write manual pages
    #[command(hide = true)]
    Man(man::Arguments),
    /// Hold a session or a command for a server
    #[command(hide = true)]
    Holder(holder::Arguments),
    /// Run one external module's native code
    #[command(hide = true)]
    ModuleHost(holder::Arguments),
}

/// What every subcommand may use.
pub(crate) struct Context<'a> {
    pub(crate) globals: &'a Globals,
    pub(crate) environment: &'a Environment,
    pub(crate) registry: &'a Registry,
    pub(crate) connector: &'a dyn Connector,
    /// The external modules, if there are any.
    pub(crate) catalogue: Option<&'a Catalogue>,
}

/// What this process is, if its command line is that by which servers start fork servers: nothing
/// else of the program is built up there, because each of their processes would have it.
pub(crate) fn fork_server(command_line: &[OsString]) -> Option<fn(&Registry) -> ExitCode> {
    match command_line {
        [_program, word] if word == "holder" => Some(legatus_host::holder_main),
        [_program, word] if word == "module-host" => {
            Some(|_registry| legatus_host::external::module_host_main())
        }
        _ => None,
    }
}

/// Holds sessions and commands, or runs modules, for the process that has started this one.
pub(crate) fn serve_forks(main: fn(&Registry) -> ExitCode, registry: &Registry) -> ExitCode {
    match crate::logging::init("warn", crate::logging::Format::Text) {
        Ok(()) => main(registry),
        Err(error) => crate::verdict::tell_error(&error, false),
    }
}

/// Does what the command line asks for.
pub(crate) fn run(
    command_line: CommandLine,
    registry: &Registry,
    connector: &dyn Connector,
    catalogue: Option<&Catalogue>,
) -> anyhow::Result<ExitCode> {
    let context = Context {
        globals: &command_line.globals,
        environment: &Environment::Process,
        registry,
        connector,
        catalogue,
    };
    match command_line.task {
        Task::Call(invocation) => call::run(invocation, &context),
        Task::Fixed(fixed) => match fixed {
            Fixed::Serve(arguments) => serve::run(arguments, context.globals, registry),
            Fixed::Pki(command) => command.run().map(|()| ExitCode::SUCCESS),
            Fixed::Rsh(arguments) => {
                let context = rsh::Context {
                    globals: context.globals,
                    environment: context.environment,
                    registry,
                    connector,
                };
                Ok(rsh::run(&arguments, &context))
            }
            Fixed::LinkSsh(arguments) => rsh::link(&arguments),
            Fixed::Modules(arguments) => modules::run(&arguments, &context),
            Fixed::Sessions(arguments) => sessions::list(&arguments, &context),
            Fixed::Attach(arguments) => sessions::attach(arguments, &context),
            Fixed::End(arguments) => sessions::end(&arguments, &context),
            Fixed::Help(arguments) => help::run(&arguments, &context),
            Fixed::Completions(arguments) => completions::run(&arguments, &context),
            Fixed::Man(arguments) => man::run(&arguments, &context),
            Fixed::Holder(holder::Arguments {}) => {
                Ok(serve_forks(legatus_host::holder_main, registry))
            }
            Fixed::ModuleHost(holder::Arguments {}) => Ok(serve_forks(
                |_| legatus_host::external::module_host_main(),
                registry,
            )),
        },
    }
}
