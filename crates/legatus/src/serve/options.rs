//! What a server is told: flags beat `/etc/legatus/server.toml` beats the environment, which may be
//! meant for this user's client.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::Args;
use legatus_core::{DEFAULT_PORT, Fault, Settings as ModuleSettings};
use legatus_net::ServerLimits;
use legatus_net::tls::PairSource;
use serde::Deserialize;

use super::users::UserRule;
use crate::cli::Globals;
use crate::config;
use crate::environment::{CA, CERT, Environment, KEY};
use crate::external::{ModuleFlags, ModulesTable};
use crate::logging::Format;

/// Where a server's configuration is, unless told otherwise.
const DEFAULT_FILE: &str = "/etc/legatus/server.toml";

/// Flags of `legatus serve`, beside the global ones.
#[derive(Args, Debug, Default)]
pub struct ServeArguments {
    /// Address and port to listen on; may be given more than once [default: 0.0.0.0:49022]
    #[arg(long, value_name = "ADDR:PORT")]
    listen: Vec<String>,
    /// Who may call what (TOML); without it every client certificate of the CA may call everything
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
    /// The user whose rights calls get; needed when started by root
    #[arg(long, value_name = "USER")]
    run_as: Option<String>,
    /// Where the audit is kept [default: /var/lib/legatus, or below the home folder]
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// How it is logged
    #[arg(long, value_name = "FORMAT", value_enum)]
    log_format: Option<Format>,
    #[command(flatten)]
    limits: LimitArguments,
}

/// Flags of a server's limits; the configuration has the same names below `[limits]`.
#[derive(Args, Clone, Copy, Debug, Default, Deserialize)]
#[command(next_help_heading = "Limits")]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
struct LimitArguments {
    /// Connections whose client has not shown its certificate yet
    #[arg(long, value_name = "N")]
    max_handshakes: Option<usize>,
    /// Those of one address
    #[arg(long, value_name = "N")]
    max_handshakes_per_address: Option<usize>,
    /// Connections of all identities together
    #[arg(long, value_name = "N")]
    max_connections: Option<usize>,
    /// Connections of one identity
    #[arg(long, value_name = "N")]
    max_connections_per_identity: Option<usize>,
    /// Calls at the same time on one connection
    #[arg(long, value_name = "N")]
    max_calls_per_connection: Option<usize>,
    /// Calls at the same time of one identity
    #[arg(long, value_name = "N")]
    max_calls_per_identity: Option<usize>,
    /// Sessions of one identity that run on without a client
    #[arg(long, value_name = "N")]
    max_sessions_per_identity: Option<usize>,
    /// MiB of output that a session may put on disk when its client is away [default: 0]
    #[arg(long, value_name = "MIB")]
    session_spill: Option<u64>,
    /// Seconds for TLS and the beginning of HTTP/2
    #[arg(long, value_name = "SECONDS")]
    handshake_timeout: Option<u64>,
    /// Seconds after which a connection without calls is closed
    #[arg(long, value_name = "SECONDS")]
    idle_timeout: Option<u64>,
    /// Seconds that running calls get when the server drains
    #[arg(long, value_name = "SECONDS")]
    drain_timeout: Option<u64>,
}

