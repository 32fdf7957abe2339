//! `legatus pki`: makes and shows certificates.

use std::process::ExitCode;

use super::Context;

/// The flags of `legatus pki`.
#[derive(clap::Args, Clone, Debug)]
pub struct Arguments {}

/// Makes and shows certificates.
pub(crate) fn run(_arguments: Arguments, _context: &Context<'_>) -> anyhow::Result<ExitCode> {
    anyhow::bail!("`pki` is not wired yet")
}
