//! Where a copy goes: finds the target, makes its missing parents, and makes folders.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use legatus_core::Fault;
use rustix::fs::{FileType, Mode, fchmod, fsync, mkdirat};
use rustix::io::Errno;

use super::folders::{Open, kind, open_folder};
use super::messages::Placed;
use super::names;
use super::report::reason;

/// Where a copy goes.
#[derive(Debug)]
pub(super) enum Destination {
    /// Into this folder. It may have been made for the copy (`is_ours`), and if that goes on after its
    /// connection was lost not be new nevertheless.
    Into {
        folder: OwnedFd,
        is_new: bool,
        is_ours: bool,
    },
    /// To this name, which is no folder, in this folder. If the copy goes on, a folder at it is the
    /// copy's (`is_ours`).
    As {
        parent: OwnedFd,
        name: Vec<u8>,
        is_ours: bool,
    },
    /// Where nothing is and nothing is made: only what would be done is told. With a name as
    /// [`Self::As`].
    Nowhere(Option<Vec<u8>>),
}

/// How to find a target.
pub(super) struct Wanted<'a> {
    pub(super) path: &'a Path,
    /// As the user wrote it.
    pub(super) shown: &'a [u8],
    /// There are several sources.
    pub(super) into_folder: bool,
    pub(super) no_parents: bool,
    /// Make nothing.
    pub(super) dry_run: bool,
    /// What the target was when the copy began, if this goes on with it.
    pub(super) placed: Option<Placed>,
}

impl Destination {
    /// The folder that the sources' own entries are made in; `None` if it would be made.
    pub(super) fn folder(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::Into { folder, .. } | Self::As { parent: folder, .. } => Some(folder.as_fd()),
            Self::Nowhere(_) => None,
        }
    }

    /// Whether entries keep their names in it.
    pub(super) fn is_folder(&self) -> bool {
        self.name().is_none()
    }

    /// The new name of the source's entry, if it gets one.
    pub(super) fn name(&self) -> Option<&[u8]> {
        match self {
            Self::Into { .. } => None,
            Self::As { name, .. } => Some(name),
            Self::Nowhere(name) => name.as_deref(),
        }
    }

    /// Whether this is the target's own folder, made for the copy.
    pub(super) fn is_new(&self, name: &[u8]) -> bool {
        matches!(self, Self::Into { is_new: true, .. }) && name == b"."
    }

    /// Whether an entry of that name in [`Self::folder`] is the target itself, not made by this copy
    /// before its entries came.
    pub(super) fn is_given(&self, name: &[u8]) -> bool {
        match self {
            Self::Into { is_ours, .. } => !is_ours && name == b".",
            Self::As { is_ours, .. } => !is_ours,
            Self::Nowhere(_) => true,
        }
    }

    fn existing(folder: OwnedFd) -> Self {
        Self::Into {
            folder,
            is_new: false,
            is_ours: false,
        }
    }

    /// The folder that the target's own folder is in, and its name there.
    ///
    /// # Errors
    /// When that folder cannot be opened.
    pub(super) fn above(
        &self,
        open: &Open<'_>,
        wanted: &Wanted<'_>,
    ) -> Result<Option<(OwnedFd, Vec<u8>)>, Fault> {
        if !matches!(self, Self::Into { .. }) {
            return Ok(None);
        }
        let (parent, name) = names::split(wanted.path);
        let shown = names::shown(wanted.shown);
        match open_existing(open, parent) {
            Ok(parent) => Ok(Some((parent, name.as_bytes().to_vec()))),
            Err(error) => Err(unreachable_target(&shown, &error, false)),
        }
    }

    /// What it is, to be told to the other half.
    pub(super) fn placed(&self) -> Placed {
        Placed {
            renamed: self.name().is_some(),
            made: matches!(self, Self::Into { is_ours: true, .. }),
        }
    }

    /// The same once more, for when the connection is lost: what is there by then is the copy's.
    ///
    /// # Errors
    /// When there are no more descriptors.
    pub(super) fn again(&self) -> io::Result<Self> {
        Ok(match self {
            Self::Into {
                folder, is_ours, ..
            } => Self::Into {
                folder: folder.try_clone()?,
                is_new: false,
                is_ours: *is_ours,
            },
            Self::As { parent, name, .. } => Self::As {
                parent: parent.try_clone()?,
                name: name.clone(),
                is_ours: true,
            },
            Self::Nowhere(name) => Self::Nowhere(name.clone()),
        })
    }

    /// Finds the target; makes its missing parents, and itself if it can only be a folder.
    ///
    /// # Errors
    /// When there is no place to copy to, in the user's words.
    pub(super) fn find(open: &Open<'_>, wanted: &Wanted<'_>) -> Result<Self, Fault> {
        let shown = names::shown(wanted.shown);
        if wanted.dry_run {
            return Self::look(open, wanted);
        }
        if names::means_folder(wanted.shown) {
            return ensure_folder(open, wanted.path, wanted.no_parents.then_some(1))
                .map(|(folder, is_new)| Self::Into {
                    folder,
                    is_new,
                    is_ours: is_new || wanted.placed.is_some_and(|placed| placed.made),
                })
                .map_err(|error| unreachable_target(&shown, &error, wanted.no_parents));
        }
        let (parent, name) = names::split(wanted.path);
        let parent = match ensure_folder(open, parent, wanted.no_parents.then_some(0)) {
            Ok((parent, _)) => parent,
            // A folder may let through without letting read; the target may be a folder below.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                return open_existing(open, wanted.path)
                    .map(Self::existing)
                    .map_err(|_| unreachable_target(&shown, &error, false));
            }
            Err(error) => return Err(unreachable_target(&shown, &error, wanted.no_parents)),
        };
        if wanted.placed.is_some_and(|placed| placed.renamed) {
            let name = name.as_bytes().to_vec();
            return Ok(Self::As {
                parent,
                name,
                is_ours: true,
            });
        }
        // As everywhere, a target that is a symbolic link to a folder is that folder.
        // By its path, which leads nowhere that is out of bounds.
        match open_existing(open, wanted.path) {
            Ok(folder) => Ok(Self::existing(folder)),
            Err(error) if is_no_folder(&error) && wanted.into_folder => {
                let fault = Fault::new(format!("the target {shown} is no folder"));
                Err(fault.with_hint(
                    "several sources need a folder as target; if it ends in `/` it is made",
                ))
            }
            Err(error) if is_no_folder(&error) => {
                let name = name.as_bytes().to_vec();
                Ok(Self::As {
                    parent,
                    name,
                    is_ours: false,
                })
            }
            Err(error) => Err(unreachable_target(&shown, &error, false)),
        }
    }
}

