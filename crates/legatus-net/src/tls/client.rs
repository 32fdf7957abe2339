//! The client's side.

use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::{ClientConfig, client::Resumption, sign::SingleCertAndKey};
use tokio_util::sync::CancellationToken;

use super::{
    PairSource, Role, RootSource, TlsError,
    provider::{ALPN_HTTP2, provider},
    watch::WatchedFiles,
};

/// TLS of a client: its certificate, and the authorities of servers.
///
/// TLS 1.3 only; the server's name is always verified; no sessions are resumed.
#[derive(Debug)]
pub struct ClientTls {
    pair: Option<PairSource>,
    servers: RootSource,
    files: WatchedFiles,
    current: ArcSwap<ClientConfig>,
}

impl ClientTls {
    /// Loads the client's certificate pair and the authorities that sign servers.
    ///
    /// Without a pair the client can connect and see the server's certificate, but every Legatus
    /// server refuses it.
    ///
    /// # Errors
    ///
    /// When something cannot be read, the certificate is not for clients, or the key does not belong
    /// to it.
    pub fn new(pair: Option<PairSource>, servers: RootSource) -> Result<Self, TlsError> {
        let paths = pair.iter().flat_map(PairSource::paths);
        let files = WatchedFiles::new(paths.chain(servers.path()));
        let config = load(pair.as_ref(), &servers)?;
        Ok(Self {
            pair,
            servers,
            files,
            current: ArcSwap::new(config),
        })
    }

    /// The configuration for new connections as of now.
    pub fn config(&self) -> Arc<ClientConfig> {
        self.current.load_full()
    }

    /// Reads everything again. Connections that exist are not touched.
    ///
    /// # Errors
    ///
    /// When something cannot be used; then all stays as it was.
    pub fn reload(&self) -> Result<(), TlsError> {
        let config = load(self.pair.as_ref(), &self.servers)?;
        self.current.store(config);
        Ok(())
    }

    /// Reloads whenever a file changed, until cancelled. What cannot be used is logged, and all
    /// stays as it was.
    pub async fn watch(self: Arc<Self>, cancellation: CancellationToken) {
        let watched = Arc::clone(&self);
        watched
            .files
            .watch(cancellation, move || self.reload())
            .await;
    }
}

fn load(pair: Option<&PairSource>, servers: &RootSource) -> Result<Arc<ClientConfig>, TlsError> {
    let provider = provider();
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(TlsError::Setup)?
        .with_root_certificates(servers.load()?);
    let mut config = match pair {
        Some(pair) => {
            let pair = pair.load(Role::Client, &provider)?;
            builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(pair)))
        }
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![ALPN_HTTP2.to_vec()];
    config.resumption = Resumption::disabled();
    config.enable_early_data = false;
    // For the records after the handshake (`TlsStream`).
    config.enable_secret_extraction = true;
    Ok(Arc::new(config))
}
