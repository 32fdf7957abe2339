//! Where certificates and keys come from, and how they are read.

use std::{
    fmt,
    fs::File,
    io::{self, Read as _},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use jiff::Timestamp;
use rustls::{
    Error, InconsistentKeys, RootCertStore, crypto::CryptoProvider, server::ParsedCertificate,
    sign::CertifiedKey,
};
use rustls_pki_types::{
    CertificateDer, PrivateKeyDer,
    pem::{self, PemObject},
};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::{Role, TlsError};
use crate::pki::{Issued, days_left};

/// PEM text, in a file that may change or in memory.
#[derive(Clone)]
pub enum PemSource {
    /// A file, read again whenever it changes.
    File(PathBuf),
    /// Text that stays as it is.
    Memory(Arc<str>),
}

impl PemSource {
    /// A source in memory.
    pub fn memory(pem: &str) -> Self {
        Self::Memory(pem.into())
    }

    pub(super) fn origin(&self) -> Origin {
        match self {
            Self::File(path) => Origin(Some(path.clone())),
            Self::Memory(_) => Origin(None),
        }
    }

    pub(super) fn path(&self) -> Option<&Path> {
        match self {
            Self::File(path) => Some(path),
            Self::Memory(_) => None,
        }
    }

    fn read(&self) -> Result<Vec<u8>, TlsError> {
        let path = match self {
            Self::File(path) => path,
            Self::Memory(text) => return Ok(text.as_bytes().to_vec()),
        };
        let error = |source| TlsError::Read {
            origin: self.origin(),
            source,
        };
        let mut contents = Vec::new();
        let file = File::open(path).map_err(error)?;
        file.take(MAX_FILE + 1)
            .read_to_end(&mut contents)
            .map_err(error)?;
        if contents.len() as u64 > MAX_FILE {
            return Err(error(io::Error::from(io::ErrorKind::FileTooLarge)));
        }
        Ok(contents)
    }

    fn certificates(&self) -> Result<Vec<CertificateDer<'static>>, TlsError> {
        let contents = self.read()?;
        let certificates: Vec<_> = CertificateDer::pem_slice_iter(&contents)
            .collect::<Result<_, _>>()
            .map_err(|error| self.malformed(&error))?;
        if certificates.is_empty() {
            return Err(TlsError::NoCertificate(self.origin()));
        }
        Ok(certificates)
    }

    fn key(&self) -> Result<PrivateKeyDer<'static>, TlsError> {
        let contents = self.read()?;
        match PrivateKeyDer::from_pem_slice(&contents) {
            Ok(key) => Ok(key),
            Err(pem::Error::NoItemsFound) if is_encrypted(&contents) => {
                Err(TlsError::EncryptedKey(self.origin()))
            }
            Err(pem::Error::NoItemsFound) => Err(TlsError::NoKey(self.origin())),
            Err(error) => Err(self.malformed(&error)),
        }
    }

    fn malformed(&self, error: &pem::Error) -> TlsError {
        TlsError::Pem {
            origin: self.origin(),
            reason: error.to_string(),
        }
    }
}

impl fmt::Debug for PemSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
            // It may be a key.
            Self::Memory(_) => f.debug_tuple("Memory").finish_non_exhaustive(),
        }
    }
}

fn is_encrypted(contents: &[u8]) -> bool {
    let text = String::from_utf8_lossy(contents);
    text.contains("BEGIN ENCRYPTED PRIVATE KEY") || text.contains("Proc-Type: 4,ENCRYPTED")
}

/// Where PEM text came from, for messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin(Option<PathBuf>);

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some(path) => write!(f, "`{}`", path.display()),
            None => f.write_str("memory"),
        }
    }
}

/// A certificate chain, its own certificate first, and the private key of that.
#[derive(Clone, Debug)]
pub struct PairSource {
    /// The chain.
    pub chain: PemSource,
    /// The key: PKCS#8, PKCS#1 or SEC1.
    pub key: PemSource,
}

impl PairSource {
    /// A pair of files, which are followed.
    pub fn files(chain: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        Self {
            chain: PemSource::File(chain.into()),
            key: PemSource::File(key.into()),
        }
    }

    /// A pair in memory.
    pub fn memory(chain_pem: &str, key_pem: &str) -> Self {
        Self {
            chain: PemSource::memory(chain_pem),
            key: PemSource::memory(key_pem),
        }
    }

    pub(super) fn paths(&self) -> impl Iterator<Item = &Path> {
        [&self.chain, &self.key]
            .into_iter()
            .filter_map(PemSource::path)
    }

