//! The part of a target that decides: looks at what is there, makes folders and links, and asks for
//! the contents of files that are not as they should be.

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, TryRecvError};

use bytes::Bytes;
use rustix::fs::{AtFlags, FileType, Stat, makedev, mknodat, readlinkat, statat, symlinkat};
use rustix::io::Errno;

use super::change::{DELETED, Differences};
use super::deletion::{self, Removal};
use super::destination::Destination;
use super::filter::Filter;
use super::folders::{DEPTH, make_or_open, open_folder};
use super::links::Links;
use super::messages::event::Event;
use super::messages::{
    Attributes, Change, Events, Failure, Folder, Link, Misbehaved, Root, Special,
};
use super::metadata;
use super::names;
use super::ownership::Mapping;
use super::report::reason;
use super::site::{Origin, Site};
use super::staged;
use super::target::{Notice, Shared, TargetError};
use super::temporary::{Place, Sweep, is_temporary};
use super::tree::Node;
use super::xattrs;

/// The folders that a target is in.
struct Level {
    site: Arc<Site>,
    /// Hashes of the names that the source has in it, where others are to be removed.
    names: Option<HashSet<u64>>,
}

/// Decides about each entry.
pub(super) struct Judge {
    pub(super) shared: Arc<Shared>,
    destination: Destination,
    top: Option<Arc<Node>>,
    /// The target's path, as failures tell it.
    shown: Vec<u8>,
    /// The sources that were asked for, the last one first; `None` if the other half decides.
    asked: Option<Vec<Root>>,
    filter: Filter,
    hashes: RandomState,
    /// The source whose entry has not begun.
    root: Option<Root>,
    at_top: Arc<Site>,
    levels: Vec<Level>,
    /// Folders that we are in and that could not be made: nothing in them is.
    skipping: usize,
    mapping: Mapping,
    pub(super) links: Links,
    /// The number of the event.
    pub(super) number: u64,
    sweep: Sweep,
}

impl Judge {
    pub(super) fn new(
        shared: Arc<Shared>,
        destination: Destination,
        shown: &[u8],
        asked: Option<Vec<Root>>,
        filter: Filter,
        sweep: Sweep,
    ) -> Result<Self, TargetError> {
        let top = match destination.folder() {
            Some(folder) => {
                let identity = super::folders::identity(folder).map_err(TargetError::NotDurable)?;
                let folder = folder
                    .try_clone_to_owned()
                    .map_err(TargetError::NotDurable)?;
                Some(Node::root(folder, identity, &Arc::default()))
            }
            None => None,
        };
        let asked = asked.map(|mut sources| {
            sources.reverse();
            sources
        });
        Ok(Self {
            shared,
            destination,
            at_top: Site::top(top.clone(), Arc::default(), sweep.another()),
            top,
            shown: shown.to_vec(),
            asked,
            filter,
            hashes: RandomState::new(),
            root: None,
            levels: Vec::new(),
            skipping: 0,
            mapping: Mapping::default(),
            links: Links::default(),
            number: 0,
            sweep,
        })
    }

    /// Decides about everything that is told, until the end is; blocks.
    pub(super) fn run(
        mut self,
        messages: Receiver<Bytes>,
        waiting: &AtomicUsize,
    ) -> Result<Links, TargetError> {
        loop {
            let message = match messages.try_recv() {
                Ok(message) => message,
                Err(TryRecvError::Disconnected) => return Err(TargetError::Interrupted),
                Err(TryRecvError::Empty) => {
                    self.shared.flush()?;
                    messages.recv().map_err(|_| TargetError::Interrupted)?
                }
            };
            waiting.fetch_sub(message.len(), Ordering::AcqRel);
            for event in Events(message) {
                let event = event?;
                if self.shared.is_stopped() {
                    return Err(TargetError::Interrupted);
                }
                if matches!(event, Event::End(_)) {
                    return self.end();
                }
                let number = self.number;
                if !self.handle(event)? {
                    self.shared.tell(Notice::Settled(number))?;
                }
                self.number += 1;
            }
        }
    }

    fn end(self) -> Result<Links, TargetError> {
        if !self.levels.is_empty() || self.skipping > 0 {
            return Err(Misbehaved("an end in the middle").into());
        }
        self.shared.tell(Notice::Settled(self.number))?;
        self.shared.let_go(&self.at_top)?;
        self.shared.flush()?;
        self.shared.end();
        Ok(self.links)
    }

