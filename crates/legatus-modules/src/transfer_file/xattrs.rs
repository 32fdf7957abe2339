//! Extended attributes, and with them access control lists and capabilities.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd};

use rustix::fs::{
    XattrFlags, fgetxattr, flistxattr, fremovexattr, fsetxattr, lgetxattr, llistxattr,
    lremovexattr, lsetxattr,
};
use rustix::io::Errno;

use super::messages::Attribute;

/// Bytes of the attributes of one entry, at most, so that its event fits into a message. File systems
/// mostly allow less.
const BYTES: usize = 128 << 10;

/// Attributes of an entry of a folder, sorted by name. Symbolic links are not followed.
pub(super) fn of(folder: impl AsFd, name: &[u8]) -> io::Result<Vec<Attribute>> {
    let path = path(folder, name);
    read(
        |list| llistxattr(&path[..], list),
        |name, value| lgetxattr(&path[..], name, value),
    )
}

/// Attributes of an open file or folder, sorted by name.
pub(super) fn of_open(file: impl AsFd) -> io::Result<Vec<Attribute>> {
    read(
        |list| flistxattr(&file, list),
        |name, value| fgetxattr(&file, name, value),
    )
}

/// Gives these attributes to an open file or folder, and no others.
pub(super) fn set_open(file: impl AsFd, wanted: &[Attribute]) -> io::Result<()> {
    apply(
        &of_open(&file)?,
        wanted,
        |name, value| fsetxattr(&file, name, value, XattrFlags::empty()),
        |name| fremovexattr(&file, name),
    )
}

/// Gives these attributes to an entry of a folder, and no others.
pub(super) fn set(folder: impl AsFd, name: &[u8], wanted: &[Attribute]) -> io::Result<()> {
    let path = path(&folder, name);
    apply(
        &of(&folder, name)?,
        wanted,
        |name, value| lsetxattr(&path[..], name, value, XattrFlags::empty()),
        |name| lremovexattr(&path[..], name),
    )
}

/// There is no `getxattrat(2)` before Linux 6.13. The way through the descriptor leads to the folder
/// that was opened, whatever is at its path now.
fn path(folder: impl AsFd, name: &[u8]) -> Vec<u8> {
    let folder = format!("/proc/self/fd/{}/", folder.as_fd().as_raw_fd());
    [folder.as_bytes(), name].concat()
}

fn read(
    list: impl Fn(&mut [u8]) -> Result<usize, Errno>,
    get: impl Fn(&CStr, &mut [u8]) -> Result<usize, Errno>,
) -> io::Result<Vec<Attribute>> {
    let mut room = [0; 1024];
    let names = match list(&mut room) {
        Ok(length) => room.get(..length).unwrap_or_default().to_vec(),
        Err(Errno::RANGE) => {
            let mut room = vec![0; BYTES];
            let length = list(&mut room)?;
            room.truncate(length);
            room
        }
        Err(Errno::OPNOTSUPP) => Vec::new(),
        Err(error) => return Err(error.into()),
    };
    let mut attributes = Vec::new();
    let mut left = BYTES;
    for name in names.split_inclusive(|byte| *byte == 0) {
        let Ok(text) = CStr::from_bytes_with_nul(name) else {
            continue;
        };
        // Not visible to us, or of the file system itself, as SELinux's labels are of a machine.
        if text.to_bytes().starts_with(b"security.selinux") {
            continue;
        }
        let mut room = vec![0; left];
        let Ok(length) = get(text, &mut room) else {
            continue;
        };
        room.truncate(length);
        left = left.saturating_sub(length + name.len());
        attributes.push(Attribute {
            name: text.to_bytes().to_vec().into(),
            value: room.into(),
        });
    }
    attributes.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(attributes)
}

fn apply(
    present: &[Attribute],
    wanted: &[Attribute],
    set: impl Fn(&[u8], &[u8]) -> Result<(), Errno>,
    remove: impl Fn(&[u8]) -> Result<(), Errno>,
) -> io::Result<()> {
    let mut told = Ok(());
    for attribute in wanted.iter().filter(|one| !present.contains(one)) {
        if let Err(error) = set(&attribute.name, &attribute.value) {
            told = Err(error.into());
        }
    }
    for attribute in present {
        if !wanted.iter().any(|one| one.name == attribute.name)
            && let Err(error) = remove(&attribute.name)
        {
            told = Err(error.into());
        }
    }
    told
}
