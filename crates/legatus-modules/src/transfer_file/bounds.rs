//! Folders that a server lets its callers copy from and to, and no others.
//!
//! Paths are looked up below such a folder and nowhere else (`openat2(2)`, `RESOLVE_BENEATH`): a symbolic
//! link that leads out of it is an error, whoever made it and whenever.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use legatus_core::{Fault, Settings};
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat};
use rustix::io::Errno;

use super::folders::{identity, open_resolved};
use super::messages;
use super::names;

/// Where something may be read, or written.
#[derive(Clone, Debug)]
pub(super) struct Bounds(Option<Vec<PathBuf>>);

/// What the server's settings say.
///
/// # Errors
/// When they are not understood.
pub(super) fn from_settings(settings: &Settings) -> Result<messages::Bounds, Fault> {
    settings.check_names(&["read", "write"])?;
    let folders = |name: &str| {
        let Some(paths) = settings.list(name) else {
            return Ok(None);
        };
        let plain = |path: &&String| {
            Path::new(path).is_absolute() && normal(Path::new(path)).as_os_str() == path.as_str()
        };
        if let Some(bad) = paths.iter().find(|path| !plain(path)) {
            let fault = Fault::new(format!(
                "`{bad}` in `{name}` is no absolute path of a folder"
            ));
            return Err(fault.with_hint("write it without `.`, `..` and a slash at its end"));
        }
        let paths = paths.iter().map(|path| path.clone().into_bytes().into());
        Ok(Some(messages::Folders {
            paths: paths.collect(),
        }))
    };
    Ok(messages::Bounds {
        read: folders("read")?,
        write: folders("write")?,
    })
}

impl From<Option<messages::Folders>> for Bounds {
    fn from(folders: Option<messages::Folders>) -> Self {
        let path = |path: &bytes::Bytes| PathBuf::from(OsStr::from_bytes(path));
        Self(folders.map(|folders| folders.paths.iter().map(path).collect()))
    }
}

impl Bounds {
    /// Refuses a path that is not below any of the folders; `shown` as the caller wrote it.
    ///
    /// # Errors
    /// When it is not.
    pub(super) fn check(&self, path: &Path, shown: &[u8]) -> Result<(), Fault> {
        match (&self.0, self.folder_of(path)) {
            (None, _) | (_, Some(_)) => Ok(()),
            (Some(_), None) => Err(Fault::new(format!(
                "{} is not below a folder that the server's settings allow for this",
                names::shown(shown)
            ))),
        }
    }

    /// Whether a path may be used.
    pub(super) fn allow(&self, path: &Path) -> bool {
        self.0.is_none() || self.folder_of(path).is_some()
    }

    /// The folder that a path is below, and the path there.
    fn folder_of(&self, path: &Path) -> Option<(&Path, PathBuf)> {
        let path = normal(path);
        let folders = self.0.as_deref().unwrap_or_default();
        folders.iter().find_map(|folder| {
            let below = path.strip_prefix(folder).ok()?;
            Some((folder.as_path(), below.to_owned()))
        })
    }

    /// Opens a file or folder for reading, without waiting for a FIFO's writer.
    ///
    /// # Errors
    /// When it is not there, may not be opened, or is not within bounds.
    pub(super) fn open(&self, path: &Path, no_follow: bool) -> io::Result<File> {
        let mut flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        flags.set(OFlags::NOFOLLOW, no_follow);
        self.open_with(path, flags)
    }

    /// Whether a path, or as much of it as there is, leads to the same within other bounds.
    pub(super) fn agree(&self, other: &Self, path: &Path) -> bool {
        if self.0.is_none() && other.0.is_none() {
            return true;
        }
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        for path in path.ancestors() {
            match (self.open_with(path, flags), other.open_with(path, flags)) {
                (Err(error), _) if error.kind() == io::ErrorKind::NotFound => {}
                (Ok(one), Ok(two)) => {
                    return matches!((identity(one), identity(two)),
                        (Ok(one), Ok(two)) if one == two);
                }
                _ => return false,
            }
        }
        false
    }

