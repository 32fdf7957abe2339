//! Control groups (cgroup v2): a group for all processes of a call or of a module, which none of
//! them can leave and which are killed at once. Where the system has none, or does not let us, there
//! is none, and whoever starts processes relies on their descent.
//!
//! A group is made below that of the server, by one who may: root, or whoever was delegated its own.
//! A holder or module host is born in it (`clone3(2)` with CLONE_INTO_CGROUP), and with it all that
//! it starts. It is left and killed through descriptors, which keep working after their holder has
//! become another user, because the kernel asks who opened them. The server removes it once it is
//! empty.

use std::collections::BTreeSet;
use std::fs::{DirBuilder, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use legatus_core::ProcessGroup;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::{TimeVal, TimeValLike as _};
use rustix::fs::{Mode, OFlags};

/// What the names of groups here begin with; the id of the process that made one follows, and a
/// number.
const PREFIX: &str = "legatus.";

/// Groups that could not be removed yet, at most so many: what is beyond them is removed by the
/// next server that starts.
const LEFT: usize = 1024;

/// A group that was made here, for a process that is born in it. It goes when this is dropped, or once
/// it is empty.
#[derive(Debug)]
pub(crate) struct ControlGroup {
    path: PathBuf,
    folder: OwnedFd,
}

impl ControlGroup {
    /// Makes a group below this process's own.
    ///
    /// # Errors
    /// When there is no cgroup v2 here, or this process may not make groups in its own.
    pub(crate) fn new() -> io::Result<Self> {
        static MADE: AtomicU64 = AtomicU64::new(0);
        let base = base().ok_or(io::ErrorKind::Unsupported)?;
        let path = loop {
            let number = MADE.fetch_add(1, Ordering::Relaxed);
            let path = base.join(format!("{PREFIX}{}.{number}", std::process::id()));
            match DirBuilder::new().mode(0o755).create(&path) {
                // Left by a process that had the same id, perhaps with a call that is kept.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                made => break made.map(|()| path)?,
            }
        };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        match rustix::fs::open(&path, flags, Mode::empty()) {
            Ok(folder) => Ok(Self { path, folder }),
            Err(error) => {
                std::fs::remove_dir(&path)?;
                Err(error.into())
            }
        }
    }

    /// The descriptor by which processes are born in it.
    pub(crate) fn folder(&self) -> BorrowedFd<'_> {
        self.folder.as_fd()
    }

    /// Kills all that is in it.
    pub(crate) fn kill(&self) -> io::Result<()> {
        open(&self.folder, "cgroup.kill", OFlags::WRONLY)?.write_all(b"1")
    }
}

/// Removes it, and those that were left before. A group whose processes go on is tried again later.
impl Drop for ControlGroup {
    fn drop(&mut self) {
        static LEFT_OVER: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());
        let mut left = LEFT_OVER.lock().unwrap_or_else(PoisonError::into_inner);
        left.retain(|path| is_busy(std::fs::remove_dir(path)));
        if is_busy(std::fs::remove_dir(&self.path)) && left.len() < LEFT {
            left.insert(std::mem::take(&mut self.path));
        }
    }
}

fn is_busy(removed: io::Result<()>) -> bool {
    matches!(removed, Err(error) if error.kind() == io::ErrorKind::ResourceBusy)
}

fn open(folder: &OwnedFd, name: &str, flags: OFlags) -> io::Result<File> {
    let file = rustix::fs::openat(folder, name, flags | OFlags::CLOEXEC, Mode::empty())?;
    Ok(file.into())
}

/// The group that this process was born in, with all that it starts. It leaves the group before it
/// kills what is there.
#[derive(Debug)]
pub(crate) struct OwnGroup {
    folder: OwnedFd,
    kill: File,
    /// By which processes enter the group above.
    above: File,
}

impl OwnGroup {
    /// To be had while this process still has the rights of who made the group: the kernel asks
    /// who has opened the files.
    pub(crate) fn new(folder: OwnedFd) -> io::Result<Self> {
        Ok(Self {
            kill: open(&folder, "cgroup.kill", OFlags::WRONLY)?,
            above: open(&folder, "../cgroup.procs", OFlags::WRONLY)?,
            folder,
        })
    }

    fn read(&self, name: &str) -> String {
        let mut text = String::new();
        // A group without that file tells nothing.
        if let Ok(mut file) = open(&self.folder, name, OFlags::RDONLY) {
            file.read_to_string(&mut text).ok();
        }
        text
    }
}

impl ProcessGroup for OwnGroup {
    fn members(&self) -> Vec<i32> {
        let own = rustix::process::getpid().as_raw_nonzero().get();
        let processes = self.read("cgroup.procs");
        processes
            .lines()
            .filter_map(|line| line.parse().ok())
            .filter(|process| *process != own)
            .collect()
    }

    fn kill(&self) -> io::Result<()> {
        (&self.above).write_all(b"0")?;
        (&self.kill).write_all(b"1")
    }

    fn processor_time(&self) -> Option<(Duration, Duration)> {
        let text = self.read("cpu.stat");
        let of = |name: &str| {
            let value = text.lines().find_map(|line| line.strip_prefix(name))?;
            Some(Duration::from_micros(value.trim().parse().ok()?))
        };
        let own = getrusage(UsageWho::RUSAGE_SELF).ok()?;
        let user = of("user_usec ")?.saturating_sub(duration(own.user_time()));
        let system = of("system_usec ")?.saturating_sub(duration(own.system_time()));
        Some((user, system))
    }
}

fn duration(value: TimeVal) -> Duration {
    Duration::from_micros(u64::try_from(value.num_microseconds()).unwrap_or_default())
}

/// Removes the groups whose processes have ended since a former server was here.
pub(crate) fn sweep() {
    let entries = base().and_then(|base| std::fs::read_dir(base).ok());
    for entry in entries.into_iter().flatten().flatten() {
        let name = entry.file_name();
        let maker = name.to_str().and_then(|name| name.strip_prefix(PREFIX));
        let maker = maker.map(|rest| rest.split_once('.').map_or(rest, |(maker, _)| maker));
        let has_ended = |process: &str| !Path::new("/proc").join(process).exists();
        if maker.is_some_and(has_ended) {
            // It fails where processes are left in it.
            std::fs::remove_dir(entry.path()).ok();
        }
    }
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