    /// Reads the pair and checks that it is for this role and belongs together.
    pub(super) fn load(
        &self,
        role: Role,
        provider: &CryptoProvider,
    ) -> Result<CertifiedKey, TlsError> {
        let certificates = self.chain.certificates()?;
        let certificate_error = |source| TlsError::Certificate {
            origin: self.chain.origin(),
            number: 1,
            source,
        };
        if let Some(first) = certificates.first() {
            ParsedCertificate::try_from(first).map_err(certificate_error)?;
            role.check(first, &self.chain.origin())?;
            warn_of_validity(first, &self.chain.origin());
        }
        let key = provider
            .key_provider
            .load_private_key(self.key.key()?)
            .map_err(|source| TlsError::Key {
                origin: self.key.origin(),
                source,
            })?;
        warn_if_exposed(&self.key);
        let pair = CertifiedKey::new(certificates, key);
        match pair.keys_match() {
            Ok(()) | Err(Error::InconsistentKeys(InconsistentKeys::Unknown)) => Ok(pair),
            Err(Error::InconsistentKeys(_)) => Err(TlsError::KeyMismatch {
                chain: self.chain.origin(),
                key: self.key.origin(),
            }),
            Err(source) => Err(certificate_error(source)),
        }
    }
}

impl From<&Issued> for PairSource {
    fn from(issued: &Issued) -> Self {
        Self::memory(issued.certificate_pem(), issued.key_pem())
    }
}

/// Whom to trust.
#[derive(Clone, Debug)]
pub enum RootSource {
    /// The authorities in a PEM bundle.
    Bundle(PemSource),
    /// The authorities that the operating system trusts.
    System,
    /// Both.
    BundleAndSystem(PemSource),
}

impl RootSource {
    pub(super) fn path(&self) -> Option<&Path> {
        match self {
            Self::Bundle(bundle) | Self::BundleAndSystem(bundle) => bundle.path(),
            Self::System => None,
        }
    }

    pub(super) fn load(&self) -> Result<RootCertStore, TlsError> {
        match self {
            Self::Bundle(bundle) => load_bundle(bundle),
            Self::System => load_system_roots(),
            Self::BundleAndSystem(bundle) => {
                let mut roots = load_bundle(bundle)?;
                roots.roots.extend(load_system_roots()?.roots);
                Ok(roots)
            }
        }
    }
}

pub(super) fn load_bundle(bundle: &PemSource) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for (index, certificate) in bundle.certificates()?.into_iter().enumerate() {
        roots
            .add(certificate)
            .map_err(|source| TlsError::Certificate {
                origin: bundle.origin(),
                number: index + 1,
                source,
            })?;
    }
    Ok(roots)
}

fn load_system_roots() -> Result<RootCertStore, TlsError> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    // Some systems trust certificates that no strict parser accepts; the others still count.
    let (usable, _) = roots.add_parsable_certificates(found.certs);
    if usable == 0 {
        let reason = found.errors.first();
        return Err(TlsError::SystemRoots(
            reason.map_or_else(|| "none were found".to_owned(), ToString::to_string),
        ));
    }
    Ok(roots)
}

fn warn_if_exposed(key: &PemSource) {
    let Some(path) = key.path() else { return };
    let mode = path.metadata().map_or(0, |metadata| metadata.mode());
    if mode & 0o007 != 0 {
        tracing::warn!(
            path = %path.display(),
            mode = format_args!("{:04o}", mode & 0o7777),
            "everyone on this machine may use this private key; chmod it to 0600"
        );
    }
}

fn warn_of_validity(certificate: &CertificateDer<'_>, origin: &Origin) {
    let Ok((_, certificate)) = X509Certificate::from_der(certificate.as_ref()) else {
        return;
    };
    let now = Timestamp::now().as_second();
    let validity = certificate.validity();
    let not_before = validity.not_before.timestamp();
    let not_after = validity.not_after.timestamp();
    let day = |seconds| match Timestamp::from_second(seconds) {
        Ok(moment) => moment.strftime("%Y-%m-%d %H:%M:%S UTC").to_string(),
        Err(_) => "a day beyond the calendar".to_owned(),
    };
    if now > not_after {
        let expired = day(not_after);
        tracing::warn!(certificate = %origin, %expired, "this certificate has expired; no one will accept it");
    } else if now < not_before {
        let begins = day(not_before);
        tracing::warn!(certificate = %origin, %begins, "this certificate is not valid yet");
    } else if not_after - now < RENEWAL_SECONDS {
        let days = days_left(not_after, now);
        tracing::warn!(certificate = %origin, days, "this certificate expires soon");
    }
}

/// The largest bundles in use are a few hundred KiB; what is larger is a mistake.
const MAX_FILE: u64 = 16 << 20;
/// Two weeks: time to renew before anyone is locked out.
const RENEWAL_SECONDS: i64 = 14 * 24 * 60 * 60;
