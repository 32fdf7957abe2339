//! `legatus help [COMMAND]...`: how a command is used.

use std::process::ExitCode;

use super::Context;
use crate::{cli, console};

/// The flags of `legatus help`.
#[derive(clap::Args, Clone, Debug)]
pub struct Arguments {
    /// A module or another command, and its subcommands
    #[arg(value_name = "COMMAND")]
    names: Vec<String>,
}

/// Shows how a command is used.
pub(crate) fn run(arguments: &Arguments, context: &Context<'_>) -> anyhow::Result<ExitCode> {
    let mut root = cli::command(context.registry);
    // Gives each subcommand its full name and the global flags.
    root.build();
    let mut command = &mut root;
    for name in &arguments.names {
        let known = command.find_subcommand(name).is_some();
        let name = if known {
            name.clone()
        } else {
            name.to_ascii_lowercase()
        };
        command = match command.find_subcommand_mut(&name) {
            Some(command) => command,
            None => return Err(unknown(&name, context)),
        };
    }
    let text = command.render_long_help();
    console::print_styled(&text)?;
    Ok(ExitCode::SUCCESS)
}

fn unknown(name: &str, context: &Context<'_>) -> anyhow::Error {
    match context.registry.resolve(name) {
        Ok(_) => anyhow::anyhow!("the module `{name}` has no client half here"),
        Err(unknown) => match &unknown.nearest {
            Some(nearest) => {
                anyhow::anyhow!("there is no command `{name}`, did you mean `{nearest}`?")
            }
            None => anyhow::anyhow!("there is no command `{name}`"),
        },
    }
}
