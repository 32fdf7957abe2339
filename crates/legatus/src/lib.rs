//! Legatus: runs commands and moves files on other machines over mutual TLS, through modules.
//!
//! This is the program as a library. Most who embed Legatus need only what is re-exported here from
//! the crates below; whoever ships a program of modules of their own calls [`main_with`].

mod allocator;
pub mod cli;
mod commands;
pub mod config;
pub mod connect;
mod console;
pub mod environment;
mod external;
pub mod invocation;
pub mod local;
pub mod logging;
mod network;
mod rsh;
mod serve;
pub mod verdict;

use std::ffi::OsString;
use std::process::ExitCode;

use legatus_core::Registry;
use legatus_host::external::Catalogue;

pub use legatus_core as core;
pub use legatus_modules as modules;
pub use legatus_net as net;

use connect::Connector;
pub use network::Network;

/// The program `legatus`, with the built-in modules.
pub fn main() -> ExitCode {
    allocator::keep_buffers();
    let registry = match legatus_modules::builtin() {
        Ok(registry) => registry,
        Err(error) => return verdict::tell_error(&error.into(), false),
    };
    let words: Vec<_> = std::env::args_os().collect();
    if rsh::words(&words).is_some() {
        // Under a foreign program's name there are no modules to be named.
        return run(&registry, &Network::new(&registry), None, words);
    }
    let catalogue = match external::of_command_line(&words) {
        Ok(catalogue) => catalogue,
        Err(error) => return verdict::tell_error(&error, false),
    };
    let registry = match &catalogue {
        Some(catalogue) => catalogue.registry(&registry),
        None => registry,
    };
    let network = Network::new(&registry);
    let lacking = match external::lacking(&words, &registry, &network) {
        Ok(lacking) => lacking,
        Err(error) => {
            return verdict::tell_error(&error, words.iter().any(|word| word == "--json"));
        }
    };
    let mut known = registry.clone();
    if let Some(module) = lacking
        && let Err(error) = known.add_external("remote", module)
    {
        return verdict::tell_error(&error.into(), false);
    }
    run(&known, &network, catalogue.as_ref(), words)
}

/// The program with these modules and this way to reach hosts; `command_line` begins with the
/// program's name.
pub fn main_with(
    registry: &Registry,
    connector: &dyn Connector,
    command_line: impl IntoIterator<Item = OsString>,
) -> ExitCode {
    run(registry, connector, None, command_line)
}

fn run(
    registry: &Registry,
    connector: &dyn Connector,
    catalogue: Option<&Catalogue>,
    command_line: impl IntoIterator<Item = OsString>,
) -> ExitCode {
    let command_line: Vec<_> = command_line.into_iter().collect();
    if let Some(main) = commands::fork_server(&command_line) {
        return commands::serve_forks(main, registry);
    }
    if let Some(words) = rsh::words(&command_line) {
        let context = rsh::Context {
            globals: &cli::Globals::default(),
            environment: &environment::Environment::Process,
            registry,
            connector,
        };
        return rsh::main(words, &context);
    }
    let command_line = match cli::parse(registry, command_line) {
        Ok(command_line) => command_line,
        Err(error) => return explain(&error),
    };
    let json = command_line.globals.json;
    match commands::run(command_line, registry, connector, catalogue) {
        Ok(status) => status,
        Err(error) => verdict::tell_error(&error, json),
    }
}

/// Shows a usage error, or help or the version that was asked for.
fn explain(error: &clap::Error) -> ExitCode {
    let status = u8::try_from(error.exit_code()).unwrap_or(2);
    match error.print() {
        Ok(()) => ExitCode::from(status),
        Err(_) if error.use_stderr() => ExitCode::from(status),
        Err(_) => ExitCode::from(verdict::BROKEN_PIPE),
    }
}
