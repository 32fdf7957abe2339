//! How calls reach a host.

use legatus_core::wire::{DescribeReply, ListSessionsReply};
use legatus_core::{BoxFuture, Caller, Fault, Outcome};

use crate::config::ResolvedHost;

/// Connects to hosts. The command line knows nothing else of the network.
pub trait Connector: Send + Sync {
    /// Connects to a host, for calls of one module.
    ///
    /// # Errors
    /// When the host cannot be reached, is not who it should be, or turns the user away.
    fn connect<'a>(
        &'a self,
        host: &'a ResolvedHost,
        module: &'a str,
    ) -> BoxFuture<'a, Result<Box<dyn Caller>, ConnectFailure>>;

    /// Connects to a host, for calls of several modules, in their order. They share one connection
    /// where that is possible.
    ///
    /// # Errors
    /// As [`Connector::connect`].
    fn connect_for<'a>(
        &'a self,
        host: &'a ResolvedHost,
        modules: &'a [&'a str],
    ) -> BoxFuture<'a, Result<Vec<Box<dyn Caller>>, ConnectFailure>> {
        Box::pin(async move {
            let mut callers = Vec::new();
            for module in modules {
                callers.push(self.connect(host, module).await?);
            }
            Ok(callers)
        })
    }

    /// Connects to a host and asks what it is and what it offers.
    ///
    /// # Errors
    /// As [`Connector::connect`].
    fn describe<'a>(
        &'a self,
        host: &'a ResolvedHost,
    ) -> BoxFuture<'a, Result<DescribeReply, ConnectFailure>>;

    /// Connects to a host and asks for the kept calls that the user may know of.
    ///
    /// # Errors
    /// As [`Connector::connect`], and where no calls are kept.
    fn sessions<'a>(
        &'a self,
        host: &'a ResolvedHost,
    ) -> BoxFuture<'a, Result<ListSessionsReply, ConnectFailure>> {
        let _ = host;
        Box::pin(std::future::ready(Err(no_sessions())))
    }

    /// Connects to a host and ends a kept call, or sends a signal to what it runs; false if there
    /// is none of that id or name.
    ///
    /// # Errors
    /// As [`Connector::sessions`].
    fn end_session<'a>(
        &'a self,
        host: &'a ResolvedHost,
        session: &'a str,
        signal: Option<u8>,
    ) -> BoxFuture<'a, Result<bool, ConnectFailure>> {
        let _ = (host, session, signal);
        Box::pin(std::future::ready(Err(no_sessions())))
    }
}

fn no_sessions() -> ConnectFailure {
    ConnectFailure::Unavailable(Fault::new("no sessions are kept there"))
}

/// Why there is no connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConnectFailure {
    /// The server turned the user away.
    Denied(Fault),
    /// There is no (right) server to talk to.
    Unavailable(Fault),
}

impl ConnectFailure {
    /// What is to be told of it.
    pub fn into_fault(self) -> Fault {
        match self {
            Self::Denied(fault) | Self::Unavailable(fault) => fault,
        }
    }
}

impl From<ConnectFailure> for Outcome {
    fn from(failure: ConnectFailure) -> Self {
        match failure {
            ConnectFailure::Denied(fault) => Self::Denied(fault),
            ConnectFailure::Unavailable(fault) => Self::Unavailable(fault),
        }
    }
}
