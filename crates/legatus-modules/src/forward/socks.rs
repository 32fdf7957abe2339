//! The server's part of SOCKS5 (RFC 1928), as far as `CONNECT` without authentication goes.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use legatus_core::SocketName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::messages::refused::Reason;

/// How long a client may take to say what it wants: a person at a keyboard is not one.
pub(super) const GREETING_TIMEOUT: Duration = Duration::from_secs(20);

const VERSION: u8 = 5;
const NO_AUTHENTICATION: u8 = 0;
const NO_ACCEPTABLE_METHOD: u8 = 0xff;
const CONNECT: u8 = 1;
const SUCCEEDED: u8 = 0;
const GENERAL_FAILURE: u8 = 1;
const COMMAND_NOT_SUPPORTED: u8 = 7;
const ADDRESS_TYPE_NOT_SUPPORTED: u8 = 8;

/// Reads what a client wants to connect to. It waits for [`reply`] then.
///
/// # Errors
/// When it is no SOCKS5 client or wants something else; it was told so, if it understands.
pub(super) async fn accept(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
) -> io::Result<SocketName> {
    let [version, methods] = exact(stream).await?;
    if version != VERSION {
        return Err(invalid("this is a proxy for SOCKS5"));
    }
    let mut offered = vec![0; methods.into()];
    stream.read_exact(&mut offered).await?;
    if !offered.contains(&NO_AUTHENTICATION) {
        stream.write_all(&[VERSION, NO_ACCEPTABLE_METHOD]).await?;
        return Err(invalid("the SOCKS5 client insists on authentication"));
    }
    stream.write_all(&[VERSION, NO_AUTHENTICATION]).await?;
    let [version, command, _, kind] = exact(stream).await?;
    if version != VERSION {
        return Err(invalid("the SOCKS5 client changed its mind"));
    }
    let host = match kind {
        1 => Ipv4Addr::from(exact::<4>(stream).await?).to_string(),
        3 => {
            let [length] = exact(stream).await?;
            let mut name = vec![0; length.into()];
            stream.read_exact(&mut name).await?;
            String::from_utf8(name).map_err(|_| invalid("a name that is no text"))?
        }
        4 => Ipv6Addr::from(exact::<16>(stream).await?).to_string(),
        _ => {
            reply(stream, ADDRESS_TYPE_NOT_SUPPORTED).await?;
            return Err(invalid("an unknown type of address"));
        }
    };
    let port = u16::from_be_bytes(exact(stream).await?);
    if command != CONNECT {
        reply(stream, COMMAND_NOT_SUPPORTED).await?;
        return Err(invalid(
            "the SOCKS5 client wants something else than CONNECT",
        ));
    }
    Ok(SocketName::Tcp { host, port })
}

/// Tells a client that it is connected.
pub(super) async fn reply_connected(stream: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
    reply(stream, SUCCEEDED).await
}

/// Tells a client why it is not connected.
pub(super) async fn reply_refused(
    stream: &mut (impl AsyncWrite + Unpin),
    reason: Option<Reason>,
) -> io::Result<()> {
    let code = match reason {
        Some(Reason::NotAllowed) => 2,
        Some(Reason::NetworkUnreachable) => 3,
        Some(Reason::HostUnreachable) => 4,
        Some(Reason::ConnectionRefused) => 5,
        // "TTL expired" is what curl and others call a time-out.
        Some(Reason::TimedOut) => 6,
        Some(Reason::Unspecified) | None => GENERAL_FAILURE,
    };
    reply(stream, code).await
}

/// A reply; the address in it is none, as with ssh: the client cannot reach it anyhow.
async fn reply(stream: &mut (impl AsyncWrite + Unpin), code: u8) -> io::Result<()> {
    stream
        .write_all(&[VERSION, code, 0, 1, 0, 0, 0, 0, 0, 0])
        .await?;
    stream.flush().await
}

async fn exact<const N: usize>(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    stream.read_exact(&mut bytes).await?;
    Ok(bytes)
}

fn invalid(text: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}