/// The configuration's file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
struct File {
    listen: Vec<String>,
    identity: Vec<FilePair>,
    ca: Option<PathBuf>,
    policy: Option<PathBuf>,
    run_as: Option<String>,
    state_dir: Option<PathBuf>,
    log_level: Option<String>,
    log_format: Option<Format>,
    limits: LimitArguments,
    user: Vec<UserRule>,
    accept_env: Option<Vec<String>>,
    modules: ModulesTable,
    /// What modules are told, by their names.
    settings: BTreeMap<String, toml::Table>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct FilePair {
    cert: PathBuf,
    key: PathBuf,
}

/// What a server was told, complete.
#[derive(Debug)]
pub(super) struct Settings {
    pub(super) listen: Vec<String>,
    pub(super) pairs: Vec<PairSource>,
    pub(super) ca: PathBuf,
    pub(super) policy: Option<PathBuf>,
    pub(super) run_as: Option<String>,
    /// As whom the calls of which identities run.
    pub(super) users: Vec<UserRule>,
    /// The variables that callers may set; `None`: any.
    pub(super) accept_env: Option<Vec<String>>,
    pub(super) state_dir: PathBuf,
    pub(super) log_level: Option<String>,
    pub(super) log_format: Format,
    pub(super) limits: ServerLimits,
    /// Bytes of output that each session may put on disk.
    pub(super) session_spill: u64,
    pub(super) module_flags: ModuleFlags,
    pub(super) modules: ModulesTable,
    /// What modules are told, by their names.
    pub(super) module_settings: BTreeMap<String, ModuleSettings>,
}

impl Settings {
    /// Puts flags and file together.
    pub(super) fn gather(
        flags: ServeArguments,
        globals: &Globals,
        environment: &Environment,
    ) -> Result<Self> {
        let file = read_file(globals.config.as_deref())?;
        let variable = |variable| environment.value(variable).map(PathBuf::from);
        let pairs = if !(globals.cert.is_empty() && globals.key.is_empty()) {
            pairs(&globals.cert, &globals.key)?
        } else if !file.identity.is_empty() {
            let pair = |pair: FilePair| PairSource::files(pair.cert, pair.key);
            file.identity.into_iter().map(pair).collect()
        } else {
            let of = |name| Vec::from_iter(variable(name));
            pairs(&of(CERT), &of(KEY))?
        };
        if pairs.is_empty() {
            bail!(Fault::new("a server needs a certificate: --cert FILE --key FILE").with_hint(
                "`legatus pki quickstart --dir pki --server NAME --client YOU` makes a CA and both \
                 certificates",
            ));
        }
        let Some(ca) = globals.ca.clone().or(file.ca).or_else(|| variable(CA)) else {
            bail!(
                Fault::new("a server needs the CA of its clients: --ca FILE")
                    .with_hint("it is the `ca.crt` that `legatus pki init` made")
            );
        };
        let limits = flags.limits.or(file.limits);
        let listen = [flags.listen, file.listen]
            .into_iter()
            .find(|addresses| !addresses.is_empty());
        Ok(Self {
            listen: listen.unwrap_or_else(|| vec![format!("0.0.0.0:{DEFAULT_PORT}")]),
            pairs,
            ca,
            policy: flags.policy.or(file.policy),
            run_as: flags.run_as.or(file.run_as),
            users: file.user,
            accept_env: file.accept_env,
            state_dir: flags
                .state_dir
                .or(file.state_dir)
                .map_or_else(default_state, Ok)?,
            log_level: globals.log_level.clone().or(file.log_level),
            log_format: flags.log_format.or(file.log_format).unwrap_or_default(),
            limits: limits.over(ServerLimits::default()),
            session_spill: limits.session_spill.unwrap_or(0).saturating_mul(1 << 20),
            module_flags: globals.modules.clone(),
            modules: file.modules,
            module_settings: module_settings(file.settings)?,
        })
    }
}

impl LimitArguments {
    /// These, and where they say nothing, those.
    fn or(self, other: Self) -> Self {
        Self {
            max_handshakes: self.max_handshakes.or(other.max_handshakes),
            max_handshakes_per_address: self
                .max_handshakes_per_address
                .or(other.max_handshakes_per_address),
            max_connections: self.max_connections.or(other.max_connections),
            max_connections_per_identity: self
                .max_connections_per_identity
                .or(other.max_connections_per_identity),
            max_calls_per_connection: self
                .max_calls_per_connection
                .or(other.max_calls_per_connection),
            max_calls_per_identity: self.max_calls_per_identity.or(other.max_calls_per_identity),
            max_sessions_per_identity: self
                .max_sessions_per_identity
                .or(other.max_sessions_per_identity),
            session_spill: self.session_spill.or(other.session_spill),
            handshake_timeout: self.handshake_timeout.or(other.handshake_timeout),
            idle_timeout: self.idle_timeout.or(other.idle_timeout),
            drain_timeout: self.drain_timeout.or(other.drain_timeout),
        }
    }

