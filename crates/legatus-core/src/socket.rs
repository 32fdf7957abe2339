//! Sockets of the user's machine or of the server's, by name, and connections through them.

use std::fmt;
use std::io;
use std::path::PathBuf;

use tokio::io::{AsyncRead, AsyncWrite};

use crate::BoxFuture;

/// A socket as a user names it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum SocketName {
    /// A TCP port of a host. To listen, `localhost` means the loopback addresses and `*` all
    /// addresses; port 0 takes a free one.
    Tcp {
        /// A DNS name or an IP address (v6 without brackets).
        host: String,
        /// The port.
        port: u16,
    },
    /// A Unix socket by its path.
    Unix(PathBuf),
}

impl fmt::Display for SocketName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "{}", path.display()),
        }
    }
}

/// A two-way stream of bytes whose directions can end one by one.
pub trait Connection: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Connection for T {}

/// Listens on one or more sockets; they are closed when it is dropped.
pub trait Listener: Send {
    /// The next connection, and who made it, for people. Cancel safe.
    ///
    /// # Errors
    /// Those of `accept(2)`; the listener can go on.
    fn accept(&mut self) -> BoxFuture<'_, io::Result<(Box<dyn Connection>, String)>>;

    /// Where it listens, with real ports.
    fn names(&self) -> Vec<SocketName>;
}
