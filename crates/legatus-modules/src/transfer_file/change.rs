//! Changes of a target, as rsync's `--itemize-changes` tells them.

use std::sync::Mutex;
use std::sync::PoisonError;

use legatus_core::Local;
use serde_json::{Map, Value};

use super::messages::Change;
use super::names;

/// What differs between an entry of the source and that of the target.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Differences {
    /// There is nothing at its name, or something of another kind.
    pub(super) is_new: bool,
    /// The contents (of a file where checksums were asked for, or of a link).
    pub(super) contents: bool,
    pub(super) size: bool,
    pub(super) time: bool,
    pub(super) mode: bool,
    pub(super) owner: bool,
    pub(super) group: bool,
    pub(super) acl: bool,
    pub(super) xattrs: bool,
}

impl Differences {
    /// Whether there is any.
    pub(super) fn any(self) -> bool {
        self != Self::default()
    }

    /// As rsync tells it: what happens (`>`, `c`, `h` or `.`), the kind of the entry (`f`, `d`, `L`,
    /// `D`, `S`), and a letter for each difference.
    pub(super) fn flags(self, happens: char, kind: char) -> String {
        if self.is_new {
            return format!("{happens}{kind}+++++++++");
        }
        let letters = [
            (self.contents, 'c'),
            (self.size, 's'),
            (self.time, 't'),
            (self.mode, 'p'),
            (self.owner, 'o'),
            (self.group, 'g'),
            (false, 'u'),
            (self.acl, 'a'),
            (self.xattrs, 'x'),
        ];
        let letters = letters.map(|(differs, letter)| if differs { letter } else { '.' });
        format!("{happens}{kind}{}", String::from_iter(letters))
    }
}

/// What a removal is told as.
pub(super) const DELETED: &str = "*deleting  ";

/// Gives changes to the user: as lines, or as objects for programs.
#[derive(Debug, Default)]
pub(super) struct Printer {
    is_upload: bool,
    /// Lines that wait to be printed; printing may wait, and nobody who tells a change can.
    lines: Mutex<Vec<u8>>,
}

impl Printer {
    pub(super) fn new(is_upload: bool) -> Self {
        Self {
            is_upload,
            lines: Mutex::default(),
        }
    }

    /// Takes a change.
    pub(super) fn take(&self, local: &dyn Local, change: &Change) {
        let flags = change
            .flags
            .replace(|c: char| !c.is_ascii_graphic() && c != ' ', "?");
        let flags = match flags.strip_prefix('>') {
            Some(rest) if self.is_upload => format!("<{rest}"),
            _ => flags,
        };
        if local.shows_records() {
            let mut record = Map::new();
            record.insert("change".to_owned(), flags.into());
            names::record(&mut record, "path", &change.path);
            if !change.link.is_empty() {
                names::record(&mut record, "link", &change.link);
            }
            local.record(&Value::Object(record).to_string());
            return;
        }
        let text = |bytes: &[u8]| names::shown(bytes).trim_matches('`').to_owned();
        let mut line = format!("{flags} {}", text(&change.path));
        if !change.link.is_empty() {
            let arrow = if flags.starts_with('h') { "=>" } else { "->" };
            line.push_str(&format!(" {arrow} {}", text(&change.link)));
        }
        line.push('\n');
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.extend_from_slice(line.as_bytes());
    }

    /// The lines since the last call.
    pub(super) fn lines(&self) -> Vec<u8> {
        std::mem::take(&mut *self.lines.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_told_as_rsync_tells_them() {
        let new = Differences {
            is_new: true,
            size: true,
            ..Differences::default()
        };
        assert_eq!(new.flags('>', 'f'), ">f+++++++++");
        let changed = Differences {
            size: true,
            time: true,
            ..Differences::default()
        };
        assert_eq!(changed.flags('>', 'f'), ">f.st......");
        let attributes = Differences {
            mode: true,
            xattrs: true,
            ..Differences::default()
        };
        assert_eq!(attributes.flags('.', 'd'), ".d...p....x");
        assert_eq!(DELETED.len(), 11);
    }
}
