//! `legatus man --dir D`: manual pages, for whoever packages Legatus.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;

use super::Context;
use crate::cli;

/// The flags of `legatus man`.
#[derive(clap::Args, Clone, Debug)]
pub struct Arguments {
    /// The folder for the pages; made if it is missing
    #[arg(long, value_name = "DIR", value_hint = clap::ValueHint::DirPath)]
    dir: PathBuf,
}

/// Writes a manual page for each command.
pub(crate) fn run(arguments: &Arguments, context: &Context<'_>) -> anyhow::Result<ExitCode> {
    let dir = &arguments.dir;
    let cannot = || format!("cannot write manual pages to {}", dir.display());
    std::fs::create_dir_all(dir).with_context(cannot)?;
    clap_mangen::generate_to(cli::command(context.registry), dir).with_context(cannot)?;
    Ok(ExitCode::SUCCESS)
}
