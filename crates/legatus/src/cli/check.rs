//! Whether a module's spec can become a subcommand: external modules bring specs that nobody here
//! has seen.

use std::collections::HashSet;

use clap::Command;
use legatus_core::{Argument, ArgumentKind, Spec};
use thiserror::Error;

/// Names that are subcommands now or will be, and so no module's.
const RESERVED: &[&str] = &[
    "attach",
    "client",
    "completions",
    "end",
    "help",
    "holder",
    "local",
    "man",
    "module-host",
    "modules",
    "pki",
    "rsh",
    "serve",
    "server",
    "sessions",
];

/// A module that cannot become a subcommand.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum UnusableSpec {
    /// Its name or an alias is a subcommand of Legatus itself.
    #[error("the name `{0}` is reserved")]
    Reserved(String),
    /// An argument's name cannot be typed, or is taken.
    #[error("the argument `{0}` has a name that is malformed, reserved or taken")]
    Name(String),
    /// Positional arguments whose values could not be told apart.
    #[error("values could not be told apart from those of the argument `{0}`")]
    Ambiguous(String),
    /// An argument excludes one that does not exist.
    #[error("the argument `{0}` excludes `{1}`, which does not exist")]
    Conflict(String, String),
}

/// Whether a spec can become a subcommand of `root`.
pub(crate) fn check(root: &Command, spec: &Spec) -> Result<(), UnusableSpec> {
    let aliases = spec.aliases.iter().map(|alias| alias.name.as_ref());
    for name in aliases.chain([spec.name.as_ref()]) {
        if RESERVED.contains(&name) || root.find_subcommand(name).is_some() {
            return Err(UnusableSpec::Reserved(name.to_owned()));
        }
    }
    check_arguments(root, spec)
}

/// Whether a spec's arguments can be those of a subcommand, whatever its name.
pub(crate) fn check_arguments(root: &Command, spec: &Spec) -> Result<(), UnusableSpec> {
    check_names(root, &spec.arguments)?;
    check_places(&spec.arguments)?;
    check_conflicts(&spec.arguments)
}

fn check_names(root: &Command, arguments: &[Argument]) -> Result<(), UnusableSpec> {
    let mut names: HashSet<&str> = root
        .get_arguments()
        .filter_map(|arg| arg.get_long())
        .collect();
    let mut letters: HashSet<char> = root
        .get_arguments()
        .filter_map(|arg| arg.get_short())
        .collect();
    names.extend(["help", "version"]);
    letters.extend(['h', 'V', '-']);
    for argument in arguments {
        let is_free = is_word(&argument.name) && names.insert(&argument.name);
        let is_short_free = argument
            .short
            .is_none_or(|letter| letter.is_ascii_graphic() && letters.insert(letter));
        if !is_free || !is_short_free {
            return Err(UnusableSpec::Name(argument.name.to_string()));
        }
    }
    Ok(())
}

fn is_word(name: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    (1..=64).contains(&name.len()) && !name.starts_with('-') && name.bytes().all(is_plain)
}

/// Required positional arguments come before optional ones; a repeated one is the last, or the
/// last but one before a required one (`SRC... DST`); there is one trailing argument at most.
fn check_places(arguments: &[Argument]) -> Result<(), UnusableSpec> {
    let of_kind = |kind| {
        arguments
            .iter()
            .filter(move |argument| argument.kind == kind)
    };
    if let Some(second) = of_kind(ArgumentKind::Trailing).nth(1) {
        return Err(UnusableSpec::Ambiguous(second.name.to_string()));
    }
    let places: Vec<_> = of_kind(ArgumentKind::Positional).collect();
    for (place, argument) in places.iter().enumerate() {
        let after = places.get(place + 1..).unwrap_or_default();
        let before_one_required = matches!(after, [last] if last.required && !last.repeated);
        let repeated_early = argument.repeated && !after.is_empty() && !before_one_required;
        let optional_early = !argument.required && after.iter().any(|later| later.required);
        if repeated_early || optional_early {
            return Err(UnusableSpec::Ambiguous(argument.name.to_string()));
        }
    }
    Ok(())
}

fn check_conflicts(arguments: &[Argument]) -> Result<(), UnusableSpec> {
    for argument in arguments {
        for other in &argument.conflicts {
            if !arguments.iter().any(|known| known.name == *other) {
                return Err(UnusableSpec::Conflict(
                    argument.name.to_string(),
                    other.to_string(),
                ));
            }
        }
    }
    Ok(())
}
