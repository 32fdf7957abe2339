//! `legatus completions SHELL`: a script that completes command lines.

use std::process::ExitCode;

use clap::ValueEnum;

use super::Context;
use crate::{cli, console};

/// The flags of `legatus completions`.
#[derive(clap::Args, Clone, Debug)]
pub struct Arguments {
    /// The shell to complete for
    shell: Shell,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Shell {
    Bash,
    Fish,
    Zsh,
}

/// Prints a completion script.
pub(crate) fn run(arguments: &Arguments, context: &Context<'_>) -> anyhow::Result<ExitCode> {
    let shell = match arguments.shell {
        Shell::Bash => clap_complete::Shell::Bash,
        Shell::Fish => clap_complete::Shell::Fish,
        Shell::Zsh => clap_complete::Shell::Zsh,
    };
    let mut script = Vec::new();
    let mut command = cli::command(context.registry);
    clap_complete::generate(shell, &mut command, "legatus", &mut script);
    console::print(&script)?;
    Ok(ExitCode::SUCCESS)
}
