//! What a target does about folders: makes them, leaves them, and removes what is not to be in them.

use std::collections::HashSet;
use std::hash::BuildHasher;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{FileType, Stat};
use rustix::io::Errno;

use super::change::{DELETED, Differences};
use super::deletion::{self, Removal};
use super::folders::{DEPTH, is_incomplete, make_or_open, open_folder};
use super::judging::{Judge, Level, kind};
use super::messages::{Attributes, Change, Failure, Folder, Misbehaved};
use super::metadata;
use super::names;
use super::report::reason;
use super::site::Site;
use super::staging::Stage;
use super::target::{Notice, TargetError};
use super::temporary::is_temporary;
use super::tree::Node;
use super::xattrs;

impl Judge {
    pub(super) fn folder(&mut self, folder: Folder) -> Result<(), TargetError> {
        if self.levels.len() + self.skipping >= DEPTH {
            return Err(Misbehaved("folders that are nested too deeply").into());
        }
        let mut attributes = folder.attributes.unwrap_or_default();
        self.mapping.apply(&mut attributes);
        let name = match self.place(folder.name)? {
            Some(name) if self.skipping == 0 => name,
            _ => {
                self.skipping += 1;
                return Ok(());
            }
        };
        let staged = if self.levels.is_empty() {
            self.stage(&name)
        } else {
            Ok(())
        };
        match staged.and_then(|()| self.enter(&name, attributes, folder.implied)) {
            Ok(site) => {
                let names = self.shared.options.delete && !folder.implied && site.node().is_some();
                let names = names.then(HashSet::new);
                self.levels.push(Level { site, names });
                self.shared.finished().folders += 1;
                self.shared.gauge.advance(0, 1);
                Ok(())
            }
            Err(error) => {
                self.skipping = 1;
                self.failed("make folder", Some(&name), &error)
            }
        }
    }

    /// Has the tree that begins with this entry made beside its name, if that is wanted.
    fn stage(&mut self, name: &[u8]) -> io::Result<()> {
        if !self.shared.options.atomic || self.shared.options.dry_run {
            return Ok(());
        }
        let none = || io::Error::other("it has no folder above it");
        let (parent, name) = match name {
            b"." => self.above.take().ok_or_else(none)?,
            name => {
                let folder = self.destination.folder().ok_or_else(none)?;
                (folder.try_clone_to_owned()?, name.to_vec())
            }
        };
        let shared = Arc::clone(&self.shared);
        let stage = Stage::begin(parent, &name, &|| shared.is_stopped())?;
        let (folder, _) = stage.place()?;
        let identity = super::folders::identity(&folder)?;
        let top = Node::root(folder, identity, &Arc::default());
        let origin = Arc::clone(&self.at_top.origin);
        self.at_top = Site::top(Some(top), origin, self.at_top.sweep.another());
        self.stage = Some(stage);
        Ok(())
    }

    pub(super) fn enter(
        &self,
        name: &[u8],
        attributes: Attributes,
        implied: bool,
    ) -> io::Result<Arc<Site>> {
        let shared = Arc::clone(&self.shared);
        let options = &shared.options;
        let parent = Arc::clone(self.site());
        // A folder that the user named as the target and that was there keeps its mode, such as a
        // home into which a source's contents go.
        let is_given = self.levels.is_empty() && self.destination.is_given(name);
        // Where it is for now.
        let staged = self.stage.as_ref().filter(|_| self.levels.is_empty());
        let is_fresh = staged.is_some_and(|stage| !stage.replaces);
        let at = match staged {
            Some(stage) => stage.place()?.1,
            None => name,
        };
        let stat = self.stat(at)?;
        let is_folder = stat
            .as_ref()
            .is_some_and(|stat| kind(stat) == FileType::Directory);
        let is_made = self.levels.is_empty() && self.destination.is_new(name);
        let mut is_new = is_made || is_fresh;
        if stat.is_some() && !is_folder && options.delete && !is_given {
            self.clear(at, false)?;
        }
        let node = if options.dry_run && (!is_folder || parent.node().is_none()) {
            if stat.is_some() && !is_folder && !options.delete {
                return Err(io::Error::other(
                    "there is something else than a folder at its name",
                ));
            }
            is_new = true;
            None
        } else {
            let folder = parent.open()?;
            let opened = if options.dry_run {
                open_folder(&*folder, at)?
            } else {
                let (opened, made) = make_or_open(folder.as_fd(), at)?;
                is_new |= made;
                opened
            };
            let above = parent.node().ok_or(Errno::NOENT)?;
            Some((Node::opened(above, at, opened)?, folder))
        };
        let attributes = match &node {
            Some((node, _)) if is_given && !is_new => own_mode(&*node.open()?, attributes)?,
            _ => Some(attributes),
        };
        // Of one with others at work in it, the mode may forbid that; it comes afterwards.
        let is_shared = options.share.is_some();
        let is_left = match &node {
            Some((node, _)) => is_incomplete(&rustix::fs::fstat(&*node.open()?)?),
            None => false,
        };
        let attributes = attributes.filter(|_| (is_new || is_left || !implied) && !is_shared);
        let differences = match (&node, &attributes) {
            (Some((node, _)), Some(attributes)) if !is_new => {
                let folder = node.open()?;
                let stat = rustix::fs::fstat(&*folder)?;
                let present = || xattrs::of_open(&*folder);
                let mode = Some(attributes.folder_mode(0o775));
                metadata::differences(attributes, mode, &stat, present, options.archive)
            }
            (_, None) => Differences::default(),
            _ => Differences {
                is_new: true,
                ..Differences::default()
            },
        };
        if differences.any() {
            let happens = if is_new { 'c' } else { '.' };
            self.change(differences.flags(happens, 'd'), &parent, name, true, b"");
            if is_new {
                parent.touch();
            }
        }
        let node = node.map(|(node, _)| node);
        Ok(Site::below(&parent, node, at, is_new, attributes))
    }

