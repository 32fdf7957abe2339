//! The configuration file.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Deserializer};

use super::{ConfigError, document};
use crate::cli;
use crate::external::ModulesTable;

/// The configuration file, `config.toml`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct File {
    /// Where it was read from.
    #[serde(skip)]
    pub(super) path: PathBuf,
    /// Who the user is, and whom to trust.
    #[serde(default)]
    pub(super) identity: IdentityTable,
    /// What holds unless flags say otherwise.
    #[serde(default)]
    pub(super) defaults: Defaults,
    /// Hosts by the names that the user gives them.
    #[serde(default)]
    pub(super) hosts: BTreeMap<String, HostTable>,
    /// External modules.
    #[serde(default)]
    pub(super) modules: ModulesTable,
}

/// Files of an identity.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct IdentityTable {
    pub(super) cert: Option<PathBuf>,
    pub(super) key: Option<PathBuf>,
    pub(super) ca: Option<PathBuf>,
    #[serde(default)]
    pub(super) system_roots: bool,
}

/// What holds unless flags say otherwise.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct Defaults {
    #[serde(default, deserialize_with = "duration")]
    pub(super) connect_timeout: Option<Duration>,
    pub(super) log_level: Option<String>,
}

/// A host.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct HostTable {
    /// `host` or `host:port`; the table's own name without it.
    pub(super) address: Option<String>,
    /// The name that the server's certificate must have; the address without it.
    pub(super) server_name: Option<String>,
    pub(super) cert: Option<PathBuf>,
    pub(super) key: Option<PathBuf>,
    pub(super) ca: Option<PathBuf>,
}

impl File {
    /// Reads a file. Relative paths in it count from its folder, `~` is `home`.
    pub(super) fn read(path: &Path, home: Option<&Path>) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
            path: path.to_owned(),
            source,
        })?;
        let mut file: Self = document::parse(path, &text)?;
        path.clone_into(&mut file.path);
        let folder = path.parent().unwrap_or_else(|| Path::new(""));
        let identity = &mut file.identity;
        let own = [&mut identity.cert, &mut identity.key, &mut identity.ca];
        let hosts = file.hosts.values_mut();
        let of_hosts = hosts.flat_map(|host| [&mut host.cert, &mut host.key, &mut host.ca]);
        for path in own
            .into_iter()
            .chain(of_hosts)
            .flatten()
            .chain(&mut file.modules.dir)
        {
            *path = absolute(path, folder, home);
        }
        Ok(file)
    }
}

fn absolute(path: &Path, folder: &Path, home: Option<&Path>) -> PathBuf {
    match (path.strip_prefix("~"), home) {
        (Ok(rest), Some(home)) => home.join(rest),
        _ => folder.join(path),
    }
}

fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "a length of time such as 90 or \"500ms\"")]
    enum Written {
        Seconds(u32),
        Text(String),
    }
    match Written::deserialize(deserializer)? {
        Written::Seconds(seconds) => Ok(Some(Duration::from_secs(seconds.into()))),
        Written::Text(text) => match cli::parse_duration(&text) {
            Ok(duration) => Ok(Some(duration)),
            Err(expected) => Err(serde::de::Error::custom(format!(
                "`{text}` is not {expected}"
            ))),
        },
    }
}
