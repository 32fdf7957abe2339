//! Handshakes over loopback TCP between parties whose certificates are made at run time.

mod certificates;
mod ciphers;
mod identities;
mod problems;
mod refusals;
mod reloads;
mod streams;

use std::{
    error::Error,
    sync::Arc,
    time::{Duration, SystemTime},
};

use legatus_core::Peer;
use rustls::{ClientConfig, ServerConfig};
use rustls_pki_types::CertificateDer;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

use super::{
    ClientTls, PairSource, PemSource, Role, RootSource, ServerTls, TlsError, TlsProblem, accept,
    connect, explain, server_name,
};
use crate::pki::{Authority, Holder, IssueOptions, Issued, Validity};

/// An authority with the server `localhost` and the client `alice`.
struct Pki {
    authority: Authority,
    server: Issued,
    client: Issued,
}

impl Pki {
    fn new() -> Self {
        let authority = Authority::generate().expect("an authority");
        Self {
            server: authority.issue_server(&["localhost"]).expect("a server"),
            client: authority.issue_client("alice").expect("a client"),
            authority,
        }
    }

    fn bundle(&self) -> PemSource {
        PemSource::memory(self.authority.certificate_pem())
    }

    fn server_config(&self) -> Arc<ServerConfig> {
        self.server_with(&self.server)
    }

    fn server_with(&self, pair: &Issued) -> Arc<ServerConfig> {
        ServerTls::new(vec![pair.into()], self.bundle())
            .expect("a server")
            .config()
    }

    fn client_config(&self) -> Arc<ClientConfig> {
        self.client_with(Some(&self.client))
    }

    fn client_with(&self, pair: Option<&Issued>) -> Arc<ClientConfig> {
        ClientTls::new(
            pair.map(PairSource::from),
            RootSource::Bundle(self.bundle()),
        )
        .expect("a client")
        .config()
    }
}

/// What each side got: the server the peer, the client the server's certificate.
struct Met {
    server: Result<Peer, TlsError>,
    client: Result<CertificateDer<'static>, TlsError>,
}

impl Met {
    fn server_problem(&self) -> Option<TlsProblem> {
        explain(self.server.as_ref().expect_err("the server refuses"))
    }

    fn client_problem(&self) -> Option<TlsProblem> {
        explain(self.client.as_ref().expect_err("the client fails"))
    }
}

/// A handshake and a byte each way, over loopback.
async fn meet(server: Arc<ServerConfig>, client: Arc<ClientConfig>, name: &str) -> Met {
    let (accepted, connected) = connection().await;
    let (server, client) = tokio::join!(serve(server, accepted), call(client, name, connected));
    Met { server, client }
}

async fn serve(config: Arc<ServerConfig>, stream: TcpStream) -> Result<Peer, TlsError> {
    let (mut stream, peer) = accept(config, stream).await?;
    let io = async {
        stream.read_u8().await?;
        stream.write_u8(b'!').await?;
        stream.flush().await
    };
    io.await.map_err(TlsError::Handshake)?;
    Ok(peer)
}

async fn call(
    config: Arc<ClientConfig>,
    name: &str,
    stream: TcpStream,
) -> Result<CertificateDer<'static>, TlsError> {
    let (mut stream, presented) = connect(config, server_name(name)?, stream).await?;
    let io = async {
        stream.write_u8(b'?').await?;
        stream.flush().await?;
        stream.read_u8().await
    };
    io.await.map_err(TlsError::Handshake)?;
    Ok(presented)
}

/// Both ends of a loopback connection.
async fn connection() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a listener");
    let address = listener.local_addr().expect("its address");
    let (accepted, connected) = tokio::join!(listener.accept(), TcpStream::connect(address));
    (accepted.expect("accepted").0, connected.expect("connected"))
}

fn server_holder(name: &str) -> Holder {
    Holder::Server {
        name: name.to_owned(),
        alternatives: Vec::new(),
    }
}

fn client_holder(name: &str) -> Holder {
    Holder::Client {
        name: name.to_owned(),
    }
}

/// A validity from and to hours relative to now.
fn hours(from: i64, to: i64) -> IssueOptions {
    let moment = |hours: i64| {
        let distance = Duration::from_secs(hours.unsigned_abs() * 3600);
        if hours < 0 {
            SystemTime::now() - distance
        } else {
            SystemTime::now() + distance
        }
    };
    IssueOptions {
        validity: Some(Validity {
            not_before: moment(from),
            not_after: moment(to),
        }),
        ..IssueOptions::default()
    }
}

fn leaf_of(pem: &str) -> CertificateDer<'static> {
    use rustls_pki_types::pem::PemObject as _;
    CertificateDer::from_pem_slice(pem.as_bytes()).expect("a certificate")
}

fn source_of(error: &dyn Error) -> String {
    error.source().map(ToString::to_string).unwrap_or_default()
}
