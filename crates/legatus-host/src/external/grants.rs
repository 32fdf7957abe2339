//! What a module may touch: what its manifest asks for AND what the operator grants.

use std::fmt;
use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};

/// What a module asks for, or what the operator grants it. Nothing by default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Grants {
    /// Folders and files that may be read, absolute.
    pub read: Vec<PathBuf>,
    /// Folders and files that may be changed as well, absolute.
    pub write: Vec<PathBuf>,
    /// Variables of the host's environment, by name.
    pub environment: Vec<String>,
    /// Addresses to connect to, `HOST:PORT` or `*:PORT`.
    pub connect: Vec<String>,
    /// Running other programs; for native modules only.
    pub run: bool,
    /// The time of day.
    pub time: bool,
    /// Random numbers.
    pub random: bool,
}

impl Grants {
    /// What both have: a path below a granted one is granted.
    #[must_use]
    pub fn intersect(&self, other: &Self) -> Self {
        let common = |ours: &[String], theirs: &[String]| {
            let shared = ours.iter().filter(|one| theirs.contains(one));
            shared.cloned().collect()
        };
        let writable = paths(&self.write, &other.write);
        // Whoever may write below a folder may read there.
        let ours = [self.read.as_slice(), &self.write].concat();
        let theirs = [other.read.as_slice(), &other.write].concat();
        let mut readable = paths(&ours, &theirs);
        readable.retain(|path| !writable.contains(path));
        Self {
            read: readable,
            write: writable,
            environment: common(&self.environment, &other.environment),
            connect: common(&self.connect, &other.connect),
            run: self.run && other.run,
            time: self.time && other.time,
            random: self.random && other.random,
        }
    }

    /// What of this is not in `granted`, in words.
    pub fn missing(&self, granted: &Self) -> Vec<String> {
        let all = self.words();
        let has = self.intersect(granted).words();
        all.into_iter().filter(|word| !has.contains(word)).collect()
    }

    /// Each grant in words.
    pub fn words(&self) -> Vec<String> {
        let mut words = Vec::new();
        let read = self.read.iter();
        words.extend(read.map(|path| format!("read {}", path.display())));
        let write = self.write.iter();
        words.extend(write.map(|path| format!("write {}", path.display())));
        let environment = self.environment.iter();
        words.extend(environment.map(|name| format!("environment {name}")));
        words.extend(self.connect.iter().map(|to| format!("connect {to}")));
        let flags = [
            (self.run, "run programs"),
            (self.time, "time"),
            (self.random, "random"),
        ];
        words.extend(
            flags
                .into_iter()
                .filter(|(is, _)| *is)
                .map(|(_, word)| word.to_owned()),
        );
        words
    }

    /// Whether files are among them.
    pub fn has_files(&self) -> bool {
        !self.read.is_empty() || !self.write.is_empty()
    }

    /// The first path that is not absolute, or leads upwards.
    pub(crate) fn unusable_path(&self) -> Option<&Path> {
        let upwards = |path: &Path| path.components().any(|part| part == Component::ParentDir);
        let mut all = self.read.iter().chain(&self.write);
        all.find(|path| !path.is_absolute() || upwards(path))
            .map(PathBuf::as_path)
    }

    /// The addresses as host and port; `None` for one that is malformed.
    pub(crate) fn addresses(&self) -> impl Iterator<Item = Option<(&str, u16)>> {
        self.connect.iter().map(|text| {
            let (host, port) = text.rsplit_once(':')?;
            let host = host.trim_start_matches('[').trim_end_matches(']');
            Some((host, port.parse().ok().filter(|_| !host.is_empty())?))
        })
    }
}

impl fmt::Display for Grants {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = self.words();
        if words.is_empty() {
            return f.write_str("nothing");
        }
        f.write_str(&words.join(", "))
    }
}

/// The paths that lie below paths of both.
fn paths(ours: &[PathBuf], theirs: &[PathBuf]) -> Vec<PathBuf> {
    let mut common = Vec::new();
    for (one, other) in ours
        .iter()
        .flat_map(|one| theirs.iter().map(move |other| (one, other)))
    {
        let narrower = if one.starts_with(other) {
            one
        } else if other.starts_with(one) {
            other
        } else {
            continue;
        };
        if !common.contains(narrower) {
            common.push(narrower.clone());
        }
    }
    common
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(read: &[&str], write: &[&str]) -> Grants {
        let paths = |texts: &[&str]| texts.iter().map(PathBuf::from).collect();
        Grants {
            read: paths(read),
            write: paths(write),
            ..Grants::default()
        }
    }

    #[test]
    fn nothing_is_granted_by_default() {
        let wanted = Grants {
            run: true,
            time: true,
            connect: vec!["a:1".into()],
            ..files(&["/"], &["/srv"])
        };
        assert_eq!(wanted.intersect(&Grants::default()), Grants::default());
        assert_eq!(wanted.missing(&Grants::default()).len(), 5);
    }

    #[test]
    fn a_path_is_granted_as_far_as_both_reach() {
        let wanted = files(&["/srv/images", "/etc"], &["/var"]);
        let granted = files(&["/srv", "/var/log"], &[]);
        let has = wanted.intersect(&granted);
        assert_eq!(has, files(&["/srv/images", "/var/log"], &[]));
        assert_eq!(
            files(&["/srv"], &[]).intersect(&files(&["/srvx"], &[])),
            Grants::default()
        );
    }

    #[test]
    fn writing_includes_reading_but_not_the_other_way() {
        let has = files(&["/a"], &[]).intersect(&files(&[], &["/a"]));
        assert_eq!(has, files(&["/a"], &[]));
        let has = files(&[], &["/a"]).intersect(&files(&["/a"], &[]));
        assert_eq!(has, files(&["/a"], &[]));
    }

    #[test]
    fn paths_that_lead_upwards_are_unusable() {
        assert!(files(&["/srv/../etc"], &[]).unusable_path().is_some());
        assert!(files(&[], &["srv"]).unusable_path().is_some());
        assert_eq!(files(&["/srv"], &["/"]).unusable_path(), None);
    }
}
