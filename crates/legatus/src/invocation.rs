//! What a user's command line asks of a module.

use std::fmt;
use std::sync::Arc;

use clap::ArgMatches;
use legatus_core::{
    Alias, Argument, ArgumentKind, Arguments, Host, InvalidHost, Location, Module, Spec, Target,
    ValueKind,
};
use thiserror::Error;

use crate::cli;

/// What a user's command line asks of a module.
pub struct Invocation {
    /// The module.
    pub module: Arc<dyn Module>,
    /// The name that the server gets: an exact one if the user wrote one.
    pub name: String,
    /// The host to call it on.
    pub host: Host,
    /// Its arguments.
    pub arguments: Arguments,
}

/// A command line that names no host, or too many.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub(crate) enum HostError {
    #[error("no host is named: write one of the places as HOST:PATH")]
    None,
    #[error("`{0}` and `{1}` are two hosts: one call reaches one host")]
    Several(Host, Host),
    #[error(transparent)]
    Invalid(#[from] InvalidHost),
}

impl Invocation {
    /// Reads what was matched by the module's subcommand, which was called by `alias` if that is
    /// given.
    pub(crate) fn new(
        called: &str,
        module: &Arc<dyn Module>,
        alias: Option<&Alias>,
        matches: &ArgMatches,
    ) -> Result<Self, HostError> {
        let spec = module.spec();
        let mut arguments = Arguments::new();
        if let Some(alias) = alias {
            for (argument, value) in cli::Preset::of(spec, alias).values {
                arguments.extend(&argument.name, [value]);
            }
        }
        for argument in &spec.arguments {
            take(&mut arguments, argument, matches);
        }
        let host = match spec.target {
            Target::First => matches.get_one(cli::HOST).cloned().ok_or(HostError::None)?,
            Target::InLocations => host_in_locations(spec, &arguments)?,
        };
        Ok(Self {
            module: Arc::clone(module),
            name: if called.contains(['/', ':']) {
                called.to_owned()
            } else {
                spec.name.to_string()
            },
            host,
            arguments,
        })
    }
}

impl fmt::Debug for Invocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Invocation")
            .field("module", &self.module.spec().name)
            .field("host", &self.host)
            .field("arguments", &self.arguments)
            .finish()
    }
}

fn take(arguments: &mut Arguments, argument: &Argument, matches: &ArgMatches) {
    let id = cli::id(argument);
    if argument.kind == ArgumentKind::Flag {
        // An alias may have taken an argument off the command line, hence `try`.
        if matches!(matches.try_get_one::<bool>(&id), Ok(Some(true))) {
            arguments.extend(&argument.name, std::iter::empty::<std::ffi::OsString>());
        }
    } else if let Ok(Some(values)) = matches.try_get_many::<std::ffi::OsString>(&id) {
        arguments.extend(&argument.name, values);
    }
}

/// The one host that the arguments' locations name.
fn host_in_locations(spec: &Spec, arguments: &Arguments) -> Result<Host, HostError> {
    let mut found: Option<Host> = None;
    let locations = spec
        .arguments
        .iter()
        .filter(|argument| argument.value == ValueKind::Location);
    for value in locations.flat_map(|argument| arguments.all(&argument.name)) {
        match (Location::parse(value)?.host, &found) {
            (Some(host), Some(known)) if host != *known => {
                return Err(HostError::Several(known.clone(), host));
            }
            (Some(host), _) => found = Some(host),
            (None, _) => {}
        }
    }
    found.ok_or(HostError::None)
}
