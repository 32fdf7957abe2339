//! Connections that must not be taken, and what their client is told.
#![allow(
    clippy::allow_attributes,
    clippy::unwrap_used,
    clippy::panic,
    clippy::cast_possible_truncation,
    clippy::field_reassign_with_default,
    clippy::large_futures,
    reason = "tests fail by panicking"
)]

mod common;

use std::time::Duration;

use legatus_core::{Caller as _, Outcome, Request};
use legatus_net::pki::Authority;
use legatus_net::tls::PairSource;
use legatus_net::{ClientOptions, ConnectError, ServerLimits};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use self::common::{Options, TestServer};

/// What a client is told, whether at connecting or at its first call (TLS 1.3 allows both).
async fn told(server: &TestServer, options: &ClientOptions) -> String {
    match server.try_connect(options).await {
        Err(error) => error.chain(),
        Ok(client) => {
            let call = client
                .module("exits")
                .open(Request::from_arguments(["0"]))
                .await
                .unwrap();
            match call.outcome.wait().await {
                Outcome::Unavailable(fault) => fault.message().to_owned(),
                other => panic!("taken: {other:?}"),
            }
        }
    }
}

async fn still_serves(server: &TestServer) {
    let client = server.connect("ann").await;
    let call = client
        .module("exits")
        .open(Request::from_arguments(["0"]))
        .await
        .unwrap();
    assert_eq!(call.outcome.wait().await, Outcome::SUCCESS);
}

fn quick() -> Options {
    let limits = ServerLimits {
        handshake: Duration::from_millis(300),
        ..ServerLimits::default()
    };
    Options {
        limits,
        ..Options::default()
    }
}

/// Reads until the server closes or resets the connection.
async fn until_closed(mut stream: impl tokio::io::AsyncRead + Unpin) {
    let mut scrap = [0; 1024];
    while stream.read(&mut scrap).await.is_ok_and(|count| count > 0) {}
}

#[tokio::test]
async fn a_client_without_a_certificate_is_told_so() {
    let server = TestServer::start(Options::default()).await;
    let told = told(&server, &server.tls_with(None)).await;
    assert!(told.contains("certificate"), "{told}");
    still_serves(&server).await;
}

#[tokio::test]
async fn a_client_with_a_certificate_of_another_authority_is_rejected() {
    let server = TestServer::start(Options::default()).await;
    let other = Authority::generate().unwrap().issue_client("ann").unwrap();
    let told = told(&server, &server.tls_with(Some(PairSource::from(&other)))).await;
    assert!(told.contains("certificate"), "{told}");
    still_serves(&server).await;
}

#[tokio::test]
async fn a_server_of_another_authority_is_not_trusted() {
    let server = TestServer::start(Options::default()).await;
    let impostor = TestServer::start(Options::default()).await;
    let error = impostor.try_connect(&server.tls("ann")).await.unwrap_err();
    assert!(matches!(error, ConnectError::Tls { .. }), "{error}");
    assert!(error.hint().is_some());
}

#[tokio::test]
async fn a_server_with_another_name_is_not_trusted() {
    let server = TestServer::start(Options::default()).await;
    let mut endpoint = server.endpoint();
    endpoint.server_name = "elsewhere".to_owned();
    let error = legatus_net::Client::connect(&endpoint, &server.tls("ann"))
        .await
        .unwrap_err();
    assert!(error.to_string().contains("elsewhere"), "{error}");
}

#[tokio::test]
async fn nobody_listening_is_refused() {
    let server = TestServer::start(Options::default()).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut endpoint = server.endpoint();
    endpoint.port = listener.local_addr().unwrap().port();
    drop(listener);
    let error = legatus_net::Client::connect(&endpoint, &server.tls("ann"))
        .await
        .unwrap_err();
    assert!(matches!(error, ConnectError::Refused { .. }), "{error}");
}

#[tokio::test]
async fn a_server_that_says_nothing_is_a_time_out() {
    let server = TestServer::start(Options::default()).await;
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut endpoint = server.endpoint();
    endpoint.port = silent.local_addr().unwrap().port();
    let mut options = server.tls("ann");
    options.connect_timeout = Duration::from_millis(100);
    let error = legatus_net::Client::connect(&endpoint, &options)
        .await
        .unwrap_err();
    assert!(matches!(error, ConnectError::TimedOut { .. }), "{error}");
}

