//! Takes the words of a command line apart as ssh(1) does: options, host, more options, command.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use legatus_core::Fault;

use super::checked;

/// OpenSSH's options without a value.
const FLAGS: &[u8] = b"1246AaCfGgKkMNnqsTtVvXxYy";

/// OpenSSH's options with a value.
const VALUED: &[u8] = b"BbcDEeFIiJLlmOoPpQRSWw";

/// Our own long options with a value.
const LONG_VALUED: [&str; 8] = [
    "ca",
    "cert",
    "config",
    "connect-timeout",
    "key",
    "log-level",
    "ready-descriptor",
    "subsystem",
];

/// Our own long options without a value.
const LONG_FLAGS: [&str; 2] = ["help", "system-roots"];

/// An option.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Given {
    /// One of OpenSSH's without a value.
    Flag(char),
    /// One of OpenSSH's with its value.
    Valued(char, OsString),
    /// One of ours; the value is empty where it has none.
    Long(&'static str, OsString),
}

/// A command line taken apart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Words {
    pub(super) options: Vec<Given>,
    pub(super) host: Option<OsString>,
    /// The command's words, joined by blanks as they will be; `None` if there is none.
    pub(super) command: Option<OsString>,
}

/// Takes words apart.
///
/// # Errors
/// When an option is unknown or lacks its value.
pub(super) fn parse(words: &[OsString]) -> Result<Words, Fault> {
    for word in words {
        checked(word)?;
    }
    let mut parsed = Words::default();
    let (rest, ended) = options(words, &mut parsed.options)?;
    let Some((host, rest)) = rest.split_first() else {
        return Ok(parsed);
    };
    parsed.host = Some(host.clone());
    let command = if ended {
        rest
    } else {
        options(rest, &mut parsed.options)?.0
    };
    if !command.is_empty() {
        let words: Vec<&[u8]> = command.iter().map(|word| word.as_bytes()).collect();
        parsed.command = Some(OsString::from_vec(words.join(&b' ')));
    }
    Ok(parsed)
}

/// Reads options up to the first word that is none; tells whether `--` ended them.
fn options<'a>(
    mut words: &'a [OsString],
    into: &mut Vec<Given>,
) -> Result<(&'a [OsString], bool), Fault> {
    while let Some((word, rest)) = words.split_first() {
        let bytes = word.as_bytes();
        if bytes == b"--" {
            return Ok((rest, true));
        }
        if let Some(long) = bytes.strip_prefix(b"--") {
            words = long_option(long, rest, into)?;
        } else if bytes.len() > 1 && bytes.starts_with(b"-") {
            words = short_options(bytes.get(1..).unwrap_or_default(), rest, into)?;
        } else {
            break;
        }
    }
    Ok((words, false))
}

/// A cluster such as `-vp22`; returns the words after it and its value.
fn short_options<'a>(
    mut letters: &[u8],
    rest: &'a [OsString],
    into: &mut Vec<Given>,
) -> Result<&'a [OsString], Fault> {
    while let Some((letter, more)) = letters.split_first() {
        let name = char::from(*letter);
        if FLAGS.contains(letter) {
            into.push(Given::Flag(name));
            letters = more;
        } else if !VALUED.contains(letter) {
            let name: String = String::from_utf8_lossy(letters).chars().take(1).collect();
            return Err(unknown(&format!("-{name}")));
        } else if more.is_empty() {
            let missing = || Fault::new(format!("the option -{name} lacks its value"));
            let (value, rest) = rest.split_first().ok_or_else(missing)?;
            into.push(Given::Valued(name, value.clone()));
            return Ok(rest);
        } else {
            let value = OsStr::from_bytes(more).to_owned();
            into.push(Given::Valued(name, value));
            return Ok(rest);
        }
    }
    Ok(rest)
}

fn long_option<'a>(
    text: &[u8],
    rest: &'a [OsString],
    into: &mut Vec<Given>,
) -> Result<&'a [OsString], Fault> {
    let mut parts = text.splitn(2, |byte| *byte == b'=');
    let name = parts.next().unwrap_or_default();
    let value = parts
        .next()
        .map(|value| OsStr::from_bytes(value).to_owned());
    let is_named = |known: &&&str| known.as_bytes() == name;
    if let Some(known) = LONG_FLAGS.iter().find(is_named) {
        into.push(Given::Long(known, OsString::new()));
        return Ok(rest);
    }
    let name = String::from_utf8_lossy(name);
    let Some(known) = LONG_VALUED.iter().find(|known| **known == name) else {
        return Err(unknown(&format!("--{name}")));
    };
    match (value, rest.split_first()) {
        (Some(value), _) => {
            into.push(Given::Long(known, value));
            Ok(rest)
        }
        (None, Some((value, rest))) => {
            into.push(Given::Long(known, value.clone()));
            Ok(rest)
        }
        (None, None) => Err(Fault::new(format!("the option --{name} lacks its value"))),
    }
}

fn unknown(option: &str) -> Fault {
    Fault::new(format!("unknown option {option}")).with_hint("`--help` shows those of ssh")
}
