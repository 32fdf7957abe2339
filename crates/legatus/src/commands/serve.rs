//! `legatus serve`: serves this machine to clients.

use std::process::ExitCode;

use super::Context;

/// The flags of `legatus serve`.
#[derive(clap::Args, Clone, Debug)]
pub struct Arguments {}

/// Serves this machine to clients.
pub(crate) fn run(_arguments: Arguments, _context: &Context<'_>) -> anyhow::Result<ExitCode> {
    anyhow::bail!("`serve` is not wired yet")
}
