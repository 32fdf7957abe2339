//! `legatus modules`: what modules there are, here or there, and what their authors need.

mod check;
mod install;
mod list;
mod new;
mod sign;

use std::path::PathBuf;
use std::process::ExitCode;

use legatus_core::Host;

use super::Context;

/// The flags of `legatus modules`.
#[derive(clap::Args, Clone, Debug)]
pub struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(clap::Subcommand, Clone, Debug)]
enum Action {
    /// List the modules with what they may do
    List {
        /// The host to ask; this program without it
        #[arg(value_hint = clap::ValueHint::Hostname)]
        host: Option<Host>,
    },
    /// Show what a module is, what it wants and what it has
    Show {
        /// Its name, or VENDOR/NAME
        name: String,
    },
    /// Load a module as a server would, and run its examples
    Check {
        /// The artefact, or a folder with a `module.toml`
        #[arg(value_hint = clap::ValueHint::AnyPath)]
        file: PathBuf,
    },
    /// Run both halves of a module against each other
    Test {
        /// The artefact, or a folder with a `module.toml`
        #[arg(value_hint = clap::ValueHint::AnyPath)]
        file: PathBuf,
        /// Arguments of the module; its examples are run without any
        #[arg(last = true, value_name = "ARG")]
        arguments: Vec<std::ffi::OsString>,
    },
    /// Install a module on a host that allows it
    Install {
        /// The artefact, or a folder with a `module.toml`
        #[arg(value_hint = clap::ValueHint::AnyPath)]
        file: PathBuf,
        /// The host to install it on
        #[arg(value_hint = clap::ValueHint::Hostname)]
        host: Host,
    },
    /// Make a project for a module
    New(new::New),
    /// Sign a module's folder
    Sign(sign::Sign),
    /// Verify the signature of a module's folder
    Verify(sign::Verify),
}

/// Does what is asked.
pub(crate) fn run(arguments: &Arguments, context: &Context<'_>) -> anyhow::Result<ExitCode> {
    match &arguments.action {
        Action::List { host } => list::run(host.as_ref(), context),
        Action::Show { name } => list::show(name, context),
        Action::Check { file } => check::check(file, context),
        Action::Test { file, arguments } => check::test(file, arguments, context),
        Action::Install { file, host } => install::run(file, host, context),
        Action::New(new) => new.run(),
        Action::Sign(sign) => sign.run(),
        Action::Verify(verify) => verify.run(context),
    }
}
