//! The half that writes: takes events and makes entries of them, verified and each at once.
//!
//! It runs on a thread of its own, so that hashing and writing overlap with receiving. Nothing that
//! the other half sends is trusted: names stay in their folder, no link is followed, events out of
//! order end the copy.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;

use bytes::Bytes;
use legatus_core::Fault;
use thiserror::Error;
use tokio::sync::mpsc;

use super::branch::Branch;
use super::destination::Destination;
use super::durability::Durability;
use super::folders::make_or_open;
use super::messages::event::Event;
use super::messages::{
    Attributes, Events, Failure, File, FileEnd, Finished, Folder, Link, Misbehaved, Root, Totals,
    WriteOptions,
};
use super::names;
use super::report::{Gauge, SourceCounts, reason};
use super::staged;
use super::temporary::{Place, check_replaceable};
use super::writing::Writing;

/// The mode of a folder whose source tells none.
const FOLDER_MODE: u32 = 0o775;

/// Smaller files come to their end anyway before the source would hear that they are not wanted.
const SKIPPED_BYTES: u64 = 1 << 20;

/// Why a copy came to no end.
#[derive(Debug, Error)]
pub(super) enum TargetError {
    #[error(transparent)]
    Misbehaved(#[from] Misbehaved),
    #[error("the copy ended before everything had come")]
    Interrupted,
    #[error("the copy engine failed unexpectedly")]
    Broken,
    #[error("cannot go on writing: {}", reason(.0))]
    Lost(io::Error),
    #[error("cannot make the copy durable: {}", reason(.0))]
    NotDurable(io::Error),
}

impl From<TargetError> for Fault {
    fn from(error: TargetError) -> Self {
        Self::new(error.to_string())
    }
}

/// What a target tells while it works.
#[derive(Debug)]
pub(super) enum Notice {
    /// An entry that the source could not read.
    AtSource(Failure),
    /// An entry that could not be written.
    AtTarget(Failure),
    /// The rest of the file of this number is not wanted.
    Skip(u64),
}

/// The engine of the half that writes.
pub(super) struct Target {
    destination: Destination,
    /// The target's path, as failures tell it.
    shown: Vec<u8>,
    /// The sources that were asked for, the last one first; `None` if the other half decides.
    asked: Option<Vec<Root>>,
    options: WriteOptions,
    durability: Durability,
    notices: mpsc::Sender<Notice>,
    gauge: Arc<Gauge>,
    finished: Finished,
    source: SourceCounts,
    /// The source whose entry has not begun.
    root: Option<Root>,
    /// The path of the entry that the source became.
    base: Vec<u8>,
    branch: Branch,
    /// Folders that we are in and that could not be made: nothing in them is.
    skipping: usize,
    file: Incoming,
    /// Files that have begun to come.
    begun: u64,
    /// The size of the last of them, as the source told it.
    size: u64,
}

/// The file whose contents are coming.
enum Incoming {
    None,
    /// It could not be written.
    Discarded,
    File(Box<Writing>),
}

impl Target {
    pub(super) fn new(
        destination: Destination,
        shown: &[u8],
        options: WriteOptions,
        notices: mpsc::Sender<Notice>,
        gauge: Arc<Gauge>,
    ) -> Self {
        Self {
            destination,
            shown: shown.to_vec(),
            asked: None,
            options,
            durability: Durability::new(!options.no_fsync),
            notices,
            gauge,
            finished: Finished::default(),
            source: SourceCounts::default(),
            root: None,
            base: Vec::new(),
            branch: Branch::default(),
            skipping: 0,
            file: Incoming::None,
            begun: 0,
            size: 0,
        }
    }

    /// The same taking nothing but what these sources name, in this order.
    pub(super) fn asking(mut self, mut sources: Vec<Root>) -> Self {
        sources.reverse();
        self.asked = Some(sources);
        self
    }

    /// Writes everything that comes; blocks. What is incomplete when the messages end is undone.
    pub(super) fn run(
        mut self,
        mut messages: mpsc::Receiver<Bytes>,
    ) -> Result<(SourceCounts, Finished), TargetError> {
        while let Some(message) = messages.blocking_recv() {
            for event in Events(message) {
                match event? {
                    Event::End(end) => {
                        self.source.failed = end.failed;
                        self.source.vanished = end.vanished;
                        return self.finish();
                    }
                    event => self.handle(event)?,
                }
            }
        }
        Err(TargetError::Interrupted)
    }

