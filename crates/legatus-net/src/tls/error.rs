//! What can go wrong with certificates and handshakes.

use std::io;

use super::{IdentityError, Role, source::Origin};

/// Why TLS could not be set up, or a handshake failed. [`super::explain()`] tells more of the latter.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// A certificate cannot be used.
    #[error("certificate {number} in {origin} cannot be used")]
    Certificate {
        /// Where it is.
        origin: Origin,
        /// Which one, from 1.
        number: usize,
        /// What is wrong with it.
        source: rustls::Error,
    },
    /// The other side closed the connection before the handshake was over.
    #[error("the connection was closed during the TLS handshake")]
    ClosedDuringHandshake,
    /// The private key is encrypted.
    #[error("the private key in {0} is encrypted")]
    EncryptedKey(Origin),
    /// The handshake failed.
    #[error("the TLS handshake failed")]
    Handshake(#[source] io::Error),
    /// The client is verified, but its certificate holds no usable identity.
    #[error("the client's certificate gives it no identity")]
    Identity(#[from] IdentityError),
    /// What should be a private key cannot be used as one.
    #[error("the private key in {origin} cannot be used")]
    Key {
        /// Where it is.
        origin: Origin,
        /// What is wrong with it.
        source: rustls::Error,
    },
    /// Key and certificate do not belong together.
    #[error("the private key in {key} does not belong to the first certificate in {chain}")]
    KeyMismatch {
        /// Where the certificate is.
        chain: Origin,
        /// Where the key is.
        key: Origin,
    },
    /// There is no certificate where one should be.
    #[error("there is no PEM certificate in {0}")]
    NoCertificate(Origin),
    /// The other side did not agree to HTTP/2.
    #[error("the other side speaks TLS but did not agree to HTTP/2")]
    NoHttp2,
    /// There is no private key where one should be.
    #[error("there is no PEM private key in {0}")]
    NoKey(Origin),
    /// A server needs a certificate.
    #[error("a server needs at least one certificate and its key")]
    NoPairs,
    /// PEM that is damaged.
    #[error("{origin} is not well-formed PEM: {reason}")]
    Pem {
        /// Where it is.
        origin: Origin,
        /// What is wrong with it.
        reason: String,
    },
    /// A file could not be read.
    #[error("cannot read {origin}")]
    Read {
        /// Which one.
        origin: Origin,
        /// Why not.
        source: io::Error,
    },
    /// Neither a DNS name nor an IP address.
    #[error("`{}` is neither a DNS name nor an IP address", .0.escape_debug())]
    ServerName(String),
    /// The TLS library does not accept the settings.
    #[error("cannot set up TLS")]
    Setup(#[source] rustls::Error),
    /// The system's trusted authorities cannot be read.
    #[error("the system's trusted certificate authorities cannot be read: {0}")]
    SystemRoots(String),
    /// The verification of client certificates cannot be set up.
    #[error("cannot verify client certificates by {origin}")]
    Verifier {
        /// The authorities.
        origin: Origin,
        /// Why not.
        source: rustls::server::VerifierBuilderError,
    },
    /// A certificate is not for the side that should show it.
    #[error(
        "the certificate in {origin} is {found} certificate for `{}`, not a {needed}'s",
        name.escape_debug()
    )]
    WrongRole {
        /// Where it is.
        origin: Origin,
        /// Whose it is: `a client's`, `a server's` or `another kind of`.
        found: &'static str,
        /// The name in it.
        name: String,
        /// The side that should show it.
        needed: Role,
    },
}

impl TlsError {
    /// What the user could do next, if anything is known.
    pub fn hint(&self) -> Option<&'static str> {
        Some(match self {
            Self::EncryptedKey(_) => {
                "decrypt it (openssl pkey -in OLD -out NEW) and protect it by its file mode"
            }
            Self::KeyMismatch { .. } => {
                "the chain begins with the certificate of the key itself, authorities come after it"
            }
            Self::NoCertificate(_) | Self::NoKey(_) | Self::Pem { .. } => {
                "`legatus pki show FILE` tells what a file holds"
            }
            Self::NoPairs => "make them with `legatus pki quickstart`, then use --cert and --key",
            Self::SystemRoots(_) => "install the package ca-certificates, or use --ca FILE",
            Self::WrongRole {
                needed: Role::Server,
                ..
            } => {
                "make a server's with `legatus pki issue --server NAME`, then use --cert and --key"
            }
            Self::WrongRole {
                needed: Role::Client,
                ..
            } => {
                "make a client's with `legatus pki issue --client NAME`, then use --cert and --key"
            }
            _ => return None,
        })
    }
}