    fn over(self, base: ServerLimits) -> ServerLimits {
        let seconds = |given: Option<u64>, base| given.map_or(base, Duration::from_secs);
        ServerLimits {
            handshakes: self.max_handshakes.unwrap_or(base.handshakes),
            handshakes_per_address: self
                .max_handshakes_per_address
                .unwrap_or(base.handshakes_per_address),
            connections: self.max_connections.unwrap_or(base.connections),
            connections_per_identity: self
                .max_connections_per_identity
                .unwrap_or(base.connections_per_identity),
            calls_per_connection: self
                .max_calls_per_connection
                .unwrap_or(base.calls_per_connection),
            calls_per_identity: self
                .max_calls_per_identity
                .unwrap_or(base.calls_per_identity),
            sessions_per_identity: self
                .max_sessions_per_identity
                .unwrap_or(base.sessions_per_identity),
            handshake: seconds(self.handshake_timeout, base.handshake),
            idle: seconds(self.idle_timeout, base.idle),
            drain: seconds(self.drain_timeout, base.drain),
        }
    }
}

/// Tables of the configuration as modules are told them: texts, numbers and lists of them, by names
/// that tell the tables within a table, too.
fn module_settings(
    tables: BTreeMap<String, toml::Table>,
) -> Result<BTreeMap<String, ModuleSettings>> {
    let settings = tables.into_iter().map(|(module, table)| {
        let settings = flatten(ModuleSettings::new(), "", table)
            .with_context(|| format!("[settings.{module}] makes no sense"))?;
        Ok((module, settings))
    });
    settings.collect()
}

fn flatten(
    mut settings: ModuleSettings,
    prefix: &str,
    table: toml::Table,
) -> Result<ModuleSettings> {
    for (name, value) in table {
        let name = format!("{prefix}{name}");
        settings = match value {
            toml::Value::Table(table) => flatten(settings, &format!("{name}."), table)?,
            toml::Value::Array(values) => {
                let values = values.into_iter().map(|value| text(&name, value));
                settings.with(name.clone(), values.collect::<Result<Vec<_>>>()?)
            }
            value => {
                let value = text(&name, value)?;
                settings.with(name, [value])
            }
        };
    }
    Ok(settings)
}

fn text(name: &str, value: toml::Value) -> Result<String> {
    match value {
        toml::Value::String(text) => Ok(text),
        toml::Value::Integer(number) => Ok(number.to_string()),
        toml::Value::Boolean(value) => Ok(value.to_string()),
        other => bail!("`{name}` cannot be {}", other.type_str()),
    }
}

/// The configuration; a missing default file is an empty one.
fn read_file(given: Option<&Path>) -> Result<File> {
    let path = given.unwrap_or_else(|| Path::new(DEFAULT_FILE));
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(config::parse_document(path, &text)?),
        Err(error) if given.is_none() && error.kind() == std::io::ErrorKind::NotFound => {
            Ok(File::default())
        }
        Err(error) => {
            Err(anyhow::Error::new(error).context(format!("cannot read `{}`", path.display())))
        }
    }
}

fn pairs(certificates: &[PathBuf], keys: &[PathBuf]) -> Result<Vec<PairSource>> {
    if certificates.len() != keys.len() {
        bail!(
            "{} --cert and {} --key do not make pairs",
            certificates.len(),
            keys.len()
        );
    }
    let pairs = certificates.iter().zip(keys);
    Ok(pairs
        .map(|(chain, key)| PairSource::files(chain, key))
        .collect())
}

/// `/var/lib/legatus` for root, else below `$XDG_STATE_HOME` (XDG Base Directory Specification).
fn default_state() -> Result<PathBuf> {
    if rustix::process::geteuid().is_root() {
        return Ok(PathBuf::from("/var/lib/legatus"));
    }
    let state = std::env::var_os("XDG_STATE_HOME").map(PathBuf::from);
    let home = || std::env::var_os("HOME").map(|home| Path::new(&home).join(".local/state"));
    match state.filter(|path| path.is_absolute()).or_else(home) {
        Some(folder) => Ok(folder.join("legatus")),
        None => bail!("no HOME, so that there is no default for --state-dir"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_takes_its_certificate_from_the_environment_unless_it_is_told_another() {
        let environment = Environment::fixed([(CERT, "e.crt"), (KEY, "e.key"), (CA, "ca.crt")]);
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("server.toml");
        std::fs::write(&file, "").unwrap();
        let mut globals = Globals {
            config: Some(file.clone()),
            ..Globals::default()
        };
        let told = |globals: &Globals| {
            let flags = ServeArguments::default();
            let settings = Settings::gather(flags, globals, &environment).unwrap();
            format!("{:?} {:?}", settings.pairs, settings.ca)
        };
        let from_environment = told(&globals);
        assert!(from_environment.contains("e.crt"), "{from_environment}");
        assert!(from_environment.contains("ca.crt"), "{from_environment}");
        let identity = "[[identity]]\ncert = \"f.crt\"\nkey = \"f.key\"\n";
        std::fs::write(&file, identity).unwrap();
        assert!(told(&globals).contains("f.crt"));
        (globals.cert, globals.key) = (vec!["g.crt".into()], vec!["g.key".into()]);
        assert!(told(&globals).contains("g.crt"));
    }
}
