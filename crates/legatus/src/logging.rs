//! The log: lines on standard error.

use std::io;

use anyhow::Context;
use clap::ValueEnum;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// What is logged unless something else is asked for.
pub const DEFAULT_LEVEL: &str = "warn";

/// Starts logging to standard error. `level` is a level (error, warn, info, debug, trace, off) or
/// filter directives such as `legatus_net=debug,warn`.
///
/// # Errors
/// When `level` is neither, or logging was started before.
pub fn init(level: &str, format: Format) -> anyhow::Result<()> {
    let colours = crate::console::stderr_has_colours();
    let builder = tracing_subscriber::fmt()
        .with_writer(io::stderr)
        .with_ansi(colours);
    // A plain level costs much less to set up than a filter does.
    let started = match (level.parse::<LevelFilter>(), format) {
        (Ok(level), Format::Text) => builder.with_max_level(level).try_init(),
        (Ok(level), Format::Json) => builder.with_max_level(level).json().try_init(),
        (Err(_), format) => {
            let filter = EnvFilter::try_new(level)
                .with_context(|| format!("`{level}` says nothing about what to log"))?;
            let builder = builder.with_env_filter(filter);
            match format {
                Format::Text => builder.try_init(),
                Format::Json => builder.json().try_init(),
            }
        }
    };
    started.map_err(|error| anyhow::anyhow!("cannot start logging: {error}"))
}
