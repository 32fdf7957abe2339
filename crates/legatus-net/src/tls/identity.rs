//! The identity in a verified certificate.

use legatus_core::Peer;
use rustls_pki_types::CertificateDer;
use x509_parser::{certificate::X509Certificate, extensions::GeneralName, prelude::FromDer};

/// The longest identity, in bytes: what a DNS name may have (RFC 1035 section 2.3.4), and what a
/// line of a log or of a policy can bear.
pub const MAX_IDENTITY: usize = 255;

/// The peer that presented these certificates: the URI SAN of the first, else its first DNS SAN,
/// else its common name.
///
/// Only for certificates that the handshake verified.
///
/// # Errors
///
/// When there is no certificate, no name in it, or one that cannot be an identity.
pub fn peer_from_certificates(certificates: &[CertificateDer<'_>]) -> Result<Peer, IdentityError> {
    let leaf = certificates.first().ok_or(IdentityError::NoCertificate)?;
    let (_, leaf) =
        X509Certificate::from_der(leaf.as_ref()).map_err(|_| IdentityError::Malformed)?;
    identity_of(&leaf).map(Peer::assert_verified)
}

/// The identity that a certificate gives to its bearer.
pub(crate) fn identity_of(certificate: &X509Certificate<'_>) -> Result<String, IdentityError> {
    let extension = certificate
        .subject_alternative_name()
        .map_err(|_| IdentityError::Malformed)?;
    let names = extension.map_or(&[] as &[_], |extension| &extension.value.general_names);
    if names
        .iter()
        .any(|name| matches!(name, GeneralName::Invalid(..)))
    {
        return Err(IdentityError::Malformed);
    }
    let uri = names.iter().find_map(|name| match name {
        GeneralName::URI(uri) => Some(*uri),
        _ => None,
    });
    let dns = || {
        names.iter().find_map(|name| match name {
            GeneralName::DNSName(dns) => Some(*dns),
            _ => None,
        })
    };
    let identity = match uri.or_else(dns) {
        Some(identity) => identity,
        None => certificate
            .subject()
            .iter_common_name()
            .next()
            .ok_or(IdentityError::NoName)?
            .as_str()
            .map_err(|_| IdentityError::Malformed)?,
    };
    check_identity(identity)?;
    Ok(identity.to_owned())
}

/// Whether a name can be an identity: it ends up in logs, policies and on terminals.
pub(crate) fn check_identity(name: &str) -> Result<(), IdentityError> {
    if name.is_empty() {
        return Err(IdentityError::Empty);
    }
    if name.len() > MAX_IDENTITY {
        return Err(IdentityError::TooLong(name.len()));
    }
    if name.chars().any(char::is_control) {
        return Err(IdentityError::ControlCharacter);
    }
    Ok(())
}

/// Why a certificate yields no identity.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IdentityError {
    /// The name has control characters, which could forge lines of a log.
    #[error("the name has control characters")]
    ControlCharacter,
    /// The name is empty.
    #[error("the name is empty")]
    Empty,
    /// The certificate or its names cannot be read.
    #[error("the certificate's names cannot be read")]
    Malformed,
    /// There is no certificate at all.
    #[error("there is no certificate")]
    NoCertificate,
    /// The certificate names nobody.
    #[error("the certificate has no URI, DNS or common name")]
    NoName,
    /// The name is too long.
    #[error("the name has {0} bytes, more than {MAX_IDENTITY}")]
    TooLong(usize),
}
