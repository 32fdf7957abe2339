//! The part of a target that decides: looks at what is there, makes folders and links, and asks for
//! the contents of files that are not as they should be.

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, TryRecvError};

use bytes::Bytes;
use rustix::fs::{AtFlags, FileType, Stat, statat};
use rustix::io::Errno;

use super::destination::Destination;
use super::filter::Filter;
use super::links::Links;
use super::messages::event::Event;
use super::messages::{Change, Events, Failure, Misbehaved, Root};
use super::names;
use super::ownership::Mapping;
use super::report::reason;
use super::site::{Origin, Site};
use super::staging::Stage;
use super::target::{Notice, Shared, TargetError};
use super::temporary::Sweep;
use super::tree::Node;

/// The folders that a target is in.
pub(super) struct Level {
    pub(super) site: Arc<Site>,
    /// Hashes of the names that the source has in it, where others are to be removed.
    pub(super) names: Option<HashSet<u64>>,
}

/// Decides about each entry.
pub(super) struct Judge {
    pub(super) shared: Arc<Shared>,
    pub(super) destination: Destination,
    top: Option<Arc<Node>>,
    /// The target's path, as failures tell it.
    shown: Vec<u8>,
    /// The sources that were asked for, the last one first; `None` if the other half decides.
    asked: Option<Vec<Root>>,
    pub(super) filter: Filter,
    pub(super) hashes: RandomState,
    /// The source whose entry has not begun.
    root: Option<Root>,
    pub(super) at_top: Arc<Site>,
    pub(super) levels: Vec<Level>,
    /// Folders that we are in and that could not be made: nothing in them is.
    pub(super) skipping: usize,
    pub(super) mapping: Mapping,
    pub(super) links: Links,
    /// The number of the event.
    pub(super) number: u64,
    sweep: Sweep,
    /// The folder that the target's folder is in, and its name there, where that may be swapped.
    pub(super) above: Option<(OwnedFd, Vec<u8>)>,
    /// The tree that is made beside its name.
    pub(super) stage: Option<Stage>,
}

/// What is left to be done when all has come.
pub(super) struct Ending {
    pub(super) links: Links,
    pub(super) stage: Option<Stage>,
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
            above: None,
            stage: None,
        })
    }

    /// Decides about everything that is told, until the end is; blocks.
    pub(super) fn run(
        mut self,
        messages: Receiver<Bytes>,
        waiting: &AtomicUsize,
    ) -> Result<Ending, TargetError> {
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

    fn end(self) -> Result<Ending, TargetError> {
        if !self.levels.is_empty() || self.skipping > 0 {
            return Err(Misbehaved("an end in the middle").into());
        }
        self.shared.tell(Notice::Settled(self.number))?;
        self.shared.let_go(&self.at_top)?;
        self.shared.flush()?;
        self.shared.end();
        Ok(Ending {
            links: self.links,
            stage: self.stage,
        })
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
        if self.stage.is_some() {
            return Err(Misbehaved("a second source for one tree").into());
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
    pub(super) fn site(&self) -> &Arc<Site> {
        self.levels.last().map_or(&self.at_top, |level| &level.site)
    }

    /// Under which name an entry belongs into the folder that we are in. `None` if that could not be
    /// made.
    pub(super) fn place(&mut self, name: Bytes) -> Result<Option<Vec<u8>>, TargetError> {
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

    pub(super) fn stat(&self, name: &[u8]) -> io::Result<Option<Stat>> {
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
    pub(super) fn failed(
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
