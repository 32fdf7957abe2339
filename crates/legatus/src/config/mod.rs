//! The client's configuration: hosts, aliases and identity. A flag beats the environment, which
//! beats the file.

mod document;
mod file;
mod hosts;
mod identity;

use std::path::{Path, PathBuf};
use std::time::Duration;

use thiserror::Error;

pub use document::parse as parse_document;
pub use hosts::{Endpoint, RemoteHost, ResolvedHost};
pub use identity::IdentityFiles;

use crate::cli::Globals;
use crate::environment::{self, Environment};
use crate::external::ModulesTable;
use file::File;

/// How long connecting may take unless something else is configured: longer than TCP needs to
/// repeat a lost first packet three times (1 + 2 + 4 seconds).
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// What the user has configured, by flags, environment and file.
#[derive(Debug)]
pub struct Configuration {
    globals: Globals,
    environment: Environment,
    file: File,
    /// The user's folder for Legatus; holds the default identity.
    folder: Option<PathBuf>,
}

/// The configuration cannot be used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file says something that cannot be understood.
    #[error("{}, line {line}: {message}", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong there.
        message: String,
    },
    /// A host of the file makes no sense.
    #[error("{}, host `{host}`: {message}", path.display())]
    InvalidHost {
        /// The file.
        path: PathBuf,
        /// The host.
        host: String,
        /// What is wrong with it.
        message: String,
    },
    /// `local:PORT` was asked for.
    #[error("`local` takes no port: it is a server inside this program")]
    LocalPort,
    /// A certificate is named without its key, or the other way round.
    #[error("the {given} is given by {origin}, but not the {missing}")]
    HalfAPair {
        /// What is given.
        given: &'static str,
        /// What is not.
        missing: &'static str,
        /// Where the given one is named.
        origin: &'static str,
    },
    /// A file of the identity cannot be read.
    #[error("cannot read the {what} {}, named by {origin}", path.display())]
    Identity {
        /// What is in the file.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Where it is named.
        origin: &'static str,
        /// Why.
        source: std::io::Error,
    },
    /// Nothing says who the user is.
    #[error("no {what} is configured, and there is none at {}", path.display())]
    NoIdentity {
        /// What is missing.
        what: &'static str,
        /// Where it was looked for.
        path: PathBuf,
    },
    /// Nothing says who the user is, nor where to look.
    #[error("no {0} is configured, and no home directory is known to look for one")]
    NoHome(&'static str),
}

impl ConfigError {
    /// What the user could do next.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::NoIdentity { .. } | Self::NoHome(_) => Some(
                "`legatus pki quickstart` makes an authority and certificates; name them with \
                 --cert, --key and --ca, or in the configuration"
                    .to_owned(),
            ),
            Self::HalfAPair { missing, .. } => {
                Some(format!("name the {missing} in the same place"))
            }
            _ => None,
        }
    }
}

impl Configuration {
    /// Reads the configuration file that flags, environment or custom name. The default one may be
    /// missing.
    ///
    /// # Errors
    /// When the file cannot be read or understood.
    pub fn load(globals: &Globals, environment: &Environment) -> Result<Self, ConfigError> {
        let folder = folder(environment);
        let named = globals.config.clone();
        let named = named.or_else(|| environment.value(environment::CONFIG).map(PathBuf::from));
        let default = || folder.as_ref().map(|folder| folder.join("config.toml"));
        let home = environment.value(environment::HOME).map(PathBuf::from);
        let file = match (named, default()) {
            (Some(path), _) => File::read(&path, home.as_deref())?,
            (None, Some(path)) => match File::read(&path, home.as_deref()) {
                Err(ConfigError::Read { source, .. }) if is_absent(&source) => File::default(),
                read => read?,
            },
            (None, None) => File::default(),
        };
        Ok(Self {
            globals: globals.clone(),
            environment: environment.clone(),
            file,
            folder,
        })
    }

    /// How long connecting may take.
    pub fn connect_timeout(&self) -> Duration {
        let flag = self.globals.connect_timeout;
        flag.or(self.file.defaults.connect_timeout)
            .unwrap_or(CONNECT_TIMEOUT)
    }

    /// The table about external modules.
    pub(crate) fn modules(&self) -> &ModulesTable {
        &self.file.modules
    }

    /// What to log: a level or filter directives.
    pub fn log_level(&self) -> Option<String> {
        let variable = || self.environment.value(environment::LOG)?.into_string().ok();
        let flag = self.globals.log_level.clone();
        flag.or_else(variable)
            .or_else(|| self.file.defaults.log_level.clone())
    }
}

fn is_absent(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{NotADirectory, NotFound};
    matches!(error.kind(), NotFound | NotADirectory)
}

/// The user's folder for Legatus, by the XDG Base Directory Specification (relative paths there
/// are to be ignored).
fn folder(environment: &Environment) -> Option<PathBuf> {
    let xdg = environment
        .value(environment::XDG_CONFIG_HOME)
        .map(PathBuf::from);
    let home = || Some(Path::new(&environment.value(environment::HOME)?).join(".config"));
    let base = xdg.filter(|path| path.is_absolute()).or_else(home)?;
    Some(base.join("legatus"))
}

#[cfg(test)]
mod tests;