#[tokio::test]
async fn something_else_that_speaks_there_is_named_as_such() {
    let server = TestServer::start(Options::default()).await;
    let other = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut endpoint = server.endpoint();
    endpoint.port = other.local_addr().unwrap().port();
    tokio::spawn(async move {
        let (mut stream, _) = other.accept().await.unwrap();
        stream.write_all(b"SSH-2.0-OpenSSH_9.2\r\n").await.unwrap();
        until_closed(stream).await;
    });
    let error = legatus_net::Client::connect(&endpoint, &server.tls("ann"))
        .await
        .unwrap_err();
    assert!(error.to_string().contains("TLS"), "{error}");
}

#[tokio::test]
async fn a_name_without_an_address_is_an_unknown_host() {
    let server = TestServer::start(Options::default()).await;
    let mut endpoint = server.endpoint();
    endpoint.host = "no-such-host.invalid".to_owned();
    let error = legatus_net::Client::connect(&endpoint, &server.tls("ann"))
        .await
        .unwrap_err();
    assert!(matches!(error, ConnectError::UnknownHost { .. }), "{error}");
}

#[tokio::test]
async fn plain_text_and_http_1_are_closed() {
    let server = TestServer::start(Options::default()).await;
    for bytes in [
        &b"hello\r\n"[..],
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        &[0xff; 4096],
    ] {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        until_closed(stream).await;
    }
    still_serves(&server).await;
}

#[tokio::test]
async fn a_connection_that_says_nothing_is_closed() {
    let server = TestServer::start(quick()).await;
    until_closed(TcpStream::connect(server.address).await.unwrap()).await;
    still_serves(&server).await;
}

#[tokio::test]
async fn a_connection_that_trickles_is_closed() {
    let server = TestServer::start(quick()).await;
    let (reader, mut writer) = TcpStream::connect(server.address)
        .await
        .unwrap()
        .into_split();
    let trickle = async {
        // The beginning of a TLS record, one byte at a time, for ever.
        for byte in [0x16, 3, 1, 2, 0].into_iter().chain(std::iter::repeat(0)) {
            if writer.write_all(&[byte]).await.is_err() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::select! {
        () = until_closed(reader) => {}
        () = trickle => {}
    }
    still_serves(&server).await;
}

/// A TLS connection with a good certificate that has not spoken HTTP/2 yet.
async fn secured(server: &TestServer) -> impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin {
    let stream = TcpStream::connect(server.address).await.unwrap();
    let name = legatus_net::tls::server_name("localhost").unwrap();
    let connecting = legatus_net::tls::connect(server.tls("ann").tls.config(), name, stream);
    connecting.await.unwrap().0
}

#[tokio::test]
async fn silence_after_the_handshake_is_closed() {
    let server = TestServer::start(quick()).await;
    until_closed(secured(&server).await).await;
    still_serves(&server).await;
}

#[tokio::test]
async fn garbage_after_the_handshake_is_closed() {
    let server = TestServer::start(Options::default()).await;
    let mut stream = secured(&server).await;
    stream.write_all(&[0xaa; 20_000]).await.unwrap();
    until_closed(stream).await;
    still_serves(&server).await;
}

#[tokio::test]
async fn an_idle_connection_is_closed() {
    let limits = ServerLimits {
        handshake: Duration::from_millis(200),
        idle: Duration::ZERO,
        ..ServerLimits::default()
    };
    let server = TestServer::start(Options {
        limits,
        ..Options::default()
    })
    .await;
    let client = server.connect("ann").await;
    // The server says goodbye; from then on calls fail, and none hangs.
    loop {
        let call = client
            .module("exits")
            .open(Request::from_arguments(["0"]))
            .await
            .unwrap();
        if call.outcome.wait().await != Outcome::SUCCESS {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn connections_beyond_the_limit_of_an_identity_are_closed() {
    let limits = ServerLimits {
        connections_per_identity: 1,
        ..ServerLimits::default()
    };
    let server = TestServer::start(Options {
        limits,
        ..Options::default()
    })
    .await;
    let first = server.connect("ann").await;
    first.describe().await.unwrap();
    let second = server.connect("ann").await;
    second.describe().await.unwrap_err();
    server.connect("bob").await.describe().await.unwrap();
}
