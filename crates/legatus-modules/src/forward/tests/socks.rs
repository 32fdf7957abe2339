//! SOCKS5 clients, good and bad.

use legatus_core::{Arguments, Outcome};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::support::{Forwarded, closed_port, exchange, reverser};

async fn proxy() -> (Forwarded, u16) {
    let mut forwarded = Forwarded::start(Arguments::new().with("dynamic", "127.0.0.1:0"));
    let port = forwarded.port().await;
    (forwarded, port)
}

/// What the proxy answers to these bytes until it closes the connection.
async fn answer(port: u16, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    let mut answer = Vec::new();
    // The proxy may close before it has read everything.
    stream.read_to_end(&mut answer).await.ok();
    answer
}

const GREETING: &[u8] = &[5, 1, 0];

#[tokio::test]
async fn what_is_no_connect_without_authentication_is_refused_and_told() {
    let (mut forwarded, port) = proxy().await;
    let with = |rest: &[u8]| [GREETING, rest].concat();
    assert_eq!(answer(port, b"GET / HTTP/1.0\r\n\r\n").await, b"");
    assert_eq!(answer(port, &[4, 1, 0, 80, 1, 2, 3, 4, 0]).await, b"");
    assert_eq!(answer(port, &[5, 1, 2]).await, [5, 0xff]);
    let bind = answer(port, &with(&[5, 2, 0, 1, 127, 0, 0, 1, 0, 80])).await;
    assert_eq!(bind, [5, 0, 5, 7, 0, 1, 0, 0, 0, 0, 0, 0]);
    let kind = answer(port, &with(&[5, 1, 0, 9])).await;
    assert_eq!(kind, [5, 0, 5, 8, 0, 1, 0, 0, 0, 0, 0, 0]);
    let text = answer(port, &with(&[5, 1, 0, 3, 2, 0xff, 0xfe, 0, 80])).await;
    assert_eq!(text, [5, 0]);
    let mut refused = with(&[5, 1, 0, 1, 127, 0, 0, 1]);
    refused.extend(closed_port().await.to_be_bytes());
    assert_eq!(
        answer(port, &refused).await,
        [5, 0, 5, 5, 0, 1, 0, 0, 0, 0, 0, 0]
    );
    assert_eq!(forwarded.interrupt().await, Outcome::Cancelled);
}

#[tokio::test]
async fn names_and_addresses_are_connected_to() {
    let (_forwarded, port) = proxy().await;
    let target = reverser().await.to_be_bytes();
    for kind in [&b"\x01\x7f\0\0\x01"[..], b"\x03\x09127.0.0.1"] {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        let request = [GREETING, &[5, 1, 0], kind, &target].concat();
        stream.write_all(&request).await.unwrap();
        let mut reply = [0; 12];
        stream.read_exact(&mut reply).await.unwrap();
        assert_eq!(reply[..4], [5, 0, 5, 0]);
        assert_eq!(exchange(stream, b"socks").await, b"skcos");
    }
}
