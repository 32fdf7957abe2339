//! Control groups (cgroup v2): a group for all processes of a call or of a module, which none of
//! them can leave and which are killed at once. Where the system has none, or does not let us, there
//! is none, and whoever starts processes relies on their descent.
//!
//! A group is made below that of this process, by one who may: root, or whoever was delegated its
//! own. It is entered and killed through descriptors, which keep working after their holder has
//! become another user, because the kernel asks who opened them. The group itself is removed by
//! the process that made it or by its parent, once it is empty.

use std::collections::BTreeSet;
use std::fs::{DirBuilder, File};
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use legatus_core::ProcessGroup;
use rustix::process::Pid;

/// What the names of groups here begin with.
const PREFIX: &str = "legatus.";

/// Groups that could not be removed yet, at most so many: what is beyond them is removed by the
/// next server that starts.
const LEFT: usize = 1024;

/// A group that was made here. It stays when this is dropped: see [`remove`].
#[derive(Debug)]
pub(crate) struct ControlGroup {
    folder: PathBuf,
    procs: File,
    kill: File,
}

impl ControlGroup {
    /// Makes a group for the processes that this one, or the process of that id, starts.
    ///
    /// # Errors
    /// When there is no cgroup v2 here, or this process may not make groups in its own.
    pub(crate) fn new(process: Pid) -> io::Result<Self> {
        let folder = folder(process)?;
        match DirBuilder::new().mode(0o755).create(&folder) {
            // Left by a process that had the same id.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                std::fs::remove_dir(&folder)?;
                DirBuilder::new().mode(0o755).create(&folder)?;
            }
            made => made?,
        }
        let open = |name: &str| File::options().write(true).open(folder.join(name));
        match (open("cgroup.procs"), open("cgroup.kill")) {
            (Ok(procs), Ok(kill)) => Ok(Self {
                procs,
                kill,
                folder,
            }),
            (Err(error), _) | (_, Err(error)) => {
                std::fs::remove_dir(&folder)?;
                Err(error)
            }
        }
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.folder.join(name)).unwrap_or_default()
    }
}

impl ProcessGroup for ControlGroup {
    fn entrance(&self) -> BorrowedFd<'_> {
        self.procs.as_fd()
    }

    fn members(&self) -> Vec<i32> {
        let processes = self.read("cgroup.procs");
        processes
            .lines()
            .filter_map(|line| line.parse().ok())
            .collect()
    }

    fn kill(&self) -> io::Result<()> {
        (&self.kill).write_all(b"1")
    }

    fn processor_time(&self) -> Option<(Duration, Duration)> {
        let text = self.read("cpu.stat");
        let of = |name: &str| {
            let value = text.lines().find_map(|line| line.strip_prefix(name))?;
            Some(Duration::from_micros(value.trim().parse().ok()?))
        };
        Some((of("user_usec ")?, of("system_usec ")?))
    }
}

/// Kills what is in the group that a process has made.
pub(crate) fn kill(process: Pid) {
    if let Ok(folder) = folder(process) {
        // There may be none.
        std::fs::write(folder.join("cgroup.kill"), "1").ok();
    }
}

/// Removes the group that a process has made, now that it has ended, and those that were left
/// before. A group whose processes go on is tried again later.
pub(crate) fn remove(process: Pid) {
    static LEFT_OVER: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());
    let Ok(folder) = folder(process) else {
        return;
    };
    let mut left = LEFT_OVER.lock().unwrap_or_else(PoisonError::into_inner);
    left.retain(|folder| is_busy(std::fs::remove_dir(folder)));
    if is_busy(std::fs::remove_dir(&folder)) && left.len() < LEFT {
        left.insert(folder);
    }
}

fn is_busy(removed: io::Result<()>) -> bool {
    matches!(removed, Err(error) if error.kind() == io::ErrorKind::ResourceBusy)
}

/// Removes the groups whose processes have ended since a former server was here.
pub(crate) fn sweep() {
    let entries = base().and_then(|base| std::fs::read_dir(base).ok());
    for entry in entries.into_iter().flatten().flatten() {
        let name = entry.file_name();
        let process = name.to_str().and_then(|name| name.strip_prefix(PREFIX));
        let has_ended = |process: &str| !Path::new("/proc").join(process).exists();
        if process.is_some_and(has_ended) {
            // It fails where others are left in it.
            std::fs::remove_dir(entry.path()).ok();
        }
    }
}

/// The place of the group that a process makes.
fn folder(process: Pid) -> io::Result<PathBuf> {
    let base = base().ok_or(io::ErrorKind::Unsupported)?;
    Ok(base.join(format!("{PREFIX}{}", process.as_raw_nonzero())))
}

/// The folder of this process's own group; it is looked for once.
fn base() -> Option<&'static Path> {
    static BASE: OnceLock<Option<PathBuf>> = OnceLock::new();
    let find = || {
        let groups = std::fs::read_to_string("/proc/self/cgroup").ok()?;
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").ok()?;
        place(&groups, &mounts)
    };
    BASE.get_or_init(find).as_deref()
}

/// Where a process's group is, by its `cgroup` and `mountinfo` (cgroups(7), proc(5)).
fn place(groups: &str, mounts: &str) -> Option<PathBuf> {
    let group = groups.lines().find_map(|line| line.strip_prefix("0::"))?;
    let (root, point) = mounts.lines().find_map(|line| {
        let (mount, kind) = line.split_once(" - ")?;
        let mut fields = mount.split(' ').skip(3);
        let mount = (fields.next()?, fields.next()?);
        kind.starts_with("cgroup2 ").then_some(mount)
    })?;
    // A mount may show a part of the tree only.
    let below = match root {
        "/" => group,
        root => group
            .strip_prefix(root)
            .filter(|rest| rest.is_empty() || rest.starts_with('/'))?,
    };
    Some(Path::new(point).join(below.trim_start_matches('/')))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "\
22 1 0:5 / /proc rw,relatime shared:1 - proc proc rw
30 22 0:26 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
";

    #[test]
    fn a_group_is_found_where_its_tree_is_mounted() {
        let found = place("4:memory:/x\n0::/system.slice/a.service\n", MOUNTS);
        let expected = "/sys/fs/cgroup/unified/system.slice/a.service";
        assert_eq!(found, Some(expected.into()));
        let root = place("0::/\n", MOUNTS);
        assert_eq!(root, Some("/sys/fs/cgroup/unified/".into()));
    }

    #[test]
    fn a_mount_of_a_part_of_the_tree_shows_only_what_is_below_it() {
        let mounts = MOUNTS.replace(" / /sys/fs", " /docker/1 /sys/fs");
        let found = place("0::/docker/1/a\n", &mounts);
        assert_eq!(found, Some("/sys/fs/cgroup/unified/a".into()));
        assert_eq!(place("0::/docker/12\n", &mounts), None);
        assert_eq!(place("0::/\n", &mounts), None);
    }

    #[test]
    fn there_is_none_without_the_second_version() {
        assert_eq!(place("4:memory:/x\n", MOUNTS), None);
        assert_eq!(
            place("0::/\n", "22 1 0:5 / /proc rw - proc proc rw\n"),
            None
        );
        assert_eq!(place("0::/\n", "nonsense\n\n"), None);
    }
}
