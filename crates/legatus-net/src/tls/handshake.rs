//! Handshakes, so that the other side learns why one fails.

use std::future::poll_fn;
use std::ops::DerefMut;
use std::{io, net::IpAddr, sync::Arc, time::Duration};

use legatus_core::Peer;
use rustls::client::{ClientConnectionData, UnbufferedClientConnection};
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{
    ConnectionState, EncodeError, EncodeTlsData, UnbufferedConnectionCommon, UnbufferedStatus,
};
use rustls::{ClientConfig, Error, ExtractedSecrets, InvalidMessage, ServerConfig};
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use super::incoming::Incoming;
use super::keys::KeySchedule;
use super::record::invalid;
use super::stream::TlsStream;
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
    mut stream: S,
) -> Result<(TlsStream<S>, Peer), TlsError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut connection = UnbufferedServerConnection::new(config).map_err(TlsError::Setup)?;
    let incoming = match shake(&mut connection, &mut stream).await {
        Ok(incoming) => incoming,
        Err(error) => {
            linger(stream).await;
            return Err(failed(error));
        }
    };
    let verified = if connection.alpn_protocol() == Some(ALPN_HTTP2) {
        let certificates = connection.peer_certificates().unwrap_or_default();
        peer_from_certificates(certificates).map_err(TlsError::Identity)
    } else {
        Err(TlsError::NoHttp2)
    };
    let mut stream = begin(connection, stream, incoming)?;
    match verified {
        Ok(peer) => Ok((stream, peer)),
        Err(error) => {
            // The peer may be gone already; the reason is in the returned error.
            stream.shutdown().await.ok();
            Err(error)
        }
    }
}

/// Makes the client's side of a handshake; yields the stream and the server's verified certificate.
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
    mut stream: S,
) -> Result<(TlsStream<S>, CertificateDer<'static>), TlsError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let connection = UnbufferedClientConnection::new(config, name);
    let mut connection = connection.map_err(TlsError::Setup)?;
    let incoming = shake(&mut connection, &mut stream).await.map_err(failed)?;
    if connection.alpn_protocol() != Some(ALPN_HTTP2) {
        return Err(TlsError::NoHttp2);
    }
    let chain = connection.peer_certificates().unwrap_or_default();
    let certificate = chain.first().cloned().map(CertificateDer::into_owned);
    // Not reached: rustls has verified one.
    let certificate = certificate.ok_or(TlsError::Setup(Error::NoCertificatesPresented))?;
    Ok((begin(connection, stream, incoming)?, certificate))
}

/// What the two sides' connections have in common.
trait Connection: DerefMut<Target = UnbufferedConnectionCommon<Self::Data>> + Sized {
    type Data;

    /// Goes on with what has come.
    fn process<'a>(&'a mut self, incoming: &'a mut [u8]) -> UnbufferedStatus<'a, 'a, Self::Data>;

    /// The keys of the connection, and what gives the next ones.
    fn into_secrets(self) -> Result<(ExtractedSecrets, KeySchedule), Error>;
}

impl Connection for UnbufferedClientConnection {
    type Data = ClientConnectionData;

    fn process<'a>(&'a mut self, incoming: &'a mut [u8]) -> UnbufferedStatus<'a, 'a, Self::Data> {
        self.process_tls_records(incoming)
    }

    fn into_secrets(self) -> Result<(ExtractedSecrets, KeySchedule), Error> {
        let (secrets, schedule) = self.dangerous_into_kernel_connection()?;
        Ok((secrets, KeySchedule::Client(schedule)))
    }
}

impl Connection for UnbufferedServerConnection {
    type Data = ServerConnectionData;

    fn process<'a>(&'a mut self, incoming: &'a mut [u8]) -> UnbufferedStatus<'a, 'a, Self::Data> {
        self.process_tls_records(incoming)
    }

    fn into_secrets(self) -> Result<(ExtractedSecrets, KeySchedule), Error> {
        let (secrets, schedule) = self.dangerous_into_kernel_connection()?;
        Ok((secrets, KeySchedule::Server(schedule)))
    }
}

/// What a handshake does next.
enum Next {
    Process,
    Send,
    Read,
    Done,
    Fail(io::Error),
}

