//! Who the user is: the files that flags, environment, configuration or custom name.

use std::fs;
use std::path::{Path, PathBuf};

use super::file::HostTable;
use super::{ConfigError, Configuration, is_absent};
use crate::environment::{self, Variable};

const CERTIFICATE: &str = "certificate";
const KEY: &str = "private key";
const AUTHORITIES: &str = "authorities' certificates";

/// The files of an identity; all PEM. They could be opened a moment ago.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdentityFiles {
    /// The certificate to show, with its chain.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// The authorities to trust; `None` if only those of the operating system are wanted.
    pub ca: Option<PathBuf>,
    /// Whether the authorities of the operating system are trusted as well.
    pub system_roots: bool,
}

/// The files that one source names.
struct Source {
    origin: &'static str,
    cert: Option<PathBuf>,
    key: Option<PathBuf>,
    ca: Option<PathBuf>,
}

impl Configuration {
    /// The identity to show to a host. Certificate and key are a pair, so the first source that
    /// names one of them must name both.
    pub(super) fn identity(&self, host: &HostTable) -> Result<IdentityFiles, ConfigError> {
        let sources = self.sources(host);
        let pair = sources
            .iter()
            .find(|source| source.cert.is_some() || source.key.is_some());
        let (cert, key) = match pair {
            Some(source) => (
                source.file(source.cert.as_ref(), CERTIFICATE, KEY)?,
                source.file(source.key.as_ref(), KEY, CERTIFICATE)?,
            ),
            None => (
                self.default_file("client.crt", "client certificate")?,
                self.default_file("client.key", KEY)?,
            ),
        };
        let system_roots = self.globals.system_roots || self.file.identity.system_roots;
        let ca = match sources.iter().find(|source| source.ca.is_some()) {
            Some(source) => Some(source.file(source.ca.as_ref(), AUTHORITIES, AUTHORITIES)?),
            None if system_roots => None,
            None => Some(self.default_file("ca.crt", "authority's certificate")?),
        };
        Ok(IdentityFiles {
            cert,
            key,
            ca,
            system_roots,
        })
    }

    /// All sources, the strongest first.
    fn sources(&self, host: &HostTable) -> [Source; 4] {
        let variable = |name: Variable| self.environment.value(name).map(PathBuf::from);
        let identity = &self.file.identity;
        [
            Source {
                origin: "a flag",
                cert: self.globals.cert.last().cloned(),
                key: self.globals.key.last().cloned(),
                ca: self.globals.ca.clone(),
            },
            Source {
                origin: "the environment",
                cert: variable(environment::CERT),
                key: variable(environment::KEY),
                ca: variable(environment::CA),
            },
            Source {
                origin: "the host's configuration",
                cert: host.cert.clone(),
                key: host.key.clone(),
                ca: host.ca.clone(),
            },
            Source {
                origin: "the configuration",
                cert: identity.cert.clone(),
                key: identity.key.clone(),
                ca: identity.ca.clone(),
            },
        ]
    }

    fn default_file(&self, name: &str, what: &'static str) -> Result<PathBuf, ConfigError> {
        let folder = self.folder.as_ref().ok_or(ConfigError::NoHome(what))?;
        let path = folder.join(name);
        match readable(&path) {
            Ok(()) => Ok(path),
            Err(error) if is_absent(&error) => Err(ConfigError::NoIdentity { what, path }),
            Err(source) => Err(ConfigError::Identity {
                what,
                path,
                origin: "custom",
                source,
            }),
        }
    }
}

impl Source {
    /// A file that the source must name, since it names the other half of a pair.
    fn file(
        &self,
        path: Option<&PathBuf>,
        what: &'static str,
        other: &'static str,
    ) -> Result<PathBuf, ConfigError> {
        let path = path.cloned().ok_or(ConfigError::HalfAPair {
            given: other,
            missing: what,
            origin: self.origin,
        })?;
        match readable(&path) {
            Ok(()) => Ok(path),
            Err(source) => Err(ConfigError::Identity {
                what,
                path,
                origin: self.origin,
                source,
            }),
        }
    }
}

fn readable(path: &Path) -> std::io::Result<()> {
    fs::File::open(path).map(drop)
}