    fn open_with(&self, path: &Path, mut flags: OFlags) -> io::Result<File> {
        if self.0.is_none() {
            return Ok(openat(CWD, path, flags, Mode::empty())?.into());
        }
        let (folder, below) = self.folder_of(path).ok_or(Errno::ACCESS)?;
        let is_folder = names::means_folder(path.as_os_str().as_bytes());
        flags.set(OFlags::DIRECTORY, is_folder);
        let folder_flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = openat(CWD, folder, folder_flags, Mode::empty())?;
        let below = match below.as_os_str().is_empty() {
            true => Path::new("."),
            false => &below,
        };
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        match open_resolved(folder, below, flags, Mode::empty(), resolve) {
            Ok(opened) => Ok(opened.into()),
            // It leads out of the folder; or the kernel is too old to say that it does not.
            Err(Errno::XDEV | Errno::NOSYS) => Err(Errno::ACCESS.into()),
            Err(error) => Err(error.into()),
        }
    }
}

/// A path without `.` and `..`, which leads no higher than its beginning.
fn normal(path: &Path) -> PathBuf {
    let mut normal = PathBuf::new();
    for component in path.components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir => {
                normal.pop();
            }
            other => normal.push(other),
        }
    }
    normal
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    #[test]
    fn bounds_agree_only_on_what_they_lead_to_and_not_on_how_it_is_called() {
        let scene = tempfile::tempdir().unwrap();
        let at = |name: &str| scene.path().join(name);
        fs::create_dir_all(at("write/read")).unwrap();
        fs::create_dir_all(at("write/private")).unwrap();
        symlink("../private", at("write/read/link")).unwrap();
        let (read, write) = (below(&at("write/read")), below(&at("write")));
        for bad in [
            "write/read/link",
            "write/read/link/",
            "write/read/link/new",
            "write/new",
            "new",
        ] {
            assert!(!write.agree(&read, &at(bad)), "{bad}");
        }
        for good in ["write/read", "write/read/", "write/read/new/er"] {
            assert!(write.agree(&read, &at(good)), "{good}");
        }
        let all = Bounds(None);
        assert!(all.agree(&all, &at("new")) && write.agree(&all, &at("write/read/link")));
    }

    fn below(folder: &Path) -> Bounds {
        Bounds(Some(vec![folder.to_owned()]))
    }

    #[test]
    fn settings_that_name_no_folder_are_refused() {
        for (name, value) in [
            ("read", "relative"),
            ("write", "/srv/../etc"),
            ("read", "/srv/"),
            ("read", ""),
            ("raed", "/srv"),
        ] {
            let settings = Settings::new().with(name, [value]);
            assert!(from_settings(&settings).is_err(), "{name} {value}");
        }
        assert!(from_settings(&Settings::new().with("read", ["/srv", "/"])).is_ok());
    }

    #[test]
    fn nothing_outside_is_opened_by_any_path_or_link() {
        let scene = tempfile::tempdir().unwrap();
        let at = |name: &str| scene.path().join(name);
        fs::create_dir_all(at("root/inner")).unwrap();
        fs::create_dir(at("root-too")).unwrap();
        fs::write(at("secret"), b"x").unwrap();
        fs::write(at("root-too/secret"), b"x").unwrap();
        fs::write(at("root/inner/f"), b"x").unwrap();
        symlink("../secret", at("root/up")).unwrap();
        symlink(at("secret"), at("root/absolute")).unwrap();
        symlink("inner/../../secret", at("root/winding")).unwrap();
        symlink("/proc/self/cwd", at("root/magic")).unwrap();
        symlink("inner", at("root/within")).unwrap();
        let bounds = below(&at("root"));
        for bad in [
            "secret",
            "root/../secret",
            "root-too/secret",
            "root/inner/../../secret",
            "root/up",
            "root/absolute",
            "root/winding",
            "root/magic/",
            ".",
            "root/..",
        ] {
            let error = bounds.open(&at(bad), false).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::PermissionDenied, "{bad}");
        }
        for good in [
            "root",
            "root/",
            "root/inner/f",
            "root/within/f",
            "root/./inner/../inner",
        ] {
            assert!(bounds.open(&at(good), false).is_ok(), "{good}");
        }
        // Whose parents are looked up again in the middle.
        symlink("inner/../inner/f", at("root/around")).unwrap();
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    fs::rename(at("root-too"), at("root-2")).unwrap();
                    fs::rename(at("root-2"), at("root-too")).unwrap();
                }
            });
            let failed = (0..5000).find_map(|_| bounds.open(&at("root/around"), false).err());
            done.store(true, Ordering::Relaxed);
            assert!(failed.is_none(), "{failed:?}");
        });
        let missing = bounds.open(&at("root/missing"), false).unwrap_err();
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
        assert!(bounds.check(&at("secret"), b"secret").is_err());
        assert!(Bounds(None).allow(&at("secret")) && !bounds.allow(&at("secret")));
    }
}
