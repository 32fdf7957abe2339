//! What somebody who comes from ssh, scp or rsync types, and what it is here.

use std::ffi::OsString;

use clap::Command;
use clap::builder::StyledStr;
use clap::error::{ContextKind, ContextValue};
use legatus_core::{Registry, Spec, Target};
use legatus_modules::{forward, shell};

/// Adds advice to an error about a word that was not expected, in the place of clap's.
pub(super) fn advise(
    mut error: clap::Error,
    registry: &Registry,
    command: &Command,
    command_line: &[OsString],
) -> clap::Error {
    let Some(ContextValue::String(unexpected)) = error.get(ContextKind::InvalidArg) else {
        return error;
    };
    let used = command_line.iter().skip(1).find_map(|word| {
        let subcommand = command.find_subcommand(word)?;
        Some(subcommand.get_name())
    });
    let module = used.and_then(|used| registry.resolve_alias(used).ok());
    let Some(advice) = module.and_then(|(module, _)| advice(module.spec(), unexpected)) else {
        return error;
    };
    let advice = ContextValue::StyledStrs(vec![StyledStr::from(advice)]);
    error.insert(ContextKind::Suggested, advice);
    error
}

fn advice(module: &Spec, unexpected: &str) -> Option<&'static str> {
    let copies = module.target == Target::InLocations;
    Some(match unexpected {
        word if module.name == shell::NAME && !word.starts_with('-') => {
            "what is to run stands behind `--`: legatus shell HOST -- COMMAND"
        }
        "-p" | "-a" if copies => {
            "times, modes, owners and links are copied without being asked for"
        }
        "-z" if copies => "data is compressed where that is faster; see --compress",
        "-P" if copies => {
            "progress is shown on a terminal; a port stands behind the host: HOST:PORT:PATH"
        }
        "-v" if copies => "-i tells what is done",
        "-p" => "a port stands behind the host: HOST:PORT",
        "-i" => "certificates take the place of keys: --cert and --key",
        "-l" => "the server says as whom calls run, by the identity of the certificate",
        "-o" => "`legatus rsh` understands the options of ssh",
        "-v" => "--log-level debug tells more",
        "-L" | "-R" | "-D" | "-W" | "-N" if module.name != forward::NAME => {
            "`legatus forward` forwards ports"
        }
        _ => return None,
    })
}
