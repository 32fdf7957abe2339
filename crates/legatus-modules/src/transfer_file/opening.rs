//! How a source comes to its entries: the paths that were asked for, and what is below them.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat, fstat, readlinkat, statat};
use rustix::io::Errno;

use super::folders::{Open, kind, open_beneath, open_folder};
use super::messages;
use super::names;

/// Something to be copied.
pub(super) enum Opened {
    /// A file that is open already.
    File(File),
    /// A file that is opened when its contents are wanted.
    Seen(Stat),
    Folder(OwnedFd),
    Link {
        target: Vec<u8>,
        stat: Stat,
    },
    /// None of these.
    Special(FileType, Stat),
}

/// One of the sources that were asked for.
pub(super) struct Root {
    pub(super) root: messages::Root,
    pub(super) path: Vec<u8>,
    pub(super) opened: io::Result<Opened>,
    /// The folder that it is in, if it can only be reached through that.
    pub(super) in_folder: Option<OwnedFd>,
}

impl Root {
    /// Opens the source at `path`, which is told as `shown`.
    pub(super) fn open(open: &Open<'_>, path: &Path, shown: &[u8]) -> Self {
        let mut root = Self {
            root: names::root(shown),
            path: shown.to_vec(),
            opened: Err(Errno::NOENT.into()),
            in_folder: None,
        };
        root.opened = root.look(open, path);
        root
    }

    fn look(&mut self, open: &Open<'_>, path: &Path) -> io::Result<Opened> {
        if names::means_folder(&self.path) {
            return match opened(open(path, false)?)? {
                Opened::Folder(folder) => Ok(Opened::Folder(folder)),
                _ => Err(Errno::NOTDIR.into()),
            };
        }
        // Through its folder, so that links are seen as such and a FIFO is never opened.
        let (parent, name) = names::split(path);
        match open(parent, false) {
            Ok(parent) => {
                let looked = look(&parent, name.as_bytes(), FileType::Unknown)?;
                // A source that cannot be read is a failure before anything is made.
                if let Opened::Seen(_) = looked {
                    open_entry(&parent, name.as_bytes())?;
                }
                self.in_folder = Some(parent.into());
                // The name there, if the path says it in another way.
                Ok(looked)
            }
            // A folder may let through without letting read.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                opened(open(path, true)?)
            }
            Err(error) => Err(error),
        }
    }
}

fn opened(file: File) -> io::Result<Opened> {
    Ok(match kind(&file)? {
        FileType::RegularFile => Opened::File(file),
        FileType::Directory => Opened::Folder(file.into()),
        other => Opened::Special(other, fstat(&file)?),
    })
}

/// Why an entry that is neither file, folder nor link is not copied.
pub(super) fn special(kind: FileType) -> &'static str {
    match kind {
        FileType::Fifo => "it is a FIFO, which is not copied",
        FileType::Socket => "it is a socket, which is not copied",
        FileType::CharacterDevice | FileType::BlockDevice => "it is a device, which is not copied",
        _ => "it is neither file, folder nor link",
    }
}

/// Looks at an entry of a folder, and opens it if it is a folder.
pub(super) fn look(parent: impl AsFd, name: &[u8], kind: FileType) -> io::Result<Opened> {
    if kind == FileType::Directory {
        return Ok(Opened::Folder(open_folder(parent, name)?));
    }
    let stat = statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => Opened::Seen(stat),
        FileType::Directory => Opened::Folder(open_folder(parent, name)?),
        FileType::Symlink => Opened::Link {
            target: readlinkat(&parent, name, Vec::new())?.into_bytes(),
            stat,
        },
        other => Opened::Special(other, stat),
    })
}

/// Opens a file in a folder for reading. If it has become a FIFO meanwhile, that does not wait.
pub(super) fn open_entry(parent: impl AsFd, name: &[u8]) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
    Ok(open_beneath(parent, name, flags, Mode::empty())?)
}
