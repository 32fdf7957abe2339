//! Which side of a connection a certificate is for.

use std::fmt;

use rustls_pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::{Origin, TlsError, identity_of};

/// A side of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The side that calls.
    Client,
    /// The side that is called.
    Server,
}

impl Role {
    /// Refuses a certificate whose extended key usage does not name this role (RFC 5280 section
    /// 4.2.1.12): the other side would refuse it. Without that extension it is for any role.
    pub(super) fn check(
        self,
        certificate: &CertificateDer<'_>,
        origin: &Origin,
    ) -> Result<(), TlsError> {
        let Ok((_, certificate)) = X509Certificate::from_der(certificate.as_ref()) else {
            // rustls has read it; the rest is for the handshake to judge.
            return Ok(());
        };
        let Ok(Some(usage)) = certificate.extended_key_usage() else {
            return Ok(());
        };
        // Some verifiers take that for any role, too; rustls does not.
        if usage.value.any {
            return Ok(());
        }
        let found = match (self, usage.value.server_auth, usage.value.client_auth) {
            (Self::Server, true, _) | (Self::Client, _, true) => return Ok(()),
            (Self::Server, false, true) => "a client's",
            (Self::Client, true, false) => "a server's",
            (_, false, false) => "another kind of",
        };
        let name = identity_of(&certificate);
        Err(TlsError::WrongRole {
            origin: origin.clone(),
            found,
            name: name.unwrap_or_else(|_| certificate.subject().to_string()),
            needed: self,
        })
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Client => "client",
            Self::Server => "server",
        })
    }
}
