//! What a target does about entries without contents: links, devices and their like.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{
    AtFlags, FileType, Mode, Stat, makedev, mknodat, readlinkat, symlinkat, unlinkat,
};
use rustix::io::Errno;

use super::change::Differences;
use super::judging::{Judge, kind};
use super::messages::{Attributes, HardLink, Link, Misbehaved, Special};
use super::metadata;
use super::names;
use super::site::Site;
use super::staged;
use super::target::TargetError;
use super::temporary::Place;
use super::xattrs;

impl Judge {
    pub(super) fn link(&mut self, link: &Link) -> Result<(), TargetError> {
        let Some(name) = self.place(link.name.clone())? else {
            return Ok(());
        };
        if link.target.len() > names::LINK_BYTES {
            return Err(Misbehaved("a link that is too long").into());
        }
        self.shared.gauge.advance(0, 1);
        let mut attributes = link.attributes.clone().unwrap_or_default();
        self.mapping.apply(&mut attributes);
        match self.make_link(&name, &link.target, &attributes) {
            Ok(()) => {
                self.shared.finished().links += 1;
                Ok(())
            }
            Err(error) => self.failed("write", Some(&name), &error),
        }
    }

    pub(super) fn make_link(
        &self,
        name: &[u8],
        to: &[u8],
        attributes: &Attributes,
    ) -> io::Result<()> {
        let stat = self.stat(name)?;
        let is_it = match &stat {
            Some(stat) if kind(stat) == FileType::Symlink => {
                let folder = self.site().open()?;
                readlinkat(&*folder, name, Vec::new())?.as_bytes() == to
            }
            _ => false,
        };
        let make = |folder: &OwnedFd, name: &[u8]| symlinkat(to, folder, name);
        self.make_entry(name, attributes, stat, is_it, ('L', to), make)
    }

    pub(super) fn special(&mut self, special: &Special) -> Result<(), TargetError> {
        let Some(name) = self.place(special.name.clone())? else {
            return Ok(());
        };
        let kind_wanted = FileType::from_raw_mode(special.kind);
        let fits = matches!(
            kind_wanted,
            FileType::Fifo | FileType::Socket | FileType::CharacterDevice | FileType::BlockDevice
        );
        if !fits || !self.shared.options.archive {
            return Err(Misbehaved("a device that was not asked for").into());
        }
        self.shared.gauge.advance(0, 1);
        let mut attributes = special.attributes.clone().unwrap_or_default();
        self.mapping.apply(&mut attributes);
        let device = makedev(special.major, special.minor);
        let is_device = matches!(
            kind_wanted,
            FileType::CharacterDevice | FileType::BlockDevice
        );
        let made = self.stat(&name).and_then(|stat| {
            let is_it = stat.as_ref().is_some_and(|stat| {
                kind(stat) == kind_wanted && (!is_device || stat.st_rdev == device)
            });
            let make = |folder: &OwnedFd, name: &[u8]| {
                mknodat(folder, name, kind_wanted, Mode::RUSR | Mode::WUSR, device)
            };
            let letter = if is_device { 'D' } else { 'S' };
            self.make_entry(&name, &attributes, stat, is_it, (letter, b""), make)
        });
        match made {
            Ok(()) => Ok(()),
            Err(error) => self.failed("make", Some(&name), &error),
        }
    }

    /// Makes an entry that is not a file, unless it is there.
    pub(super) fn make_entry(
        &self,
        name: &[u8],
        attributes: &Attributes,
        stat: Option<Stat>,
        is_it: bool,
        (letter, to): (char, &[u8]),
        make: impl Fn(&OwnedFd, &[u8]) -> Result<(), Errno>,
    ) -> io::Result<()> {
        let shared = Arc::clone(&self.shared);
        let (dry_run, archive) = (shared.options.dry_run, shared.options.archive);
        let site = Arc::clone(self.site());
        if let (Some(stat), true) = (&stat, is_it) {
            let folder = site.open()?;
            let present = || xattrs::of(&*folder, name);
            let mode = (letter != 'L').then(|| special_mode(attributes));
            let differences = metadata::differences(attributes, mode, stat, present, archive);
            if differences.any() {
                self.change(differences.flags('.', letter), &site, name, false, to);
                if !dry_run && self.stage.is_some() {
                    // It is the inode of the tree that is there. What is no link is not replaced where
                    // anybody could have it open; here nobody can.
                    if letter != 'L' {
                        unlinkat(&*folder, name, AtFlags::empty())?;
                    }
                    return self.remake(&site, name, attributes, letter, make);
                }
                if !dry_run {
                    let lost = metadata::set_entry(&*folder, name, attributes, mode, archive)?;
                    shared.note_lost(lost);
                }
            }
            return Ok(());
        }
        let differences = Differences {
            is_new: stat.is_none(),
            contents: true,
            ..Differences::default()
        };
        if let Some(stat) = &stat {
            self.make_way(name, stat)?;
        }
        self.change(differences.flags('c', letter), &site, name, false, to);
        if dry_run {
            return Ok(());
        }
        self.remake(&site, name, attributes, letter, make)
    }

    fn remake(
        &self,
        site: &Site,
        name: &[u8],
        attributes: &Attributes,
        letter: char,
        make: impl Fn(&OwnedFd, &[u8]) -> Result<(), Errno>,
    ) -> io::Result<()> {
        let mode = (letter != 'L').then(|| special_mode(attributes));
        let folder = site.open()?;
        let place = Place::new(folder.as_fd(), &site.sweep);
        site.touch();
        let archive = self.shared.options.archive;
        let lost = staged::entry(
            place,
            name,
            |name| make(&folder, name),
            |name| metadata::set_entry(&*folder, name, attributes, mode, archive),
        )?;
        self.shared.note_lost(lost);
        Ok(())
    }

    pub(super) fn hard_link(&mut self, link: HardLink) -> Result<(), TargetError> {
        let entry = link.entry;
        let Some(name) = self.place(link.name)? else {
            return Ok(());
        };
        // What else is in its way is replaced when the link is made.
        let folder_in_its_way = self.stat(&name).and_then(|stat| match &stat {
            Some(stat) if kind(stat) == FileType::Directory => self.make_way(&name, stat),
            _ => Ok(()),
        });
        if let Err(error) = folder_in_its_way {
            return self.failed("link", Some(&name), &error);
        }
        let site = Arc::clone(self.site());
        site.hold();
        Ok(self.links.add(site, name, entry)?)
    }
}

/// The mode of a device, FIFO or socket: with special bits where its owner is kept.
fn special_mode(attributes: &Attributes) -> Mode {
    match attributes.has_owner() {
        true => attributes.folder_mode(0o600),
        false => attributes.file_mode(0o600),
    }
}
