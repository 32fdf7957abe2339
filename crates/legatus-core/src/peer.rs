//! Who is at the other end.

use std::fmt;

/// An authenticated identity. Only certificate verification can vouch for one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Peer {
    identity: String,
}

impl Peer {
    /// Vouches that certificate verification yielded this identity.
    ///
    /// One search for this name shows every place that vouches for an identity: the TLS layer,
    /// the child process that acts for a server which verified it, and test kits.
    pub fn assert_verified(identity: impl Into<String>) -> Self {
        Self {
            identity: identity.into(),
        }
    }

    /// The identity: the certificate's URI SAN, else its first DNS SAN, else its common name.
    pub fn identity(&self) -> &str {
        &self.identity
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.identity)
    }
}
