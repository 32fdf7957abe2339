//! One invocation of a module, as its Commander sees it.

use std::fmt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use bytes::Bytes;
use thiserror::Error;
use tokio_util::sync::CancellationToken;
use tracing::Span;

use crate::{ControlReceiver, Pattern, Peer, Permit, ServerAccess};

/// Names a call, together with the identity of its caller.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CallId(String);

/// A text that cannot be a [`CallId`].
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("a call id has 1 to 64 characters of [0-9A-Za-z_-]")]
pub struct InvalidCallId;

impl CallId {
    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for CallId {
    type Error = InvalidCallId;

    fn try_from(text: String) -> Result<Self, InvalidCallId> {
        let fits = (1..=64).contains(&text.len())
            && text
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-');
        if fits {
            Ok(Self(text))
        } else {
            Err(InvalidCallId)
        }
    }
}

impl fmt::Display for CallId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a Sender asks of its Commander.
///
/// A module uses one of the two fields: plain arguments if it has no schema of its own, else its
/// request message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// Plain arguments, as typed; bytes, never a line to be parsed again.
    pub arguments: Vec<Bytes>,
    /// The request in the module's own protobuf schema.
    pub body: Bytes,
    /// The deadline that the Sender asks for: the server ends the call with
    /// [`Outcome::Timeout`](crate::Outcome::Timeout) after so long.
    pub timeout: Option<Duration>,
    /// Has the call outlive its connection; `None`: it ends with it.
    pub keeping: Option<crate::Keeping>,
}

impl Request {
    /// A request in the module's own schema.
    pub fn from_body(body: impl Into<Bytes>) -> Self {
        Self {
            body: body.into(),
            ..Self::default()
        }
    }

    /// A request of plain arguments.
    pub fn from_arguments(arguments: impl IntoIterator<Item = impl Into<Bytes>>) -> Self {
        Self {
            arguments: arguments.into_iter().map(Into::into).collect(),
            ..Self::default()
        }
    }

    /// Size in bytes, for [`limits::REQUEST_BYTES`](crate::limits::REQUEST_BYTES).
    pub fn size(&self) -> usize {
        let arguments: usize = self.arguments.iter().map(Bytes::len).sum();
        arguments.saturating_add(self.body.len())
    }
}

/// What the server's configuration says of the user as whom a call runs, where that differs from
/// what the system's user database says.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Account {
    /// The home folder.
    pub home: Option<PathBuf>,
    /// The login shell.
    pub shell: Option<PathBuf>,
    /// The names of variables that the caller may set; `None`: any.
    pub variables: Option<Vec<Pattern>>,
}

/// One invocation of a module, as its Commander sees it. None exists without a [`Permit`].
#[derive(Debug)]
pub struct Call {
    id: CallId,
    peer: Peer,
    permit: Permit,
    /// What is asked.
    pub request: Request,
    /// When the call will be ended with [`Outcome::Timeout`](crate::Outcome::Timeout).
    pub deadline: Option<Instant>,
    /// Cancelled when the caller cancels, its connection is lost or the deadline passes. A
    /// Commander then has a few seconds to clean up before it is dropped.
    pub cancellation: CancellationToken,
    /// Cancelled when the server takes no more calls: what only waits for something new should end,
    /// so that its caller calls the process that comes next. Never where the Commander runs outside of
    /// the server.
    pub draining: CancellationToken,
    /// Signals and resizes for what the call runs.
    pub controls: ControlReceiver,
    /// How the call outlives its connection, where it can.
    pub persistence: Option<crate::Persistence>,
    /// What is said of the user as whom the call runs.
    pub account: Account,
    /// What holds the processes together that the Commander starts, where the system has that.
    pub processes: Option<std::sync::Arc<dyn crate::ProcessGroup>>,
    server: Option<ServerAccess>,
    span: Span,
}

impl Call {
    /// A call that policy has permitted.
    pub fn new(
        id: CallId,
        peer: Peer,
        permit: Permit,
        request: Request,
        controls: ControlReceiver,
    ) -> Self {
        let span = tracing::info_span!("call", id = %id, identity = %peer);
        Self {
            id,
            peer,
            permit,
            request,
            deadline: None,
            cancellation: CancellationToken::new(),
            draining: CancellationToken::new(),
            controls,
            persistence: None,
            account: Account::default(),
            processes: None,
            server: None,
            span,
        }
    }

    /// Gives the Commander access to its server, as far as the permit reaches.
    pub fn grant_server(&mut self, control: std::sync::Arc<dyn crate::ServerControl>) {
        self.server = Some(ServerAccess::new(control, self.permit.effects()));
    }

    /// The call's id.
    pub fn id(&self) -> &CallId {
        &self.id
    }

    /// Who calls.
    pub fn peer(&self) -> &Peer {
        &self.peer
    }

    /// The proof that policy allowed the call.
    pub fn permit(&self) -> &Permit {
        &self.permit
    }

    /// The server that runs the call; `None` where the Commander runs outside of it.
    pub fn server(&self) -> Option<&ServerAccess> {
        self.server.as_ref()
    }

    /// The logger of this call: whatever is logged inside this span carries the call's id.
    pub fn span(&self) -> &Span {
        &self.span
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn call_ids_that_could_forge_log_lines_are_refused() {
        for bad in ["", "a b", "a\n", "../x", "a\u{e9}", &"x".repeat(65)] {
            assert_eq!(
                CallId::try_from(bad.to_owned()),
                Err(InvalidCallId),
                "{bad:?}"
            );
        }
        assert_eq!(
            CallId::try_from("a-B_9".to_owned()).unwrap().as_str(),
            "a-B_9"
        );
    }
}
