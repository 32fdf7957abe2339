//! Handshakes, so that the other side learns why one fails.

use std::{io, net::IpAddr, sync::Arc, time::Duration};

use legatus_core::Peer;
use rustls::{ClientConfig, ServerConfig};
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};

use super::{TlsError, peer_from_certificates, provider::ALPN_HTTP2};

/// Makes the server's side of a handshake; yields the stream and the verified peer.
///
/// A refused client is sent the reason as a TLS alert, which may take a second longer. There is no
/// other time limit: the caller sets one.
///
/// # Errors
///
/// When the client has no acceptable certificate, does not speak TLS 1.3 or HTTP/2, or goes away.
pub async fn accept<S>(
    config: Arc<ServerConfig>,
    stream: S,
) -> Result<(server::TlsStream<S>, Peer), TlsError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let accepting = TlsAcceptor::from(config).accept(stream).into_fallible();
    let mut stream = match accepting.await {
        Ok(stream) => stream,
        Err((error, stream)) => {
            linger(stream).await;
            return Err(failed(error));
        }
    };
    let (_, connection) = stream.get_ref();
    let verified = if connection.alpn_protocol() == Some(ALPN_HTTP2) {
        let certificates = connection.peer_certificates().unwrap_or_default();
        peer_from_certificates(certificates).map_err(TlsError::Identity)
    } else {
        Err(TlsError::NoHttp2)
    };
    match verified {
        Ok(peer) => {
            let (_, connection) = stream.get_mut();
            connection.set_buffer_limit(Some(SEND_BUFFER));
            Ok((stream, peer))
        }
        Err(error) => {
            // The peer may be gone already; the reason is in the returned error.
            stream.shutdown().await.ok();
            Err(error)
        }
    }
}

/// Makes the client's side of a handshake.
///
/// In TLS 1.3 the client is done before the server has seen its certificate: whether the server
/// accepts it shows with the first bytes read, whose error [`super::explain()`] understands.
///
/// # Errors
///
/// When the server is not the expected one or does not speak TLS 1.3 and HTTP/2.
pub async fn connect<S>(
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
    stream: S,
) -> Result<client::TlsStream<S>, TlsError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut stream = TlsConnector::from(config)
        .connect(name, stream)
        .await
        .map_err(failed)?;
    if stream.get_ref().1.alpn_protocol() != Some(ALPN_HTTP2) {
        return Err(TlsError::NoHttp2);
    }
    let (_, connection) = stream.get_mut();
    connection.set_buffer_limit(Some(SEND_BUFFER));
    Ok(stream)
}

/// A host as a name that certificates are verified against: a DNS name, or an IP address (an IPv6
/// one with or without brackets).
///
/// # Errors
///
/// When it is neither.
pub fn server_name(host: &str) -> Result<ServerName<'static>, TlsError> {
    let bare = host
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'));
    let bare = bare.unwrap_or(host);
    // The zone of a link-local address means something on this machine only.
    let address = bare.split_once('%').map_or(bare, |(address, _)| address);
    if let Ok(address) = address.parse::<IpAddr>() {
        return Ok(ServerName::from(address));
    }
    ServerName::try_from(bare.to_owned()).map_err(|_| TlsError::ServerName(host.to_owned()))
}

fn failed(error: io::Error) -> TlsError {
    let closed = matches!(
        error.kind(),
        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe
    );
    if closed {
        return TlsError::ClosedDuringHandshake;
    }
    TlsError::Handshake(error)
}

/// Ends a refused connection so that the alert arrives: closing a socket with unread bytes resets
/// it, and the reset may overtake the alert.
async fn linger<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S) {
    let drain = async {
        stream.shutdown().await?;
        tokio::io::copy(&mut stream.take(LINGER_BYTES), &mut tokio::io::sink()).await
    };
    // Best effort: the peer may be gone, or keep talking.
    tokio::time::timeout(LINGER, drain).await.ok();
}

/// Bytes that wait in TLS for the socket, at most: a data message, so that it goes out in a few
/// large writes. rustls has 64 KiB.
const SEND_BUFFER: usize = 512 << 10;
/// How long a refused client may take to read the reason: a few round trips anywhere on earth.
const LINGER: Duration = Duration::from_secs(1);
/// How much a refused client may still send: more than a first flight of HTTP/2.
const LINGER_BYTES: u64 = 64 << 10;