    fn finish(self) -> Result<(SourceCounts, Finished), TargetError> {
        if !self.is_between_entries() || self.branch.depth() > 0 || self.skipping > 0 {
            return Err(Misbehaved("an end in the middle").into());
        }
        let durable = self.durability.finish(self.destination.folder());
        durable.map_err(TargetError::NotDurable)?;
        Ok((self.source, self.finished))
    }

    fn handle(&mut self, event: Event) -> Result<(), TargetError> {
        let in_file = !self.is_between_entries();
        match event {
            Event::Data(data) if in_file => self.data(&data),
            Event::FileEnd(end) if in_file => self.file_end(&end),
            Event::Failure(failure) => self.tell(Notice::AtSource(failure)),
            Event::Totals(totals) => {
                self.totals(totals);
                Ok(())
            }
            Event::Root(root) if !in_file => self.root(root),
            Event::Folder(folder) if !in_file => self.folder(folder),
            Event::Leave(_) if !in_file => self.leave(),
            Event::File(file) if !in_file => self.file(file),
            Event::Link(link) if !in_file => self.link(link),
            _ => Err(Misbehaved("an event out of order").into()),
        }
    }

    fn is_between_entries(&self) -> bool {
        matches!(self.file, Incoming::None)
    }

    fn totals(&self, totals: Totals) {
        self.gauge.total(totals.bytes, totals.entries);
    }

    fn root(&mut self, root: Root) -> Result<(), TargetError> {
        if self.branch.depth() > 0 || self.skipping > 0 {
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
        self.base = match self.destination {
            Destination::Into { .. } if !root.contents => {
                names::join(&self.shown, [&root.name[..]])
            }
            _ => self.shown.clone(),
        };
        self.root = Some(root);
        Ok(())
    }

    /// Where an entry belongs: in which folder, on which device, under which name. `None` if its
    /// folder could not be made.
    fn place(&mut self, name: Bytes) -> Result<Option<Bytes>, TargetError> {
        if self.skipping > 0 {
            return Ok(None);
        }
        if self.branch.depth() > 0 {
            names::check_entry(&name)?;
            return Ok(Some(name));
        }
        let Some(root) = self.root.take() else {
            return Err(Misbehaved("an entry without a source").into());
        };
        Ok(Some(match &self.destination {
            Destination::As(_, name) => Bytes::copy_from_slice(name),
            Destination::Into { .. } if root.contents => Bytes::from_static(b"."),
            Destination::Into { .. } => root.name,
        }))
    }

    /// The folder that entries are made in now.
    fn parent(&self) -> io::Result<Place<'_>> {
        self.branch.place(&self.destination)
    }

    fn folder(&mut self, folder: Folder) -> Result<(), TargetError> {
        let attributes = folder.attributes.unwrap_or_default();
        let Some(name) = self.place(folder.name)? else {
            self.skipping = self.skipping.saturating_add(1);
            return Ok(());
        };
        // A folder that the user named as the target and that was there keeps its mode, such as a
        // home into which a source's contents go.
        let is_given = self.branch.depth() == 0 && self.destination.is_given(&name);
        let entered = self
            .parent()
            .and_then(|parent| make_or_open(parent.folder, &name));
        let entered = entered.and_then(|(folder, is_new)| {
            let attributes = match is_given && !is_new {
                true => own_mode(&folder, attributes)?,
                false => Some(attributes),
            };
            self.branch.enter(folder, &name, attributes)
        });
        match entered {
            Ok(()) => {
                self.finished.folders += 1;
                self.gauge.advance(0, 1);
                Ok(())
            }
            Err(error) => {
                self.skipping = 1;
                self.failed("make folder", Some(&name), &reason(&error))
            }
        }
    }

    fn leave(&mut self) -> Result<(), TargetError> {
        if self.skipping > 0 {
            self.skipping -= 1;
            return Ok(());
        }
        if self.branch.depth() == 0 {
            return Err(Misbehaved("more folders left than entered").into());
        }
        let set = self.settle();
        if let Err(error) = set {
            self.failed("set mode and time of", None, &reason(&error))?;
        }
        self.branch.leave().map_err(TargetError::Lost)
    }

