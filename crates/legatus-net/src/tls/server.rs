//! The server's side: several certificates, chosen by the name or address that is asked for.

use std::{net::IpAddr, sync::Arc};

use arc_swap::ArcSwap;
use rustls::{
    ServerConfig,
    client::verify_server_name,
    server::{
        ClientHello, NoServerSessionStorage, ParsedCertificate, ResolvesServerCert,
        WebPkiClientVerifier,
    },
    sign::CertifiedKey,
};
use rustls_pki_types::{DnsName, ServerName};
use tokio_util::sync::CancellationToken;

use super::{
    PairSource, PemSource, Role, TlsError,
    provider::{ALPN_HTTP2, provider},
    source::load_bundle,
    watch::WatchedFiles,
};

/// TLS of a server: its certificates, and the authorities of its clients.
///
/// TLS 1.3 only; a client certificate is required; no sessions are resumed.
#[derive(Debug)]
pub struct ServerTls {
    pairs: Vec<PairSource>,
    clients: PemSource,
    files: WatchedFiles,
    current: ArcSwap<Loaded>,
}

impl ServerTls {
    /// Loads certificate pairs and the bundle of authorities that sign clients.
    ///
    /// # Errors
    ///
    /// When there is no pair, something cannot be read, a certificate is not for servers, or a key
    /// does not belong to its certificate.
    pub fn new(pairs: Vec<PairSource>, clients: PemSource) -> Result<Self, TlsError> {
        let paths = pairs.iter().flat_map(PairSource::paths);
        let files = WatchedFiles::new(paths.chain(clients.path()));
        let loaded = Loaded::load(&pairs, &clients)?;
        Ok(Self {
            pairs,
            clients,
            files,
            current: ArcSwap::from_pointee(loaded),
        })
    }

    /// The configuration for new connections as of now.
    pub fn config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.current.load().first)
    }

    /// The configuration for new connections that came in at this address of ours.
    ///
    /// A client that connects to an address sends no name; it gets the first certificate that names
    /// the address, if there is one.
    pub fn config_for(&self, local: IpAddr) -> Arc<ServerConfig> {
        self.current.load().config_for(local)
    }

    /// Reads everything again. Connections that exist are not touched.
    ///
    /// # Errors
    ///
    /// When something cannot be used; then all stays as it was.
    pub fn reload(&self) -> Result<(), TlsError> {
        let loaded = Loaded::load(&self.pairs, &self.clients)?;
        self.current.store(Arc::new(loaded));
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

/// What was loaded together.
#[derive(Debug)]
struct Loaded {
    pairs: Arc<[Arc<CertifiedKey>]>,
    first: Arc<ServerConfig>,
    /// For each pair after the first, the configuration that prefers it.
    others: Vec<Arc<ServerConfig>>,
}

impl Loaded {
    fn load(pairs: &[PairSource], clients: &PemSource) -> Result<Self, TlsError> {
        let provider = provider();
        let pairs = pairs
            .iter()
            .map(|pair| pair.load(Role::Server, &provider).map(Arc::new))
            .collect::<Result<Arc<[_]>, _>>()?;
        let first = pairs.first().ok_or(TlsError::NoPairs)?;

        let roots = Arc::new(load_bundle(clients)?);
        let verifier = WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(&provider))
            .build()
            .map_err(|source| TlsError::Verifier {
                origin: clients.origin(),
                source,
            })?;
        let configure = |preferred: &Arc<CertifiedKey>| -> Result<_, TlsError> {
            let chooser = Chooser {
                pairs: Arc::clone(&pairs),
                preferred: Arc::clone(preferred),
            };
            let mut config = ServerConfig::builder_with_provider(Arc::clone(&provider))
                .with_protocol_versions(&[&rustls::version::TLS13])
                .map_err(TlsError::Setup)?
                .with_client_cert_verifier(Arc::clone(&verifier))
                .with_cert_resolver(Arc::new(chooser));
            config.alpn_protocols = vec![ALPN_HTTP2.to_vec()];
            config.send_tls13_tickets = 0;
            config.session_storage = Arc::new(NoServerSessionStorage {});
            config.max_early_data_size = 0;
            // For the records after the handshake (`TlsStream`).
            config.enable_secret_extraction = true;
            Ok(Arc::new(config))
        };
        Ok(Self {
            first: configure(first)?,
            others: pairs
                .iter()
                .skip(1)
                .map(configure)
                .collect::<Result<_, _>>()?,
            pairs,
        })
    }

    fn config_for(&self, local: IpAddr) -> Arc<ServerConfig> {
        let name = ServerName::from(local.to_canonical());
        let position = self.pairs.iter().position(|pair| names(pair, &name));
        let other = position
            .and_then(|position| position.checked_sub(1))
            .and_then(|position| self.others.get(position));
        Arc::clone(other.unwrap_or(&self.first))
    }
}

/// Chooses the certificate for a connection.
#[derive(Debug)]
struct Chooser {
    pairs: Arc<[Arc<CertifiedKey>]>,
    /// For connections without a name.
    preferred: Arc<CertifiedKey>,
}

impl ResolvesServerCert for Chooser {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let chosen = match hello.server_name() {
            None => Some(&self.preferred),
            Some(name) => self
                .named(name, &hello)
                // The client will see which names there are, instead of a bare alert.
                .or_else(|| self.pairs.first()),
        };
        chosen.map(Arc::clone)
    }
}

impl Chooser {
    /// The first pair with that name, and of those one whose signature the client understands.
    fn named(&self, name: &str, hello: &ClientHello<'_>) -> Option<&Arc<CertifiedKey>> {
        if self.pairs.len() == 1 {
            return None;
        }
        let name = ServerName::from(DnsName::try_from(name).ok()?);
        let mut named = self.pairs.iter().filter(|pair| names(pair, &name));
        let first = named.clone().next();
        let understood =
            |pair: &&Arc<CertifiedKey>| pair.key.choose_scheme(hello.signature_schemes()).is_some();
        named.find(understood).or(first)
    }
}

/// Whether the certificate is good for the name, wildcards included.
fn names(pair: &CertifiedKey, name: &ServerName<'_>) -> bool {
    pair.end_entity_cert()
        .and_then(ParsedCertificate::try_from)
        .and_then(|certificate| verify_server_name(&certificate, name))
        .is_ok()
}
