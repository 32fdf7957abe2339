//! Why a client has no connection, and what to do.

use std::error::Error;
use std::io;
use std::time::Duration;

use legatus_core::Fault;
use thiserror::Error;

use super::Endpoint;
use super::transport::Reason;
use crate::tls::{TlsProblem, explain};

/// Why there is no connection to a server.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The name has no address.
    #[error("cannot find the host `{host}`")]
    UnknownHost {
        /// The name.
        host: String,
        /// What the look-up said.
        source: io::Error,
    },
    /// Nobody listens there.
    #[error("`{endpoint}` refuses connections")]
    Refused {
        /// Where.
        endpoint: String,
    },
    /// The network does not lead there.
    #[error("cannot reach `{endpoint}`")]
    Unreachable {
        /// Where.
        endpoint: String,
        /// What the system said.
        source: io::Error,
    },
    /// No connection within the time-out.
    #[error("no answer from `{endpoint}` within {seconds} s")]
    TimedOut {
        /// Where.
        endpoint: String,
        /// The time-out, in seconds.
        seconds: f64,
    },
    /// TLS failed: certificates, names, versions, or something else than TLS speaks there.
    #[error("no secure connection to `{endpoint}`: {problem}")]
    Tls {
        /// Where.
        endpoint: String,
        /// What is wrong.
        problem: TlsProblem,
    },
    /// The connection ended, for whatever reason.
    #[error("the connection to `{endpoint}` failed: {cause}")]
    Failed {
        /// Where.
        endpoint: String,
        /// The causes, outermost first.
        cause: String,
    },
}

impl ConnectError {
    /// What a failed TCP connection means.
    pub(super) fn dial(endpoint: &Endpoint, source: io::Error, timeout: Duration) -> Self {
        let endpoint = endpoint.to_string();
        match source.kind() {
            io::ErrorKind::TimedOut => Self::TimedOut {
                endpoint,
                seconds: timeout.as_secs_f64(),
            },
            io::ErrorKind::ConnectionRefused => Self::Refused { endpoint },
            _ => Self::Unreachable { endpoint, source },
        }
    }

    /// What an error of the connection means.
    pub(super) fn from_chain(endpoint: &Endpoint, error: &(dyn Error + 'static)) -> Self {
        let endpoint = endpoint.to_string();
        match explain(error) {
            Some(problem) => Self::Tls { endpoint, problem },
            None => Self::Failed {
                endpoint,
                cause: crate::chain(error),
            },
        }
    }

    /// What the end of a connection means.
    pub(super) fn ended(endpoint: &Endpoint, reason: Reason) -> Self {
        let endpoint = endpoint.to_string();
        match reason {
            Reason::Tls(problem) => Self::Tls { endpoint, problem },
            Reason::Other(cause) => Self::Failed { endpoint, cause },
        }
    }

    /// What the user could do next.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::UnknownHost { .. } => {
                Some("check the name, or give the host an address in the configuration".to_owned())
            }
            Self::Refused { .. } => {
                Some("is `legatus serve` running there, and on that port?".to_owned())
            }
            Self::Unreachable { .. } | Self::TimedOut { .. } => {
                Some("check the network and firewalls between here and there".to_owned())
            }
            Self::Tls { problem, .. } => problem.hint().map(str::to_owned),
            Self::Failed { .. } => None,
        }
    }

    /// The error with its causes, in one line.
    pub fn chain(&self) -> String {
        crate::chain(self)
    }
}

impl From<ConnectError> for Fault {
    fn from(error: ConnectError) -> Self {
        let fault = Self::new(error.chain());
        match error.hint() {
            Some(hint) => fault.with_hint(hint),
            None => fault,
        }
    }
}