    /// Whether the event is settled later.
    fn handle(&mut self, event: Event) -> Result<bool, TargetError> {
        match event {
            Event::File(file) => return self.file(file),
            Event::Failure(failure) => {
                self.shared.failed_at_source(failure)?;
            }
            Event::Totals(totals) => self.shared.gauge.total(totals.bytes, totals.entries),
            Event::Root(root) => self.root(root)?,
            Event::Folder(folder) => self.folder(folder)?,
            Event::Leave(leave) => self.leave(leave.incomplete)?,
            Event::Link(link) => self.link(&link)?,
            Event::HardLink(link) => self.hard_link(link)?,
            Event::Special(special) => self.special(&special)?,
            Event::Identity(identity) => self.mapping.learn(&identity),
            Event::Note(note) => self.shared.tell(Notice::Note(note, true))?,
            Event::Present(present) => {
                self.place(present.name)?;
            }
            Event::End(_) => {}
        }
        Ok(false)
    }

    fn root(&mut self, root: Root) -> Result<(), TargetError> {
        if !self.levels.is_empty() || self.skipping > 0 {
            return Err(Misbehaved("a source inside of another").into());
        }
        if let Some(asked) = &mut self.asked
            && asked.pop().as_ref() != Some(&root)
        {
            return Err(Misbehaved("a source that was not asked for").into());
        }
        if !root.contents {
            names::check_entry(&root.name)?;
        }
        let into = self.destination.is_folder() && !root.contents;
        let origin = Origin {
            base: if into {
                names::join(&self.shown, [&root.name[..]])
            } else {
                self.shown.clone()
            },
            below: root.name.to_vec(),
        };
        let top = Site::top(self.top.clone(), Arc::new(origin), self.sweep.another());
        let before = std::mem::replace(&mut self.at_top, top);
        self.shared.let_go(&before)?;
        self.root = Some(root);
        Ok(())
    }

    /// The folder that we are in.
    fn site(&self) -> &Arc<Site> {
        self.levels.last().map_or(&self.at_top, |level| &level.site)
    }

    /// Under which name an entry belongs into the folder that we are in. `None` if that could not be
    /// made.
    fn place(&mut self, name: Bytes) -> Result<Option<Vec<u8>>, TargetError> {
        if self.skipping > 0 {
            return Ok(None);
        }
        if let Some(level) = self.levels.last_mut() {
            names::check_entry(&name)?;
            if let Some(names) = &mut level.names {
                names.insert(self.hashes.hash_one(&name[..]));
            }
            return Ok(Some(name.to_vec()));
        }
        let Some(root) = self.root.take() else {
            return Err(Misbehaved("an entry without a source").into());
        };
        Ok(Some(match self.destination.name() {
            Some(name) => name.to_vec(),
            None if root.contents => b".".to_vec(),
            None => root.name.to_vec(),
        }))
    }

