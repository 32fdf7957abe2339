//! What a request says: checked before anything is done, and told in one line for the audit.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use bytes::Bytes;
use legatus_core::{Fault, Request as CoreRequest, SocketName};
use prost::Message;

use super::messages::{Hold, Request, Socket, Tcp, Ticket, request, socket};

/// Characters of a DNS name, at most (RFC 1035), with some room for what is none.
const HOST_BYTES: usize = 255;

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum What {
    Connect(SocketName),
    Listen(SocketName),
    Take(Ticket),
    Hold,
}

impl What {
    /// Whether it has to be done with the user's rights.
    pub(super) fn needs_rights(&self) -> bool {
        match self {
            Self::Connect(socket) | Self::Listen(socket) => matches!(socket, SocketName::Unix(_)),
            Self::Take(ticket) => ticket.unix,
            Self::Hold => false,
        }
    }

    pub(super) fn encode(self) -> CoreRequest {
        let what = match self {
            Self::Connect(socket) => request::What::Connect(wire(&socket)),
            Self::Listen(socket) => request::What::Listen(wire(&socket)),
            Self::Take(ticket) => request::What::Take(ticket),
            Self::Hold => request::What::Hold(Hold {}),
        };
        CoreRequest::from_body(Request { what: Some(what) }.encode_to_vec())
    }
}

/// Decodes a request.
pub(super) fn decode(request: &CoreRequest) -> Result<What, Fault> {
    let request = Request::decode(request.body.clone())
        .map_err(|_| Fault::new("the request is no `legatus.forward.v1.Request`"))?;
    match request.what {
        Some(request::What::Connect(socket)) => match name(socket)? {
            SocketName::Tcp { port: 0, .. } => Err(Fault::new("port 0 cannot be connected to")),
            SocketName::Tcp { host, .. } if host == "*" => {
                Err(Fault::new("`*` is no host to connect to"))
            }
            socket => Ok(What::Connect(socket)),
        },
        Some(request::What::Listen(socket)) => Ok(What::Listen(name(socket)?)),
        Some(request::What::Take(ticket)) => Ok(What::Take(ticket)),
        Some(request::What::Hold(_)) => Ok(What::Hold),
        None => Err(Fault::new("the request does not say what to forward")),
    }
}

/// The request in one line.
pub(super) fn summary(what: &What) -> String {
    match what {
        What::Connect(socket) => format!("connect {}", shown(socket)),
        What::Listen(socket) => format!("listen {}", shown(socket)),
        What::Take(_) => "take a connection".to_owned(),
        What::Hold => "hold".to_owned(),
    }
}

/// A socket with everything escaped that could deceive a reader or a terminal.
pub(super) fn shown(socket: &SocketName) -> String {
    format!("{:?}", socket.to_string())
}

/// A socket as it travels.
pub(super) fn wire(name: &SocketName) -> Socket {
    let kind = match name {
        SocketName::Tcp { host, port } => socket::Kind::Tcp(Tcp {
            host: host.clone(),
            port: (*port).into(),
        }),
        SocketName::Unix(path) => {
            socket::Kind::Unix(Bytes::copy_from_slice(path.as_os_str().as_bytes()))
        }
    };
    Socket { kind: Some(kind) }
}

/// A socket from the wire.
pub(super) fn name(socket: Socket) -> Result<SocketName, Fault> {
    match socket.kind {
        Some(socket::Kind::Tcp(Tcp { host, port })) => {
            let port =
                u16::try_from(port).map_err(|_| Fault::new(format!("{port} is no TCP port")))?;
            let is_fit = (1..=HOST_BYTES).contains(&host.len())
                && !host.contains(|letter: char| letter.is_control() || letter.is_whitespace());
            if is_fit {
                Ok(SocketName::Tcp { host, port })
            } else {
                Err(Fault::new("the request names a host that cannot be one"))
            }
        }
        Some(socket::Kind::Unix(path)) if path.is_empty() || path.contains(&0) => {
            Err(Fault::new("the request has a path that cannot be one"))
        }
        Some(socket::Kind::Unix(path)) => {
            Ok(SocketName::Unix(PathBuf::from(OsStr::from_bytes(&path))))
        }
        None => Err(Fault::new("the request names no socket")),
    }
}
