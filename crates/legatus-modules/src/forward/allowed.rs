//! What a server's settings let be connected to and listened on.
//!
//! ```toml
//! [settings.forward]
//! connect = ["*.example.com:80,443", "10.0.0.*:*"]   # default: everything
//! listen = ["localhost:8000-8999"]                   # default: loopback, ports from 1024 on
//! connect-unix = ["/run/docker.sock"]                # default: everything the user may
//! listen-unix = []                                   # an empty list allows nothing
//! ```

use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::path::{Component, PathBuf};

use legatus_core::{Fault, Pattern, Settings, SocketName};

use super::request::{What, shown};

/// Ports below are for root (Linux: `ip_unprivileged_port_start`), and a server may be root.
const FIRST_FREE_PORT: u16 = 1024;

/// What may be connected to and listened on.
#[derive(Debug)]
pub(super) struct Allowed {
    connect: Vec<Place>,
    listen: Vec<Place>,
    connect_unix: Vec<Pattern>,
    listen_unix: Vec<Pattern>,
}

/// A pattern of hosts, and ports.
#[derive(Debug)]
struct Place {
    host: Pattern,
    /// Whether the pattern is one of addresses. It must not match a name: `10.*` means a network,
    /// and `10.example.com` is whatever its owner likes.
    of_addresses: bool,
    ports: Vec<RangeInclusive<u16>>,
}

impl Default for Allowed {
    fn default() -> Self {
        let all = || vec![Pattern::new("*")];
        let place = |host, first| Place {
            host: Pattern::new(host),
            of_addresses: false,
            ports: vec![first..=u16::MAX],
        };
        Self {
            connect: vec![place("*", 1)],
            listen: vec![place("localhost", FIRST_FREE_PORT)],
            connect_unix: all(),
            listen_unix: all(),
        }
    }
}

impl Allowed {
    /// What settings say; where they say nothing, the defaults hold.
    pub(super) fn from_settings(settings: &Settings) -> Result<Self, Fault> {
        settings.check_names(&["connect", "listen", "connect-unix", "listen-unix"])?;
        let places = |name| match settings.list(name) {
            None => Ok(None),
            Some(list) => {
                let places = list.iter().map(|text| Place::parse(text));
                places.collect::<Result<Vec<_>, _>>().map(Some)
            }
        };
        let paths = |name| {
            let list = settings.list(name)?;
            Some(list.iter().map(|text| Pattern::new(text)).collect())
        };
        let defaults = Self::default();
        Ok(Self {
            connect: places("connect")?.unwrap_or(defaults.connect),
            listen: places("listen")?.unwrap_or(defaults.listen),
            connect_unix: paths("connect-unix").unwrap_or(defaults.connect_unix),
            listen_unix: paths("listen-unix").unwrap_or(defaults.listen_unix),
        })
    }

    /// Refuses what is not allowed.
    pub(super) fn check(&self, what: &What) -> Result<(), Fault> {
        let (is_allowed, doing, socket) = match what {
            What::Connect(socket) => (
                allows(socket, &self.connect, &self.connect_unix),
                "connect to",
                socket,
            ),
            What::Listen(socket) => (
                allows(socket, &self.listen, &self.listen_unix),
                "listen on",
                socket,
            ),
            What::Take(_) | What::Hold => return Ok(()),
        };
        if is_allowed {
            return Ok(());
        }
        let socket = shown(socket);
        Err(Fault::new(format!(
            "the server's settings do not let it {doing} {socket}"
        ))
        .with_hint("[settings.forward] in the server's configuration lists what it may"))
    }
}

fn allows(socket: &SocketName, places: &[Place], paths: &[Pattern]) -> bool {
    match socket {
        SocketName::Tcp { host, port } => places.iter().any(|place| place.matches(host, *port)),
        SocketName::Unix(path) => {
            // What can be written in two ways is not matched in either.
            let rebuilt: PathBuf = path.components().collect();
            let has_parent = path.components().any(|part| part == Component::ParentDir);
            let plain =
                path.is_absolute() && !has_parent && rebuilt.as_os_str() == path.as_os_str();
            let text = path.to_str().unwrap_or_default();
            let any = paths.iter().any(|pattern| *pattern == Pattern::new("*"));
            any || plain && paths.iter().any(|pattern| pattern.matches(text))
        }
    }
}

impl Place {
    fn parse(text: &str) -> Result<Self, Fault> {
        let invalid = || {
            Fault::new(format!("`{text}` is no place"))
                .with_hint("write HOST:PORTS, such as `*.example.com:80,8000-8999` or `[::1]:*`")
        };
        let (host, ports) = text.rsplit_once(':').ok_or_else(invalid)?;
        let bare = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'));
        if host.is_empty() || bare.is_none() && host.contains(':') {
            return Err(invalid());
        }
        let host = bare.unwrap_or(host).to_ascii_lowercase();
        let ports = if ports == "*" {
            Some(vec![0..=u16::MAX])
        } else {
            ports.split(',').map(port_range).collect()
        };
        let is_digit = |letter: char| letter.is_ascii_digit() || ".*?".contains(letter);
        Ok(Self {
            of_addresses: bare.is_some() || host != "*" && host.chars().all(is_digit),
            host: Pattern::new(&host),
            ports: ports.ok_or_else(invalid)?,
        })
    }

    fn matches(&self, host: &str, port: u16) -> bool {
        if !self.ports.iter().any(|range| range.contains(&port)) && !self.takes_any_free(port) {
            return false;
        }
        let address = host.parse::<IpAddr>().ok().map(|ip| ip.to_canonical());
        match address {
            Some(address) => {
                self.host.matches(&address.to_string())
                    || address.is_loopback() && self.host.matches("localhost")
            }
            None => !self.of_addresses && self.host.matches(&host.to_ascii_lowercase()),
        }
    }

    /// Port 0 asks to listen on a free one, which is never one of the reserved.
    fn takes_any_free(&self, port: u16) -> bool {
        let all_free = FIRST_FREE_PORT..=u16::MAX;
        port == 0
            && self
                .ports
                .iter()
                .any(|range| range.start() <= all_free.start() && range.end() == all_free.end())
    }
}

fn port_range(text: &str) -> Option<RangeInclusive<u16>> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    Some(first.trim().parse().ok()?..=last.trim().parse().ok()?)
}
