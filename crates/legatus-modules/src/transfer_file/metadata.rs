//! What entries are beside their contents: compared and set.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, OFlags, RawMode, Stat, Timespec, Timestamps, UTIME_NOW,
    UTIME_OMIT, Uid, chmodat, chownat, fchmod, fchown, fstat, futimens, utimensat,
};
use rustix::io::Errno;

use super::change::Differences;
use super::folders::open_beneath;
use super::messages::{Attribute, Attributes, PERMISSIONS};
use super::xattrs;

/// What could not be kept: told once, not for each entry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Lost {
    pub(super) owner: bool,
    pub(super) xattrs: bool,
}

/// What differs of an entry that is there, its contents aside.
pub(super) fn differences(
    wanted: &Attributes,
    mode: Option<Mode>,
    stat: &Stat,
    present: impl FnOnce() -> io::Result<Vec<Attribute>>,
    archive: bool,
) -> Differences {
    let now = (
        stat.st_mtime,
        i64::try_from(stat.st_mtime_nsec).unwrap_or_default(),
    );
    let time = wanted.timestamp().map(|time| (time.tv_sec, time.tv_nsec));
    let mode = mode.map(Mode::as_raw_mode);
    let mut told = Differences {
        time: time.is_some_and(|time| time != now),
        mode: mode.is_some_and(|mode| mode != RawMode::from(stat.st_mode & PERMISSIONS)),
        owner: wanted.user.is_some_and(|user| user != stat.st_uid),
        group: wanted.group.is_some_and(|group| group != stat.st_gid),
        ..Differences::default()
    };
    if archive && let Ok(present) = present() {
        let is_acl = |one: &&Attribute| one.name.starts_with(b"system.posix_acl_");
        let of = |all: &[Attribute], acl: bool| -> Vec<Attribute> {
            all.iter()
                .filter(|one| is_acl(one) == acl)
                .cloned()
                .collect()
        };
        told.acl = of(&present, true) != of(&wanted.extended, true);
        told.xattrs = of(&present, false) != of(&wanted.extended, false);
    }
    told
}

/// Gives an open file or folder its attributes. Special bits of the mode are for the owner that the
/// source has: without that owner they are dropped, unless the user gave the mode.
pub(super) fn set(
    file: BorrowedFd<'_>,
    wanted: &Attributes,
    mode: Mode,
    is_given: bool,
    archive: bool,
) -> io::Result<Lost> {
    let mut lost = Lost::default();
    let mut mode = mode;
    if wanted.has_owner() {
        let (user, group) = ids(wanted);
        if fchown(file, user, group).is_err() {
            // Not that user, but perhaps that group.
            lost.owner = true;
            fchown(file, None, group).ok();
            if !is_given {
                mode &= Mode::RWXU | Mode::RWXG | Mode::RWXO;
            }
        }
    }
    fchmod(file, mode)?;
    if archive {
        lost.xattrs = xattrs::set_open(file, &wanted.extended).is_err();
    }
    futimens(file, &timestamps(wanted.timestamp()))?;
    Ok(lost)
}

/// Gives an entry that is not opened (a link, a device) its attributes; a link has no mode.
pub(super) fn set_entry(
    folder: impl AsFd,
    name: &[u8],
    wanted: &Attributes,
    mode: Option<Mode>,
    archive: bool,
) -> io::Result<Lost> {
    let mut lost = Lost::default();
    if wanted.has_owner() {
        let (user, group) = ids(wanted);
        lost.owner = chownat(&folder, name, user, group, AtFlags::SYMLINK_NOFOLLOW).is_err();
    }
    if let Some(mode) = mode {
        set_mode(&folder, name, mode)?;
    }
    if archive {
        lost.xattrs = xattrs::set(&folder, name, &wanted.extended).is_err();
    }
    let times = timestamps(wanted.timestamp());
    utimensat(&folder, name, &times, AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(lost)
}

/// Gives an entry of a folder a mode; a link, put there meanwhile, is not followed.
///
/// # Errors
/// When the entry cannot have it, or is a link.
pub(super) fn set_mode(folder: impl AsFd, name: &[u8], mode: Mode) -> io::Result<()> {
    let opened = open_beneath(folder, name, OFlags::PATH, Mode::empty())?;
    if FileType::from_raw_mode(fstat(&opened)?.st_mode) == FileType::Symlink {
        return Err(Errno::LOOP.into());
    }
    // A descriptor that only names an entry takes no fchmod(2), and fchmodat2(2) is from Linux 6.6.
    let path = format!("/proc/self/fd/{}", opened.as_raw_fd());
    Ok(chmodat(CWD, path, mode, AtFlags::empty())?)
}

fn ids(wanted: &Attributes) -> (Option<Uid>, Option<Gid>) {
    // The highest number means "leave it" to the kernel.
    let valid = |id: &u32| *id != u32::MAX;
    (
        wanted.user.filter(valid).map(Uid::from_raw),
        wanted.group.filter(valid).map(Gid::from_raw),
    )
}

fn timestamps(modified: Option<Timespec>) -> Timestamps {
    let special = |tv_nsec: i64| Timespec { tv_sec: 0, tv_nsec };
    Timestamps {
        last_access: special(UTIME_OMIT),
        last_modification: modified.unwrap_or_else(|| special(UTIME_NOW)),
    }
}
