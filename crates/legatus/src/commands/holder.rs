//! `legatus holder`: how a server starts a process that runs one Commander; see `legatus_host`.

/// The flags of `legatus holder`: none, everything comes through its sockets.
#[derive(clap::Args, Clone, Debug)]
pub struct Arguments {}
