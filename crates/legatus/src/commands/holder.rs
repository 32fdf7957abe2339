//! `legatus holder`: holds a session or a command for a server, and outlives its connections.

use std::process::ExitCode;

use super::Context;

/// The flags of `legatus holder`.
#[derive(clap::Args, Clone, Debug)]
pub struct Arguments {}

/// Holds a session or a command for a server, and outlives its connections.
pub(crate) fn run(_arguments: Arguments, _context: &Context<'_>) -> anyhow::Result<ExitCode> {
    anyhow::bail!("`holder` is not wired yet")
}
