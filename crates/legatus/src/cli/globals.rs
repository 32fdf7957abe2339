//! The flags that every subcommand takes, before or after its name.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgAction, Args};
use legatus_core::Arguments;

use crate::environment;
use crate::external::ModuleFlags;

/// The flags that every subcommand takes, before or after its name.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Global options")]
pub struct Globals {
    /// The certificates to show. A client shows the last one; a server all of them, each with the
    /// key at the same place.
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        action = ArgAction::Append,
        value_hint = clap::ValueHint::FilePath,
        help = environment::CERT.flag_help()
    )]
    pub cert: Vec<PathBuf>,

    /// The certificates' private keys.
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        action = ArgAction::Append,
        value_hint = clap::ValueHint::FilePath,
        help = environment::KEY.flag_help()
    )]
    pub key: Vec<PathBuf>,

    /// The authorities to trust.
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        value_hint = clap::ValueHint::FilePath,
        help = environment::CA.flag_help()
    )]
    pub ca: Option<PathBuf>,

    /// Trust the authorities of the operating system
    #[arg(long, global = true)]
    pub system_roots: bool,

    /// The configuration file.
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        value_hint = clap::ValueHint::FilePath,
        help = environment::CONFIG.flag_help()
    )]
    pub config: Option<PathBuf>,

    /// Print one JSON object a line on standard output
    #[arg(long, global = true)]
    pub json: bool,

    /// Give up connecting after this time, such as 5, 500ms or 1m
    #[arg(long, global = true, value_name = "TIME", value_parser = parse_duration)]
    pub connect_timeout: Option<Duration>,

    /// What to log.
    #[arg(
        long,
        global = true,
        value_name = "LEVEL",
        help = environment::LOG.flag_help()
    )]
    pub log_level: Option<String>,

    /// External modules.
    #[command(flatten)]
    pub modules: ModuleFlags,
}

/// A length of time as [`Arguments::duration`] reads it.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    let arguments = Arguments::new().with("", OsString::from(text));
    match arguments.duration("") {
        Ok(Some(duration)) => Ok(duration),
        Ok(None) => Err(String::new()),
        Err(error) => Err(error.expected.to_owned()),
    }
}