    /// Gives the folder that is complete its attributes.
    fn settle(&mut self) -> io::Result<()> {
        let folder = self.branch.folder()?;
        if let Some(attributes) = self.branch.attributes() {
            let mode = attributes.folder_mode(FOLDER_MODE);
            staged::set_attributes(folder, mode, attributes.timestamp())?;
        }
        self.durability.folder(folder, self.branch.device())
    }

    fn file(&mut self, file: File) -> Result<(), TargetError> {
        self.begun = self.begun.saturating_add(1);
        self.size = file.size;
        self.begin(file)?;
        match self.file {
            Incoming::Discarded => self.skip(),
            _ => Ok(()),
        }
    }

    /// Lets the source spare itself the rest of the file, if that is worth a message.
    fn skip(&self) -> Result<(), TargetError> {
        if self.size < SKIPPED_BYTES {
            return Ok(());
        }
        self.tell(Notice::Skip(self.begun))
    }

    fn begin(&mut self, file: File) -> Result<(), TargetError> {
        self.file = Incoming::Discarded;
        let Some(name) = self.place(file.name)? else {
            return Ok(());
        };
        self.gauge.current(&name);
        if &name[..] == b"." {
            let reason = "the source is a file and the target a folder";
            return self.failed("write", None, reason);
        }
        let attributes = file.attributes.unwrap_or_default();
        let begun = self.parent().and_then(|parent| {
            // The one target that a user named is refused before its contents come; for entries of
            // trees it is soon enough at their end.
            if self.branch.depth() == 0 {
                check_replaceable(parent.folder, &name)?;
            }
            Writing::begin(parent, name.clone(), attributes, !self.options.no_fsync)
        });
        match begun {
            Ok(writing) => {
                self.file = Incoming::File(Box::new(writing));
                Ok(())
            }
            Err(error) => self.failed("write", Some(&name), &reason(&error)),
        }
    }

    fn data(&mut self, data: &[u8]) -> Result<(), TargetError> {
        self.gauge.advance(data.len() as u64, 0);
        let Incoming::File(writing) = &mut self.file else {
            return Ok(());
        };
        let Err(error) = writing.write(data) else {
            return Ok(());
        };
        let name = writing.name();
        self.file = Incoming::Discarded;
        self.failed("write", Some(&name), &reason(&error))?;
        self.skip()
    }

    fn file_end(&mut self, end: &FileEnd) -> Result<(), TargetError> {
        self.gauge.advance(0, 1);
        let Incoming::File(writing) = std::mem::replace(&mut self.file, Incoming::None) else {
            return Ok(());
        };
        // The source has told why.
        if end.digest.is_empty() {
            return Ok(());
        }
        let (name, bytes) = (writing.name(), writing.bytes());
        let completed = self.branch.place(&self.destination).and_then(|place| {
            writing.complete(&end.digest, &self.options, &mut self.durability, place)
        });
        match completed {
            Ok(()) => {
                self.finished.files += 1;
                self.finished.bytes += bytes;
                Ok(())
            }
            Err(error) => self.failed("write", Some(&name), &reason(&error)),
        }
    }

    fn link(&mut self, link: Link) -> Result<(), TargetError> {
        let Some(name) = self.place(link.name)? else {
            return Ok(());
        };
        if link.target.len() > names::LINK_BYTES {
            return Err(Misbehaved("a link that is too long").into());
        }
        self.gauge.advance(0, 1);
        let modified = link
            .attributes
            .and_then(|attributes| attributes.timestamp());
        let linked = self
            .parent()
            .and_then(|parent| staged::link(parent, &name, &link.target, modified));
        match linked {
            Ok(()) => {
                self.finished.links += 1;
                Ok(())
            }
            Err(error) => self.failed("write", Some(&name), &reason(&error)),
        }
    }

    /// Counts and tells a failure: of the entry `name` in the folder that we are in, or of that
    /// folder.
    fn failed(
        &mut self,
        action: &str,
        name: Option<&[u8]>,
        reason: &str,
    ) -> Result<(), TargetError> {
        self.finished.failed += 1;
        // The path of the source's own entry is known already.
        let name = name.filter(|_| self.branch.depth() > 0);
        let path = names::join(&self.base, self.branch.names().chain(name));
        self.tell(Notice::AtTarget(Failure::new(action, path, reason)))
    }

    fn tell(&self, notice: Notice) -> Result<(), TargetError> {
        let told = self.notices.blocking_send(notice);
        told.map_err(|_| TargetError::Interrupted)
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