    pub(super) fn leave(&mut self, incomplete: bool) -> Result<(), TargetError> {
        if self.skipping > 0 {
            self.skipping -= 1;
            return Ok(());
        }
        let Some(level) = self.levels.pop() else {
            return Err(Misbehaved("more folders left than entered").into());
        };
        if let Some(names) = &level.names {
            if incomplete {
                self.shared
                    .note("nothing is deleted in folders of which not all could be read");
            } else if let Err(error) = self.delete_others(&level.site, names) {
                let failure = Failure::new("delete in", level.site.path(None), reason(&error));
                self.shared.failed(failure)?;
            }
        }
        self.shared.let_go(&level.site)
    }

    /// Removes what the source does not have in a folder.
    pub(super) fn delete_others(&self, site: &Arc<Site>, names: &HashSet<u64>) -> io::Result<()> {
        if site.is_new {
            return Ok(());
        }
        let folder = site.open()?;
        for (name, is_folder) in deletion::entries(&*folder)? {
            if names.contains(&self.hashes.hash_one(&name[..])) {
                continue;
            }
            if is_temporary(&name) && !is_folder {
                // Left by a copy; one that is still going on has it open, and fails to name it.
                continue;
            }
            let above = site.names();
            if self
                .filter
                .excludes(above.iter().copied(), &name, is_folder)
            {
                continue;
            }
            if self.backup(&folder, &name)? {
                continue;
            }
            self.remove(site, &folder, &name, is_folder)?;
        }
        Ok(())
    }

    /// Makes way for an entry of another kind.
    pub(super) fn clear(&self, name: &[u8], is_folder: bool) -> io::Result<()> {
        let site = Arc::clone(self.site());
        let folder = site.open()?;
        if self.backup(&folder, name)? {
            return Ok(());
        }
        self.remove(&site, &folder, name, is_folder)
    }

    pub(super) fn remove(
        &self,
        site: &Arc<Site>,
        folder: &Arc<OwnedFd>,
        name: &[u8],
        is_folder: bool,
    ) -> io::Result<()> {
        let (shared, mut deleted) = (Arc::clone(&self.shared), 0);
        let below = site.origin.below.clone();
        let above = site.names();
        let mut told = |names: &[&[u8]], is_folder: bool| {
            deleted += 1;
            if shared.options.itemize {
                let mut path = names::join(&below, names.iter().copied());
                if is_folder {
                    path.push(b'/');
                }
                let change = Change {
                    flags: DELETED.to_owned(),
                    path: path.into(),
                    ..Change::default()
                };
                // Who does not listen any more misses nothing.
                shared.tell(Notice::Change(change)).ok();
            }
        };
        let removed = Removal {
            filter: &self.filter,
            dry_run: self.shared.options.dry_run,
            opens_up: false,
            told: &mut told,
        }
        .remove(&**folder, &above, name, is_folder);
        self.shared.finished().deleted += deleted;
        site.touch();
        removed
    }

    /// Gives what is at a name the name of a backup, if the user wants that.
    pub(super) fn backup(&self, folder: &Arc<OwnedFd>, name: &[u8]) -> io::Result<bool> {
        let suffix = &self.shared.options.backup;
        if suffix.is_empty() || name.ends_with(suffix) {
            return Ok(!suffix.is_empty());
        }
        if !self.shared.options.dry_run {
            let backup = [name, suffix].concat();
            rustix::fs::renameat(folder, name, folder, backup)?;
        }
        Ok(true)
    }

    /// Looks whether what is at a name may be replaced, and removes it if it is a folder that may.
    pub(super) fn make_way(&self, name: &[u8], stat: &Stat) -> io::Result<()> {
        super::temporary::check_kind(kind(stat))?;
        if kind(stat) != FileType::Directory {
            return Ok(());
        }
        if !self.shared.options.delete || self.levels.is_empty() {
            return Err(Errno::ISDIR.into());
        }
        self.clear(name, true)
    }
}

/// The attributes for a folder that keeps its mode; none for somebody else's, such as `/tmp`, whose
/// time is not ours to set.
fn own_mode(folder: impl AsFd, attributes: Attributes) -> io::Result<Option<Attributes>> {
    let stat = rustix::fs::fstat(folder)?;
    let user = rustix::process::geteuid();
    let ours = user.is_root() || user.as_raw() == stat.st_uid;
    Ok(ours.then_some(Attributes {
        mode: Some(stat.st_mode),
        ..attributes
    }))
}
