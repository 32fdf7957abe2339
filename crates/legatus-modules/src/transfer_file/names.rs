//! Names and paths: bytes of which a peer's are not trusted, and how they are shown.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::path::{Component, Path};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Map, Value};

use super::messages::{Misbehaved, Root};

/// Longest name of an entry in bytes (`NAME_MAX` of every file system in use).
pub(super) const NAME_BYTES: usize = 255;

/// Longest target of a symbolic link in bytes (`PATH_MAX` without the final 0).
pub(super) const LINK_BYTES: usize = 4095;

/// Paths are shown up to so many bytes: their ends, which say more.
const SHOWN_BYTES: usize = 4096;

/// Checks that a name from a peer names an entry in a folder and nothing else.
pub(super) fn check_entry(name: &[u8]) -> Result<(), Misbehaved> {
    let elsewhere = matches!(name, b"" | b"." | b"..") || name.contains(&b'/');
    if elsewhere || name.contains(&0) || name.len() > NAME_BYTES {
        return Err(Misbehaved("a name that is no name of an entry"));
    }
    Ok(())
}

/// Whether a path can only mean a folder: it ends in `/`, `.` or `..`, or is empty (home).
pub(super) fn means_folder(path: &[u8]) -> bool {
    let last = path.rsplit(|byte| *byte == b'/').next().unwrap_or(path);
    matches!(last, b"" | b"." | b"..")
}

/// What a source's path says about the target: rsync's rule of the trailing slash.
pub(super) fn root(path: &[u8]) -> Root {
    let contents = means_folder(path);
    let name = if contents {
        None
    } else {
        path.rsplit(|byte| *byte == b'/').next()
    };
    Root {
        name: name.unwrap_or_default().to_vec().into(),
        contents,
    }
}

/// The folder of a path, and the name in it.
pub(super) fn split(path: &Path) -> (&Path, &OsStr) {
    let name = match path.components().next_back() {
        Some(Component::Normal(name)) => name,
        _ => OsStr::new("."),
    };
    let parent = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    (parent.unwrap_or_else(|| Path::new(".")), name)
}

/// A path below another.
pub(super) fn join<'a>(base: &[u8], names: impl IntoIterator<Item = &'a [u8]>) -> Vec<u8> {
    let mut path = base.to_vec();
    for name in names {
        if !path.is_empty() && !path.ends_with(b"/") {
            path.push(b'/');
        }
        path.extend_from_slice(name);
    }
    path
}

/// A path as it is sent to be shown: its end, if it is very long.
pub(super) fn shortened(path: Vec<u8>) -> Vec<u8> {
    match path.len().checked_sub(SHOWN_BYTES) {
        None | Some(0) => path,
        Some(excess) => [b"...", path.get(excess..).unwrap_or_default()].concat(),
    }
}

/// A path as it is shown: in backticks, and harmless for terminals and logs whatever its bytes.
pub(super) fn shown(path: impl AsRef<[u8]>) -> String {
    let mut text = String::from("`");
    for chunk in path.as_ref().utf8_chunks() {
        for char in chunk.valid().chars() {
            match char {
                '\\' | '`' => text.extend(['\\', char]),
                _ if char.is_control() => text.extend(char.escape_default()),
                _ => text.push(char),
            }
        }
        for byte in chunk.invalid() {
            // Writing to a String cannot fail.
            write!(text, "\\x{byte:02x}").ok();
        }
    }
    text.push('`');
    text
}

/// Puts a path into a record for programs: as it is if it is text, else in base64 under the name
/// `NAME_base64`.
pub(super) fn record(into: &mut Map<String, Value>, name: &str, path: &[u8]) {
    match std::str::from_utf8(path) {
        Ok(text) => into.insert(name.to_owned(), text.into()),
        Err(_) => into.insert(
            format!("{name}_base64"),
            BASE64_STANDARD.encode(path).into(),
        ),
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_get_every_path_unchanged() {
        let mut told = Map::new();
        record(&mut told, "path", "a\"b\u{7}\\ä".as_bytes());
        record(&mut told, "link", b"\xff");
        let wanted = serde_json::json!({ "path": "a\"b\u{7}\\ä", "link_base64": "/w==" });
        assert_eq!(Value::Object(told), wanted);
    }

    #[test]
    fn names_that_lead_elsewhere_are_refused() {
        let long = [b'x'; NAME_BYTES + 1];
        for bad in [&b""[..], b".", b"..", b"a/b", b"/", b"../x", b"a\0b", &long] {
            assert!(check_entry(bad).is_err(), "{bad:?}");
        }
        for good in [&b"a"[..], b"...", b"-rf", b"\n", b"\xff", &long[1..]] {
            assert!(check_entry(good).is_ok(), "{good:?}");
        }
    }

    #[test]
    fn a_path_that_ends_as_a_folder_means_its_contents() {
        for path in ["", "/", ".", "..", "a/", "a/.", "a/..", "a//"] {
            assert!(root(path.as_bytes()).contents, "{path}");
        }
        for (path, name) in [
            ("a", "a"),
            ("a/b", "b"),
            ("/a", "a"),
            ("...", "..."),
            ("a/.b", ".b"),
        ] {
            let root = root(path.as_bytes());
            assert_eq!(
                (root.name.as_ref(), root.contents),
                (name.as_bytes(), false),
                "{path}"
            );
        }
    }

    #[test]
    fn paths_are_split_into_folder_and_name() {
        for (path, parent, name) in [("a", ".", "a"), ("/a", "/", "a"), ("a/b", "a", "b")] {
            assert_eq!(
                split(Path::new(path)),
                (Path::new(parent), OsStr::new(name))
            );
        }
    }

    #[test]
    fn what_is_shown_cannot_drive_a_terminal() {
        assert_eq!(
            shown(b"a\x1b[2J\n\xff`\xc3\xbc"),
            "`a\\u{1b}[2J\\n\\xff\\`\u{fc}`"
        );
    }
}
