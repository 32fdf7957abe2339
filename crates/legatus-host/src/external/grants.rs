//! What a module may touch: what its manifest asks for AND what the operator grants.

use std::fmt;
use std::path::{Component, Path, PathBuf};

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};

/// What a module asks for, or what the operator grants it. Nothing by default.
///
/// What is read from a file is refused with a path that is not absolute or leads upwards, and with one
/// that can be granted to nobody, such as `/proc`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Grants {
    /// Folders and files that may be read, absolute.
    #[serde(deserialize_with = "grantable")]
    pub read: Vec<PathBuf>,
    /// Folders and files that may be changed as well, absolute.
    #[serde(deserialize_with = "grantable")]
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

/// What of `/proc` tells of the machine and not of processes, whose memory and secrets are there, too.
const MACHINE: [&str; 10] = [
    "cpuinfo",
    "diskstats",
    "loadavg",
    "meminfo",
    "stat",
    "swaps",
    "sys",
    "uptime",
    "version",
    "vmstat",
];

/// Why nobody can be granted this path, if so. Only its text is looked at.
pub(crate) fn refused(path: &Path) -> Option<&'static str> {
    if !path.is_absolute() {
        return Some("it is no absolute path");
    }
    let mut parts = Vec::new();
    for part in path.components() {
        match part {
            Component::ParentDir => return Some("it leads upwards"),
            Component::Normal(name) => parts.push(name.to_str().unwrap_or_default()),
            _ => {}
        }
    }
    match *parts.as_slice() {
        [] => Some("/proc, /sys and /dev are in it: name the folders that are meant"),
        ["proc" | "sys" | "dev"] => Some("it is the kernel's as a whole: name what is meant in it"),
        ["proc", name, ..] if !MACHINE.contains(&name) => {
            Some("it tells the secrets of processes, or leads to them")
        }
        _ => None,
    }
}

/// Reads paths of a file, none of which is [`refused`].
fn grantable<'de, D: Deserializer<'de>>(paths: D) -> Result<Vec<PathBuf>, D::Error> {
    let paths = Vec::<PathBuf>::deserialize(paths)?;
    for path in &paths {
        if let Some(why) = refused(path) {
            let told = format!("`{}` cannot be granted: {why}", path.display());
            return Err(D::Error::custom(told));
        }
    }
    Ok(paths)
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
            ..files(&["/etc"], &["/srv"])
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
    fn what_is_the_kernels_as_a_whole_or_leads_to_processes_is_granted_to_nobody() {
        for path in [
            "srv",
            "",
            "/srv/../etc",
            "/",
            "//",
            "/.",
            "/proc",
            "/proc/",
            "/proc/.",
            "/proc/1",
            "/proc/self",
            "/proc/self/mem",
            "/proc/thread-self/environ",
            "/proc/mounts",
            "/proc/kcore",
            "/sys",
            "/dev/",
        ] {
            assert!(refused(Path::new(path)).is_some(), "{path}");
        }
        for path in [
            "/srv",
            "/proc/sys/kernel",
            "/proc/meminfo",
            "/sys/devices",
            "/process",
        ] {
            assert_eq!(refused(Path::new(path)), None, "{path}");
        }
    }

    #[test]
    fn a_file_that_grants_such_a_path_is_refused_with_the_reason() {
        let error = toml::from_str::<Grants>("read = ['/srv', '/proc']").unwrap_err();
        let told = error.message();
        assert!(told.contains("`/proc` cannot be granted: it is"), "{told}");
        assert!(toml::from_str::<Grants>("write = ['/']").is_err());
    }
}
