//! The command line: fixed subcommands, and one for each module, made from its spec.

mod check;
mod globals;
mod habits;
mod module;

use std::ffi::OsString;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{ArgMatches, Args, Command, FromArgMatches, Subcommand};
use legatus_core::{Module, Registry, UnknownModule};

pub use check::UnusableSpec;
pub use globals::Globals;
pub(crate) use globals::parse_duration;
pub(crate) use module::{HOST, Preset, id};

use crate::commands::Fixed;
use crate::environment;
use crate::invocation::Invocation;

/// What a command line asks for.
#[derive(Debug)]
pub struct CommandLine {
    /// The flags that every subcommand takes.
    pub globals: Globals,
    /// What to do.
    pub task: Task,
}

/// What to do.
#[derive(Debug)]
pub enum Task {
    /// Call a module on a host.
    Call(Invocation),
    /// One of the program's own subcommands.
    Fixed(Fixed),
}

/// The tree of all subcommands, those of modules included. Modules without a Sender have none,
/// nor have those whose spec cannot become one; [`parse`] says why when one of them is called.
pub fn command(registry: &Registry) -> Command {
    let fixed = fixed();
    let mut root = fixed.clone();
    let with_sender = registry
        .modules()
        .filter(|module| module.sender().is_some());
    for (place, module) in with_sender.enumerate() {
        let spec = module.spec();
        if check::check(&fixed, spec).is_ok() {
            // Modules are what people look for, so help shows them first.
            let order = |command: Command| command.display_order(place);
            root = root.subcommands(module::commands(spec).map(order));
        }
    }
    // Exact names are understood, but not shown.
    for (name, module) in registry.qualified() {
        let spec = module.spec();
        let checked = if name.contains('/') {
            check::check_arguments(&fixed, spec)
        } else {
            check::check(&fixed, spec)
        };
        if module.sender().is_some() && checked.is_ok() {
            root = root.subcommand(module::exact(spec, &name));
        }
    }
    root
}

/// The tree without modules.
fn fixed() -> Command {
    let root = Globals::augment_args(Command::new("legatus"));
    Fixed::augment_subcommands(root)
        .bin_name("legatus")
        .version(env!("CARGO_PKG_VERSION"))
        .about("Run commands and move files on other machines, over mutual TLS")
        .long_about(None)
        .subcommand_required(true)
        .arg_required_else_help(true)
        .disable_help_subcommand(true)
        .after_help("`legatus help COMMAND` tells more about each command.")
        .after_long_help(environment::help_section())
}

/// Takes a command line apart, the program's name first.
///
/// # Errors
/// Usage errors, and what is no error but asked for: help and version.
pub fn parse(
    registry: &Registry,
    command_line: impl IntoIterator<Item = OsString>,
) -> Result<CommandLine, clap::Error> {
    let command_line: Vec<_> = command_line.into_iter().collect();
    let mut command = command(registry);
    let matches = match command.try_get_matches_from_mut(&command_line) {
        Ok(matches) => matches,
        Err(error) => match in_lower_case(registry, &error, command_line.clone())? {
            Some(command_line) => command.try_get_matches_from_mut(command_line)?,
            None => {
                let error = with_nearest(error, &command);
                return Err(habits::advise(error, registry, &command, &command_line));
            }
        },
    };
    let globals = Globals::from_arg_matches(&matches)?;
    let task = task(registry, &mut command, &matches)?;
    Ok(CommandLine { globals, task })
}

fn task(
    registry: &Registry,
    command: &mut Command,
    matches: &ArgMatches,
) -> Result<Task, clap::Error> {
    let (name, of_module) = matches
        .subcommand()
        .ok_or_else(|| clap::Error::new(ErrorKind::MissingSubcommand))?;
    if Fixed::has_subcommand(name) {
        return Fixed::from_arg_matches(matches).map(Task::Fixed);
    }
    let resolved = registry.resolve_alias(name);
    let (module, alias) = resolved.map_err(|unknown| no_module(command, &unknown))?;
    let invocation = Invocation::new(name, module, alias, of_module).map_err(|error| {
        let usage = command.find_subcommand_mut(name);
        let kind = ErrorKind::ValueValidation;
        match usage {
            Some(of_module) => of_module.error(kind, error),
            None => clap::Error::raw(kind, error),
        }
    })?;
    Ok(Task::Call(invocation))
}

/// Names of modules count in any case, as the Go original had it. The command line with the name in
/// lower case, if that was all that was wrong with it.
fn in_lower_case(
    registry: &Registry,
    error: &clap::Error,
    mut command_line: Vec<OsString>,
) -> Result<Option<Vec<OsString>>, clap::Error> {
    let Some(ContextValue::String(name)) = error.get(ContextKind::InvalidSubcommand) else {
        return Ok(None);
    };
    let Ok(module) = registry.resolve(name) else {
        return Ok(None);
    };
    if let Some(reason) = unusable(module.as_ref()) {
        let text = format!("the module `{name}` cannot be called: {reason}\n");
        return Err(clap::Error::raw(ErrorKind::InvalidSubcommand, text));
    }
    let lower = name.to_ascii_lowercase();
    let typed = command_line.iter_mut().find(|word| *word == name.as_str());
    let Some(word) = typed.filter(|_| lower != *name) else {
        return Ok(None);
    };
    *word = lower.into();
    Ok(Some(command_line))
}

/// Why a module has no subcommand.
fn unusable(module: &dyn Module) -> Option<String> {
    if module.sender().is_none() {
        return Some("it has no client half here".to_owned());
    }
    let unusable = check::check(&fixed(), module.spec()).err();
    unusable.map(|error| error.to_string())
}

/// Adds the nearest subcommand where clap sees none that is near enough.
fn with_nearest(mut error: clap::Error, command: &Command) -> clap::Error {
    let suggested = ContextKind::SuggestedSubcommand;
    let Some(ContextValue::String(typed)) = error.get(ContextKind::InvalidSubcommand) else {
        return error;
    };
    let shown = command
        .get_subcommands()
        .filter(|known| !known.is_hide_set());
    let names = shown.flat_map(Command::get_name_and_visible_aliases);
    let distances = names.map(|name| (strsim::damerau_levenshtein(name, typed), name));
    let near = distances.filter(|(distance, name)| *distance <= name.len().div_ceil(3));
    let nearest = near
        .min()
        .map(|(_, name)| ContextValue::Strings(vec![name.to_owned()]));
    if let (Some(nearest), None) = (nearest, error.get(suggested)) {
        error.insert(suggested, nearest);
    }
    error
}

fn no_module(command: &mut Command, unknown: &UnknownModule) -> clap::Error {
    command.error(ErrorKind::InvalidSubcommand, unknown)
}

#[cfg(test)]
mod tests;