/// Makes a handshake as rustls wants it; yields what has come behind it.
///
/// rustls sees one record more only when it has done with those before, and none when the handshake
/// is over: what comes then is not its own.
async fn shake<S, C>(connection: &mut C, stream: &mut S) -> io::Result<Incoming>
where
    S: AsyncRead + AsyncWrite + Unpin,
    C: Connection,
{
    let mut incoming = Incoming::default();
    let mut outgoing = Vec::new();
    // Where the record begins that rustls sees last.
    let mut last = 0;
    loop {
        let (come, record) = incoming.record_at(last);
        let seen = if connection.is_handshaking() {
            record.unwrap_or(come)
        } else {
            0
        };
        let (next, discard) = step(connection, incoming.sealed(seen), &mut outgoing);
        incoming.discard(discard);
        last = last.saturating_sub(discard);
        match next {
            Next::Process => {}
            Next::Send => send(&mut outgoing, stream).await?,
            Next::Read => {
                if record.is_some() {
                    last = seen.saturating_sub(discard);
                }
                if seen == come {
                    read(&mut incoming, stream).await?;
                }
            }
            Next::Done => {
                send(&mut outgoing, stream).await?;
                return Ok(incoming);
            }
            Next::Fail(error) => {
                // rustls has made an alert of it, and cannot go on otherwise. The peer may be gone.
                while connection.wants_write()
                    && let (Next::Process, _) = step(connection, &mut [], &mut outgoing)
                {
                }
                send(&mut outgoing, stream).await.ok();
                return Err(error);
            }
        }
    }
}

/// Waits for more of a handshake.
async fn read<S: AsyncRead + Unpin>(incoming: &mut Incoming, stream: &mut S) -> io::Result<()> {
    // What is left is a message that has come in part.
    if incoming.record_at(0).0 > HANDSHAKE_BYTES {
        return Err(invalid(InvalidMessage::HandshakePayloadTooLarge.into()));
    }
    match poll_fn(|context| incoming.poll_fill(stream, context)).await? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(()),
    }
}

async fn send<S: AsyncWrite + Unpin>(outgoing: &mut Vec<u8>, stream: &mut S) -> io::Result<()> {
    stream.write_all(outgoing).await?;
    outgoing.clear();
    stream.flush().await
}

/// One step of a handshake, and how many of the bytes that were seen are done with.
fn step<C: Connection>(
    connection: &mut C,
    seen: &mut [u8],
    outgoing: &mut Vec<u8>,
) -> (Next, usize) {
    let UnbufferedStatus { discard, state, .. } = connection.process(seen);
    let next = match state {
        Ok(ConnectionState::EncodeTlsData(mut record)) => encode(&mut record, outgoing),
        Ok(ConnectionState::TransmitTlsData(sending)) => {
            sending.done();
            Next::Send
        }
        Ok(ConnectionState::BlockedHandshake) => Next::Read,
        Ok(ConnectionState::WriteTraffic(_)) => Next::Done,
        // Whoever leaves or sends data before the end is not followed.
        Ok(_) => Next::Fail(invalid(Error::HandshakeNotComplete)),
        Err(error) => Next::Fail(invalid(error)),
    };
    (next, discard)
}

/// Takes a record that rustls has made.
fn encode<D>(record: &mut EncodeTlsData<'_, D>, outgoing: &mut Vec<u8>) -> Next {
    let before = outgoing.len();
    loop {
        let room = outgoing.get_mut(before..).unwrap_or_default();
        match record.encode(room) {
            Ok(length) => {
                outgoing.truncate(before + length);
                return Next::Process;
            }
            Err(EncodeError::InsufficientSize(missing)) => {
                outgoing.resize(before + missing.required_size, 0);
            }
            Err(error @ EncodeError::AlreadyEncoded) => {
                return Next::Fail(io::Error::other(error));
            }
        }
    }
}

/// Goes on with records of data.
fn begin<S, C: Connection>(
    connection: C,
    stream: S,
    incoming: Incoming,
) -> Result<TlsStream<S>, TlsError> {
    let begun = connection
        .into_secrets()
        .and_then(|(secrets, schedule)| TlsStream::new(stream, schedule, secrets, incoming));
    begun.map_err(TlsError::Setup)
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

/// Bytes of a handshake message in its records, at most: rustls takes 64 KiB of content.
const HANDSHAKE_BYTES: usize = 128 << 10;
/// How long a refused client may take to read the reason: a few round trips anywhere on earth.
const LINGER: Duration = Duration::from_secs(1);
/// How much a refused client may still send: more than a first flight of HTTP/2.
const LINGER_BYTES: u64 = 64 << 10;
