//! What a user asks to be forwarded, in the words of ssh(1): `[ADDR:]PORT:HOST:PORT` and what else
//! `-L`, `-R`, `-D` and `-W` take.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use legatus_core::{Arguments, Fault, SocketName};

/// Where to listen unless something else is said.
const LOOPBACK: &str = "localhost";

/// One thing to forward.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Route {
    /// Listen here, connect from there.
    Local(SocketName, SocketName),
    /// Listen there, connect from here.
    Remote(SocketName, SocketName),
    /// Listen here, connect from there to where a SOCKS5 client wants.
    Dynamic(SocketName),
}

/// Everything that arguments ask to be forwarded.
pub(super) fn routes(arguments: &Arguments) -> Result<Vec<Route>, Fault> {
    let mut routes = Vec::new();
    for text in arguments.all("local") {
        let (at, to) = pair(text)?;
        routes.push(Route::Local(at, to));
    }
    for text in arguments.all("remote") {
        let (at, to) = pair(text)?;
        routes.push(Route::Remote(at, to));
    }
    for text in arguments.all("dynamic") {
        let text_ = readable(text)?;
        match parts(text_).as_deref() {
            Some([port]) => routes.push(Route::Dynamic(listening(None, port, text)?)),
            Some([address, port]) => {
                routes.push(Route::Dynamic(listening(Some(address), port, text)?));
            }
            _ => return Err(invalid(text, "[ADDR:]PORT")),
        }
    }
    Ok(routes)
}

/// The target of `-W`.
pub(super) fn target(text: &OsStr) -> Result<SocketName, Fault> {
    let parts = parts(readable(text)?);
    match parts.as_deref() {
        Some([host, port]) => connecting(host, port, text),
        Some([path]) if path.contains('/') => Ok(SocketName::Unix(PathBuf::from(path))),
        _ => Err(invalid(text, "HOST:PORT")),
    }
}

/// A pair of where to listen and where to connect to.
fn pair(text: &OsString) -> Result<(SocketName, SocketName), Fault> {
    let is_path = |part: &str| part.contains('/');
    let parts = parts(readable(text)?);
    let words: Vec<&str> = parts.iter().flatten().map(String::as_str).collect();
    match *words.as_slice() {
        [at, to] if is_path(at) && is_path(to) => Ok((unix(at), unix(to))),
        [port, to] if is_path(to) => Ok((listening(None, port, text)?, unix(to))),
        [at, host, to] if is_path(at) => Ok((unix(at), connecting(host, to, text)?)),
        [address, port, to] if is_path(to) => Ok((listening(Some(address), port, text)?, unix(to))),
        [port, host, to] => Ok((listening(None, port, text)?, connecting(host, to, text)?)),
        [address, port, host, to] => Ok((
            listening(Some(address), port, text)?,
            connecting(host, to, text)?,
        )),
        _ => Err(invalid(text, "[ADDR:]PORT:HOST:PORT")),
    }
}

fn unix(path: &str) -> SocketName {
    SocketName::Unix(PathBuf::from(path))
}

fn listening(address: Option<&str>, port: &str, text: &OsStr) -> Result<SocketName, Fault> {
    let host = match address {
        None => LOOPBACK,
        Some("") => "*",
        Some(address) => address,
    };
    Ok(SocketName::Tcp {
        host: host.to_owned(),
        port: number(port).ok_or_else(|| invalid(text, "[ADDR:]PORT"))?,
    })
}

fn connecting(host: &str, port: &str, text: &OsStr) -> Result<SocketName, Fault> {
    let port = number(port).filter(|port| *port != 0 && !host.is_empty());
    Ok(SocketName::Tcp {
        host: host.to_owned(),
        port: port.ok_or_else(|| invalid(text, "HOST:PORT"))?,
    })
}

fn number(text: &str) -> Option<u16> {
    let is_digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| is_digits)
}

/// The parts between colons; brackets hold a v6 address together.
fn parts(text: &str) -> Option<Vec<String>> {
    let mut parts = vec![String::new()];
    let mut in_brackets = false;
    for letter in text.chars() {
        let part = parts.last_mut()?;
        match letter {
            '[' if part.is_empty() => in_brackets = true,
            ']' if in_brackets => in_brackets = false,
            ':' if !in_brackets => parts.push(String::new()),
            letter => part.push(letter),
        }
    }
    (!in_brackets).then_some(parts)
}

fn readable(text: &OsStr) -> Result<&str, Fault> {
    text.to_str()
        .ok_or_else(|| Fault::new(format!("{text:?} is no text in UTF-8")))
}

fn invalid(text: &OsStr, expected: &str) -> Fault {
    Fault::new(format!("`{}` is not {expected}", text.display()))
        .with_hint("v6 addresses stand in brackets; the path of a Unix socket has a slash")
}
