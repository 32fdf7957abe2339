//! What can go wrong while certificates are made or read.

use std::{io, path::PathBuf};

use super::InvalidSubject;

/// Why a certificate could not be made, signed or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PkiError {
    /// The authority's certificate and key do not belong together.
    #[error("the certificate authority's key does not belong to its certificate")]
    AuthorityKeyMismatch,
    /// The certificate that should sign is not an authority's.
    #[error("the certificate of the authority cannot be used: {reason}")]
    AuthorityUnusable {
        /// What is wrong with it.
        reason: String,
    },
    /// A client's name cannot be an identity.
    #[error("`{}` cannot be a client's name: {reason}", name.escape_debug())]
    ClientName {
        /// The name as given.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The subject names another identity than the client's.
    #[error("the subject's CN is `{common_name}`, but this client's identity is its CN `{name}`")]
    CommonNameConflict {
        /// The CN of the subject.
        common_name: String,
        /// The client's name.
        name: String,
    },
    /// The folder holds no certificate authority.
    #[error("there is no certificate authority in `{}`", .0.display())]
    NoAuthority(PathBuf),
    /// A target exists and may not be replaced.
    #[error("`{}` exists already", .0.display())]
    Exists(PathBuf),
    /// A target exists and is a certificate of another role, which force does not replace either:
    /// its bearer would be left with neither certificate nor key.
    #[error(
        "`{}` exists already: a certificate with the role `{existing}`, not `{wanted}`",
        path.display()
    )]
    OtherRole {
        /// The target.
        path: PathBuf,
        /// The role that it has: `authority`, `client` or `server`.
        existing: &'static str,
        /// The role of the certificate to be written.
        wanted: &'static str,
    },
    /// Two of the files to be written would have the same name.
    #[error("`{}` would be written twice: the names must differ", .0.display())]
    SameFile(PathBuf),
    /// No random key or serial number could be made.
    #[error("cannot generate a key")]
    Generate(#[source] rcgen::Error),
    /// The private key of the authority cannot be read.
    #[error("cannot use the certificate authority's key: {reason}")]
    Key {
        /// What is wrong with it.
        reason: String,
    },
    /// What should be PEM is not.
    #[error("no PEM block found: expected a line like `-----BEGIN CERTIFICATE-----`")]
    NotPem,
    /// A PEM block holds something else than its label says.
    #[error("the {what} in the PEM block cannot be read: {reason}")]
    Malformed {
        /// What the label promised.
        what: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// No random bytes could be had.
    #[error("the system gave no random bytes: {0}")]
    Random(getrandom::Error),
    /// A file could not be read.
    #[error("cannot read `{}`", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The request's signature does not fit the public key in it.
    #[error("the certificate request is not signed by the key it names")]
    RequestSignature,
    /// A name cannot be a server's.
    #[error("`{}` is not a server's name: neither a DNS name nor an IP address", .0.escape_debug())]
    ServerName(String),
    /// The certificate could not be signed.
    #[error("cannot sign the certificate of `{name}`")]
    Sign {
        /// Whose certificate.
        name: String,
        /// Why not.
        source: rcgen::Error,
    },
    /// The subject cannot be used.
    #[error("the subject cannot be used")]
    Subject(#[from] InvalidSubject),
    /// The times do not make a validity.
    #[error("the validity of `{name}` cannot be used: {reason}")]
    Validity {
        /// Whose certificate.
        name: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A file could not be written.
    #[error("cannot write `{}`", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

impl PkiError {
    /// What the user could do next, if anything is known.
    pub fn hint(&self) -> Option<&'static str> {
        Some(match self {
            Self::Exists(_) => {
                "use --force to replace it, or choose another name or folder (`pki issue --out DIR`)"
            }
            Self::OtherRole { .. } => {
                "--force does not replace it; choose another name or folder (`pki issue --out DIR`)"
            }
            Self::NoAuthority(_) => "make one first: legatus pki init --dir DIR",
            Self::ServerName(_) => {
                "use the name or address that clients will connect to, like web1.example.com or 10.0.0.1"
            }
            Self::CommonNameConflict { .. } => "leave CN out of the subject",
            Self::AuthorityKeyMismatch => "ca.crt and ca.key must come from the same `pki init`",
            Self::RequestSignature => "ask for a new request, made with the key itself",
            _ => return None,
        })
    }
}
