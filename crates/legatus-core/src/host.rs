//! Names of hosts and of places on them.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::net::Ipv6Addr;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::str::FromStr;

use thiserror::Error;

/// The port of the Go original, kept.
pub const DEFAULT_PORT: u16 = 49022;

/// A host as a user writes it: `name`, `name:port`, `[v6]:port`, an address, or an alias from the
/// configuration.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Host {
    /// A DNS name, an IP address (v6 without brackets), or an alias.
    pub name: String,
    /// The port, if one was written.
    pub port: Option<u16>,
}

/// A text that is no host.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("`{0}` is no host: write `name`, `name:port`, or `[v6-address]:port`{users}", users = self.users())]
pub struct InvalidHost(pub String);

impl InvalidHost {
    /// What somebody wants to know who has named a user.
    fn users(&self) -> &'static str {
        match self.0.contains('@') {
            true => "; the server says as which user calls run",
            false => "",
        }
    }
}

impl FromStr for Host {
    type Err = InvalidHost;

    fn from_str(text: &str) -> Result<Self, InvalidHost> {
        let invalid = || InvalidHost(text.to_owned());
        if let Some(rest) = text.strip_prefix('[') {
            let (address, rest) = rest.split_once(']').ok_or_else(invalid)?;
            address.parse::<Ipv6Addr>().map_err(|_| invalid())?;
            let port = match rest.strip_prefix(':') {
                Some(port) => Some(parse_port(port).ok_or_else(invalid)?),
                None if rest.is_empty() => None,
                None => return Err(invalid()),
            };
            return Ok(Self {
                name: address.to_owned(),
                port,
            });
        }
        if text.parse::<Ipv6Addr>().is_ok() {
            return Ok(Self {
                name: text.to_owned(),
                port: None,
            });
        }
        let (name, port) = match text.split_once(':') {
            Some((name, port)) => (name, Some(parse_port(port).ok_or_else(invalid)?)),
            None => (text, None),
        };
        if is_name(name) {
            Ok(Self {
                name: name.to_owned(),
                port,
            })
        } else {
            Err(invalid())
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            Some(port) if self.name.contains(':') => write!(f, "[{}]:{port}", self.name),
            Some(port) => write!(f, "{}:{port}", self.name),
            None => f.write_str(&self.name),
        }
    }
}

fn parse_port(text: &str) -> Option<u16> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|port| digits && *port != 0)
}

fn is_name(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= 253
        && !text.starts_with('-')
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
}

/// A place on the user's machine or on a host: `PATH`, `HOST:PATH`, `HOST:PORT:PATH`,
/// `[V6]:PATH` or `[V6]:PORT:PATH`.
///
/// As with scp, a colon behind a slash belongs to a local path (`./a:b`). A remote path that itself
/// begins with digits and a colon is written `HOST:./2024:x`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Location {
    /// The host; `None` for the user's own machine.
    pub host: Option<Host>,
    /// The path there; bytes.
    pub path: OsString,
}

impl Location {
    /// Takes a location apart.
    ///
    /// # Errors
    /// When what stands before the colon is no host.
    pub fn parse(text: &OsStr) -> Result<Self, InvalidHost> {
        let bytes = text.as_bytes();
        let invalid = || InvalidHost(text.to_string_lossy().into_owned());
        let local = || Self {
            host: None,
            path: text.to_owned(),
        };
        let host_end = if bytes.first() == Some(&b'[') {
            match bytes.windows(2).position(|pair| pair == b"]:") {
                Some(bracket) => bracket + 1,
                None => return Ok(local()),
            }
        } else {
            match bytes.iter().position(|byte| matches!(byte, b':' | b'/')) {
                Some(colon) if colon > 0 && bytes.get(colon) == Some(&b':') => colon,
                _ => return Ok(local()),
            }
        };
        let (name, rest) = bytes.split_at(host_end);
        let rest = rest.strip_prefix(b":").unwrap_or(rest);
        let (port, path) = match rest.iter().position(|byte| *byte == b':') {
            Some(colon) => {
                let (digits, path) = rest.split_at(colon);
                match std::str::from_utf8(digits).ok().and_then(parse_port) {
                    Some(port) => (Some(port), path.strip_prefix(b":").unwrap_or(path)),
                    None => (None, rest),
                }
            }
            None => (None, rest),
        };
        let name = std::str::from_utf8(name).map_err(|_| invalid())?;
        let mut host: Host = name.parse().map_err(|_| invalid())?;
        host.port = port;
        Ok(Self {
            host: Some(host),
            path: OsString::from_vec(path.to_vec()),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn location(text: &str) -> (Option<String>, String) {
        let location = Location::parse(OsStr::new(text)).unwrap();
        let host = location.host.map(|host| host.to_string());
        (host, location.path.into_string().unwrap())
    }

    #[test]
    fn texts_that_are_no_hosts_are_refused() {
        for bad in [
            "", ":1", "a:", "a:x", "a:0", "a:65536", "a:+1", "[::1", "[x]:1", "[::1]x", "a b",
            "a/b", "-x", "a:1:2",
        ] {
            assert!(bad.parse::<Host>().is_err(), "{bad}");
        }
    }

    #[test]
    fn hosts_are_names_addresses_and_ports() {
        for (text, name, port) in [
            ("web1", "web1", None),
            ("web1:7", "web1", Some(7)),
            ("::1", "::1", None),
            ("[::1]", "::1", None),
            ("[fe80::2]:49022", "fe80::2", Some(49022)),
            ("10.0.0.1:22", "10.0.0.1", Some(22)),
        ] {
            let host: Host = text.parse().unwrap();
            assert_eq!((host.name.as_str(), host.port), (name, port), "{text}");
        }
    }

    #[test]
    fn locations_follow_the_rules_of_scp() {
        let cases = [
            ("a", None, "a"),
            ("./a:b", None, "./a:b"),
            ("/x:y", None, "/x:y"),
            (":x", None, ":x"),
            ("", None, ""),
            ("web1:", Some("web1"), ""),
            ("web1:/srv", Some("web1"), "/srv"),
            ("web1:49022:/srv", Some("web1:49022"), "/srv"),
            ("web1:./2024:x", Some("web1"), "./2024:x"),
            ("web1:a:b", Some("web1"), "a:b"),
            ("[::1]:/srv", Some("::1"), "/srv"),
            ("[::1]:49022:/srv", Some("[::1]:49022"), "/srv"),
            ("[x]", None, "[x]"),
        ];
        for (text, host, path) in cases {
            assert_eq!(
                location(text),
                (host.map(str::to_owned), path.to_owned()),
                "{text}"
            );
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_parsing_panic(bytes: Vec<u8>) {
            let _ = Location::parse(OsStr::from_bytes(&bytes));
        }

        #[test]
        fn a_host_survives_being_written_and_read(name in "[a-z][a-z0-9.-]{0,20}", port in proptest::option::of(1_u16..)) {
            let host = Host { name, port };
            prop_assert_eq!(host.to_string().parse::<Host>().unwrap(), host);
        }
    }
}
