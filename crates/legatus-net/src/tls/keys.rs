//! The keys of a connection, one after the other.

use rustls::client::ClientConnectionData;
use rustls::kernel::KernelConnection;
use rustls::server::ServerConnectionData;
use rustls::{Error, SupportedCipherSuite, Tls13CipherSuite};

use super::provider;
use super::record::{Opener, Sealer};

/// What gives new keys when one side asks for them (RFC 8446, 4.6.3).
pub(super) enum KeySchedule {
    Client(KernelConnection<ClientConnectionData>),
    Server(KernelConnection<ServerConnectionData>),
}

impl KeySchedule {
    /// What the handshake agreed on.
    pub(super) fn suite(&self) -> Result<&'static Tls13CipherSuite, Error> {
        let suite = match self {
            Self::Client(connection) => connection.negotiated_cipher_suite(),
            Self::Server(connection) => connection.negotiated_cipher_suite(),
        };
        match suite {
            SupportedCipherSuite::Tls13(suite) => Ok(provider::for_records(suite)),
            // Not reached: our configurations allow TLS 1.3 alone.
            #[allow(
                unreachable_patterns,
                clippy::allow_attributes,
                reason = "rustls may know others"
            )]
            _ => Err(Error::General(
                "a cipher suite that is not of TLS 1.3".into(),
            )),
        }
    }

    pub(super) fn next_opener(&mut self) -> Result<Opener, Error> {
        let suite = self.suite()?;
        let secrets = match self {
            Self::Client(connection) => connection.update_rx_secret(),
            Self::Server(connection) => connection.update_rx_secret(),
        };
        Opener::new(suite, secrets?)
    }

    pub(super) fn next_sealer(&mut self) -> Result<Sealer, Error> {
        let suite = self.suite()?;
        let secrets = match self {
            Self::Client(connection) => connection.update_tx_secret(),
            Self::Server(connection) => connection.update_tx_secret(),
        };
        Sealer::new(suite, secrets?)
    }
}
