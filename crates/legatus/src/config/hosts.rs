//! From a host as the user types it to one that can be connected to.

use std::time::Duration;

use legatus_core::{DEFAULT_PORT, Host};

use super::file::HostTable;
use super::{ConfigError, Configuration, IdentityFiles};

/// The host that is no host: a server inside this program.
const EMBEDDED: &str = "local";

/// A host that can be connected to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResolvedHost {
    /// The host as the user typed it, for messages.
    pub name: String,
    /// What to connect to.
    pub endpoint: Endpoint,
    /// How long connecting may take, the TLS handshake included.
    pub connect_timeout: Duration,
    /// The host through which it is reached, if not directly.
    pub via: Option<Box<Self>>,
}

/// What to connect to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// A server that is started inside this program for the one call (`local`).
    Embedded,
    /// A server somewhere.
    Remote(RemoteHost),
}

/// A server somewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteHost {
    /// A DNS name or an IP address (v6 without brackets).
    pub address: String,
    /// The TCP port.
    pub port: u16,
    /// The DNS name or IP address that the server's certificate must have.
    pub server_name: String,
    /// Who the user is there, and whom to trust.
    pub identity: IdentityFiles,
}

impl Configuration {
    /// Looks a host up: its address, the name to verify, and the identity to show there.
    ///
    /// # Errors
    /// When its configuration makes no sense, or files of the identity are missing.
    pub fn resolve(&self, host: &Host) -> Result<ResolvedHost, ConfigError> {
        Ok(ResolvedHost {
            name: host.to_string(),
            endpoint: self.endpoint(host)?,
            connect_timeout: self.connect_timeout(),
            via: None,
        })
    }

    /// The address and the port of a host, without looking for an identity.
    ///
    /// # Errors
    /// When its configuration makes no sense.
    pub fn address(&self, host: &Host) -> Result<(String, u16), ConfigError> {
        let address = match self.file.hosts.get(&host.name) {
            Some(table) => self.address_in(table, host)?,
            None => host.clone(),
        };
        let port = host.port.or(address.port).unwrap_or(DEFAULT_PORT);
        Ok((address.name, port))
    }

    fn address_in(&self, table: &HostTable, host: &Host) -> Result<Host, ConfigError> {
        match &table.address {
            Some(address) => address
                .parse()
                .map_err(|error: legatus_core::InvalidHost| self.invalid(host, &error)),
            None => Ok(host.clone()),
        }
    }

    fn endpoint(&self, host: &Host) -> Result<Endpoint, ConfigError> {
        if host.name == EMBEDDED {
            return match host.port {
                None => Ok(Endpoint::Embedded),
                Some(_) => Err(ConfigError::LocalPort),
            };
        }
        let unknown = HostTable::default();
        let table = self.file.hosts.get(&host.name).unwrap_or(&unknown);
        let (name, port) = self.address(host)?;
        let server_name = table.server_name.clone();
        Ok(Endpoint::Remote(RemoteHost {
            server_name: server_name.unwrap_or_else(|| name.clone()),
            address: name,
            port,
            identity: self.identity(table)?,
        }))
    }

    fn invalid(&self, host: &Host, error: &legatus_core::InvalidHost) -> ConfigError {
        ConfigError::InvalidHost {
            path: self.file.path.clone(),
            host: host.name.clone(),
            message: error.to_string(),
        }
    }
}