    fn stat(&self, name: &[u8]) -> io::Result<Option<Stat>> {
        let site = self.site();
        if site.is_new {
            return Ok(None);
        }
        match statat(&*site.open()?, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn folder(&mut self, folder: Folder) -> Result<(), TargetError> {
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
        match self.enter(&name, attributes, folder.implied) {
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

    fn enter(
        &mut self,
        name: &[u8],
        attributes: Attributes,
        implied: bool,
    ) -> io::Result<Arc<Site>> {
        let shared = Arc::clone(&self.shared);
        let options = &shared.options;
        let parent = Arc::clone(self.site());
        // A folder that the user named as the target and that was there stays as it is, such as a
        // home into which a source's contents go.
        let is_given = self.levels.is_empty() && self.destination.is_given(name);
        let stat = self.stat(name)?;
        let is_folder = stat
            .as_ref()
            .is_some_and(|stat| kind(stat) == FileType::Directory);
        let mut is_new = self.levels.is_empty() && self.destination.is_new(name);
        if stat.is_some() && !is_folder && options.delete && !is_given {
            self.clear(name, false)?;
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
                open_folder(&*folder, name)?
            } else {
                let (opened, made) = make_or_open(folder.as_fd(), name)?;
                is_new |= made;
                opened
            };
            let above = parent.node().ok_or(Errno::NOENT)?;
            Some((Node::opened(above, name, opened)?, folder))
        };
        let differences = match (&node, is_new) {
            (Some((node, _)), false) => {
                let folder = node.open()?;
                let stat = rustix::fs::fstat(&*folder)?;
                let present = || xattrs::of_open(&*folder);
                let mode = Some(attributes.folder_mode(0o775));
                metadata::differences(&attributes, mode, &stat, present, options.archive)
            }
            _ => Differences {
                is_new: true,
                ..Differences::default()
            },
        };
        let keeps = !is_new && (is_given || implied);
        if differences.any() && !keeps {
            let happens = if is_new { 'c' } else { '.' };
            self.change(differences.flags(happens, 'd'), &parent, name, true, b"");
            if is_new {
                parent.touch();
            }
        }
        let node = node.map(|(node, _)| node);
        let closing = (!keeps).then_some(attributes);
        Ok(Site::below(&parent, node, name, is_new, closing))
    }

    fn leave(&mut self, incomplete: bool) -> Result<(), TargetError> {
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
    fn delete_others(&mut self, site: &Arc<Site>, names: &HashSet<u64>) -> io::Result<()> {
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
    fn clear(&mut self, name: &[u8], is_folder: bool) -> io::Result<()> {
        let site = Arc::clone(self.site());
        let folder = site.open()?;
        if self.backup(&folder, name)? {
            return Ok(());
        }
        self.remove(&site, &folder, name, is_folder)
    }

    fn remove(
        &mut self,
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
            told: &mut told,
        }
        .remove(&**folder, &above, name, is_folder);
        self.shared.finished().deleted += deleted;
        site.touch();
        removed
    }

    /// Gives what is at a name the name of a backup, if the user wants that.
    fn backup(&self, folder: &Arc<OwnedFd>, name: &[u8]) -> io::Result<bool> {
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

    fn link(&mut self, link: &Link) -> Result<(), TargetError> {
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

    fn make_link(&mut self, name: &[u8], to: &[u8], attributes: &Attributes) -> io::Result<()> {
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

    fn special(&mut self, special: &Special) -> Result<(), TargetError> {
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
        let mode = attributes.file_mode(0o600);
        let made = self.stat(&name).and_then(|stat| {
            let is_it = stat.as_ref().is_some_and(|stat| {
                kind(stat) == kind_wanted && (!is_device || stat.st_rdev == device)
            });
            let make = |folder: &OwnedFd, name: &[u8]| {
                mknodat(folder, name, kind_wanted, mode, device)?;
                // Less the umask, which is not the source's.
                rustix::fs::chmodat(folder, name, mode, AtFlags::empty())
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
    fn make_entry(
        &mut self,
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
            let mode = (letter != 'L').then(|| attributes.file_mode(0o600));
            let differences = metadata::differences(attributes, mode, stat, present, archive);
            if differences.any() {
                self.change(differences.flags('.', letter), &site, name, false, to);
                if !dry_run {
                    let lost = metadata::set_entry(&*folder, name, attributes, archive)?;
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
        let folder = site.open()?;
        let place = Place::new(folder.as_fd(), &site.sweep);
        site.touch();
        let lost = staged::entry(
            place,
            name,
            |name| make(&folder, name),
            |name| metadata::set_entry(&*folder, name, attributes, archive),
        )?;
        shared.note_lost(lost);
        Ok(())
    }

    /// Looks whether what is at a name may be replaced, and removes it if it is a folder that may.
    pub(super) fn make_way(&mut self, name: &[u8], stat: &Stat) -> io::Result<()> {
        super::temporary::check_kind(kind(stat))?;
        if kind(stat) != FileType::Directory {
            return Ok(());
        }
        if !self.shared.options.delete || self.levels.is_empty() {
            return Err(Errno::ISDIR.into());
        }
        self.clear(name, true)
    }

    fn hard_link(&mut self, link: super::messages::HardLink) -> Result<(), TargetError> {
        let entry = link.entry;
        let Some(name) = self.place(link.name)? else {
            return Ok(());
        };
        let site = Arc::clone(self.site());
        site.hold();
        Ok(self.links.add(site, name, entry)?)
    }

    fn file(&mut self, file: super::messages::File) -> Result<bool, TargetError> {
        let Some(name) = self.place(file.name.clone())? else {
            self.shared.gauge.advance(file.size, 1);
            return Ok(false);
        };
        self.shared.gauge.current(&name);
        if name == b"." {
            let reason = io::Error::other("the source is a file and the target a folder");
            self.failed("write", None, &reason)?;
            return Ok(false);
        }
        let site = Arc::clone(self.site());
        if file.is_linked {
            self.links.first(self.number, &site, &name)?;
        }
        let mut attributes = file.attributes.clone().unwrap_or_default();
        self.mapping.apply(&mut attributes);
        match self.consider(&site, &name, attributes, &file) {
            Ok(wanted) => Ok(wanted),
            Err(error) => {
                self.failed("write", Some(&name), &error)?;
                Ok(false)
            }
        }
    }

    /// Tells a change, if the user wants to know.
    pub(super) fn change(
        &self,
        flags: String,
        site: &Site,
        name: &[u8],
        is_folder: bool,
        link: &[u8],
    ) {
        if !self.shared.options.itemize {
            return;
        }
        let name = (name != b".").then_some(name);
        let mut path = site.below_target(name);
        if path.is_empty() {
            path.push(b'.');
        }
        if is_folder {
            path.push(b'/');
        }
        let change = Change {
            flags,
            path: path.into(),
            link: link.to_vec().into(),
        };
        // Who does not listen any more misses nothing.
        self.shared.tell(Notice::Change(change)).ok();
    }

    /// Counts and tells a failure of the entry `name` in the folder that we are in.
    fn failed(
        &self,
        action: &str,
        name: Option<&[u8]>,
        error: &io::Error,
    ) -> Result<(), TargetError> {
        let path = self.site().path(name);
        self.shared
            .failed(Failure::new(action, path, reason(error)))
    }
}

/// What an entry is.
pub(super) fn kind(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}