impl Destination {
    /// Finds the target without making anything.
    fn look(open: &Open<'_>, wanted: &Wanted<'_>) -> Result<Self, Fault> {
        let failed =
            |error: io::Error| unreachable_target(&names::shown(wanted.shown), &error, false);
        let missing = |error: &io::Error| error.kind() == io::ErrorKind::NotFound;
        match open_existing(open, wanted.path) {
            Ok(folder) => return Ok(Self::existing(folder)),
            Err(error) if names::means_folder(wanted.shown) || wanted.into_folder => {
                let found = missing(&error) && names::means_folder(wanted.shown);
                return if found {
                    Ok(Self::Nowhere(None))
                } else {
                    Err(failed(error))
                };
            }
            Err(_) => {}
        }
        let (parent, name) = names::split(wanted.path);
        let name = name.as_bytes().to_vec();
        match open_existing(open, parent) {
            Ok(parent) => Ok(Self::As {
                parent,
                name,
                is_ours: false,
            }),
            Err(error) if missing(&error) => Ok(Self::Nowhere(Some(name))),
            Err(error) => Err(failed(error)),
        }
    }
}

/// Whether an error says that there is no folder, but perhaps something else.
fn is_no_folder(error: &io::Error) -> bool {
    matches!(
        Errno::from_io_error(error),
        Some(Errno::NOENT | Errno::NOTDIR | Errno::LOOP)
    )
}

fn unreachable_target(shown: &str, error: &io::Error, no_parents: bool) -> Fault {
    let fault = Fault::new(format!("cannot copy to {shown}: {}", reason(error)));
    if no_parents && error.kind() == io::ErrorKind::NotFound {
        fault.with_hint("its parent is missing; without `--no-parents` it would be made")
    } else {
        fault
    }
}

/// Makes a folder that may exist, with the parents that are missing.
pub(super) fn make_folder(
    open: &Open<'_>,
    path: &Path,
    mode: Option<Mode>,
    no_parents: bool,
) -> io::Result<()> {
    let (folder, _) = ensure_folder(open, path, no_parents.then_some(1))?;
    if let Some(mode) = mode {
        fchmod(&folder, mode)?;
    }
    durable(&folder)
}

/// Opens a folder, making at most `limit` missing folders on the way to it; and whether it is new.
fn ensure_folder(
    open: &Open<'_>,
    path: &Path,
    limit: Option<usize>,
) -> io::Result<(OwnedFd, bool)> {
    let (mut folder, missing) = deepest_existing(open, path)?;
    if limit.is_some_and(|limit| missing.components().count() > limit) {
        return Err(Errno::NOENT.into());
    }
    for component in missing.components() {
        folder = make_in(&folder, component.as_os_str())?;
    }
    Ok((folder, missing.components().next().is_some()))
}

/// The deepest folder of a path that exists, and what is missing below it.
fn deepest_existing(open: &Open<'_>, path: &Path) -> io::Result<(OwnedFd, PathBuf)> {
    for ancestor in path.ancestors() {
        match open_existing(open, ancestor) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
            Ok(folder) => {
                let missing = path
                    .strip_prefix(ancestor)
                    .unwrap_or_else(|_| Path::new(""));
                return Ok((folder, missing.to_owned()));
            }
        }
    }
    Err(Errno::NOENT.into())
}

fn open_existing(open: &Open<'_>, path: &Path) -> io::Result<OwnedFd> {
    let path = if path.as_os_str().is_empty() {
        Path::new(".")
    } else {
        path
    };
    // The final slash keeps a FIFO or device from being opened.
    let mut folder = path.as_os_str().to_owned();
    folder.push("/");
    let opened = open(Path::new(&folder), false)?;
    if kind(&opened)? == FileType::Directory {
        Ok(opened.into())
    } else {
        Err(Errno::NOTDIR.into())
    }
}

fn make_in(parent: &OwnedFd, name: &OsStr) -> io::Result<OwnedFd> {
    match mkdirat(parent, name, Mode::RWXU | Mode::RWXG | Mode::RWXO) {
        Ok(()) => durable(parent)?,
        // Somebody else may have made it just now.
        Err(Errno::EXIST) => {}
        Err(error) => return Err(error.into()),
    }
    // It was not there: what is there now and no folder was put there to lead elsewhere.
    open_folder(parent, name.as_bytes())
}

/// Waits until the entries of a folder are on the disk, where the file system can do that.
pub(super) fn durable(folder: impl AsFd) -> io::Result<()> {
    match fsync(folder) {
        Ok(()) | Err(Errno::INVAL) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
