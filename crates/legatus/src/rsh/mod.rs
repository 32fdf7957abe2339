//! `legatus rsh`: the command line of ssh(1), for programs that bring their own use of it.
//!
//! It is read by hand (`grammar`, `options`), as no library takes options before and after the
//! host, and understood as ssh understands it; what is not understood is named. Hosts and identities
//! come from Legatus's own configuration, never from ssh's.

mod background;
mod describe;
mod grammar;
mod keywords;
mod link;
mod options;
mod session;
mod values;

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::process::ExitCode;

use legatus_core::{Fault, Registry};

use crate::cli::Globals;
use crate::config::Configuration;
use crate::connect::Connector;
use crate::environment::Environment;
use crate::{console, verdict};

pub(crate) use link::{LinkArguments, link};
use options::Asked;

/// Names of the program by which it behaves as `legatus rsh` does.
const NAMES: [&str; 3] = ["ssh", "rsh", "legatus-ssh"];

const USAGE: &str = "usage: legatus rsh [-1246AaCfGgKkMNnqsTtVvXxYy] [-D [ADDR:]PORT] [-J HOST,...] \
[-L|-R [ADDR:]PORT:HOST:PORT]\n           [-l USER] [-o KEY=VALUE] [-p PORT] [-W HOST:PORT] \
[USER@]HOST [COMMAND...]\n";

/// The words behind `rsh`, if that is what a command line calls: by the program's name, or by the
/// subcommand as its first word.
pub(crate) fn words(command_line: &[OsString]) -> Option<&[OsString]> {
    let (program, words) = command_line.split_first()?;
    let name = std::path::Path::new(program).file_name()?;
    if NAMES.iter().any(|known| name == *known) {
        return Some(words);
    }
    match words.split_first() {
        Some((first, words)) if first == "rsh" => Some(words),
        _ => None,
    }
}

/// The subcommand as the command line's parser sees it.
#[derive(clap::Args, Clone, Debug)]
#[command(disable_help_flag = true)]
pub struct Arguments {
    /// Options, host and command, as ssh(1) has them
    #[arg(
        value_name = "WORD",
        trailing_var_arg = true,
        allow_hyphen_values = true
    )]
    words: Vec<OsString>,
}

/// What the program is to do, and what it may use.
pub(crate) struct Context<'a> {
    pub(crate) globals: &'a Globals,
    pub(crate) environment: &'a Environment,
    pub(crate) registry: &'a Registry,
    pub(crate) connector: &'a dyn Connector,
}

/// The subcommand behind flags that every subcommand takes.
pub(crate) fn run(arguments: &Arguments, context: &Context<'_>) -> ExitCode {
    main(&arguments.words, context)
}

/// Does what the words ask for. What is wrong with them is an error of ours: status 255.
pub(crate) fn main(words: &[OsString], context: &Context<'_>) -> ExitCode {
    let asked = grammar::parse(words).and_then(|words| Asked::from_words(words, context));
    let asked = match asked {
        Ok(asked) => asked,
        Err(fault) => {
            let status = verdict::tell_error(&fault.into(), false);
            if words.is_empty() {
                console::complain(USAGE);
            }
            return status;
        }
    };
    let quiet = asked.is_quiet();
    match act(asked, words, context) {
        Ok(status) => status,
        Err(_) if quiet => ExitCode::from(OUR_ERROR),
        Err(error) => verdict::tell_error(&error, false),
    }
}

/// The exit status of everything that is not the remote command's own.
const OUR_ERROR: u8 = 255;

fn act(asked: Asked, words: &[OsString], context: &Context<'_>) -> anyhow::Result<ExitCode> {
    if asked.help {
        console::print(USAGE.as_bytes())?;
        return Ok(ExitCode::SUCCESS);
    }
    if asked.version {
        console::complain(concat!(
            "Legatus ",
            env!("CARGO_PKG_VERSION"),
            ", with the command line of OpenSSH\n"
        ));
        return Ok(ExitCode::SUCCESS);
    }
    let configuration = Configuration::load(&asked.globals, context.environment)?;
    if asked.describe {
        console::print(describe::text(&asked, &configuration)?.as_bytes())?;
        return Ok(ExitCode::SUCCESS);
    }
    if asked.background && asked.ready_descriptor.is_none() {
        return background::start(words);
    }
    session::run(asked, &configuration, context)
}

/// A word without NUL, which no argument, path or variable can have.
fn checked(word: &OsStr) -> Result<&OsStr, Fault> {
    if word.as_bytes().contains(&0) {
        return Err(Fault::new(
            "a word has a NUL byte, which no argument can have",
        ));
    }
    Ok(word)
}

#[cfg(test)]
mod tests;
