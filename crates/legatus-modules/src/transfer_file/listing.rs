//! The part of a source that walks: tells every entry, in order, without waiting for answers.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use prost::Message;
use rustix::fs::{FileType, Stat, fstat, major, minor};
use tokio::sync::{mpsc, oneshot};

use super::filter::Filter;
use super::folders::{Step, Walk};
use super::ledger::{At, Ledger, Record};
use super::messages::event::Event;
use super::messages::{
    self, Attributes, Empty, Failure, Folder, HardLink, Leave, Link, Options, Present, Special,
    Totals,
};
use super::names;
use super::opening::{Opened, Root, look, open_entry};
use super::ownership::Names;
use super::packer::{Packer, Stopped};
use super::report::{Gauge, SourceCounts, reason};
use super::sharing;
use super::xattrs;

/// Events are sent when there are so many bytes of them, so that answers come while we walk.
const BATCH_BYTES: usize = 16 << 10;

/// Files with several names that are remembered; those beyond are copied as if they had one.
pub(super) const HARD_LINKS: usize = 1 << 20;

/// Walks the sources.
pub(super) struct Lister {
    packer: Packer,
    packed: usize,
    ledger: Arc<Ledger>,
    pub(super) gauge: Arc<Gauge>,
    pub(super) filter: Filter,
    options: Options,
    /// Count each source before it is copied.
    pub(super) count: bool,
    pub(super) total: Totals,
    counts: SourceCounts,
    /// The path of the source that is being copied.
    base: Arc<[u8]>,
    /// Numbers of the events of files that have several names.
    linked: HashMap<(u64, u64), u64>,
    identities: Names,
}

impl Lister {
    pub(super) fn new(
        packer: Packer,
        ledger: Arc<Ledger>,
        gauge: Arc<Gauge>,
        filter: Filter,
        options: Options,
        count: bool,
    ) -> Self {
        Self {
            packer,
            packed: 0,
            ledger,
            gauge,
            filter,
            identities: Names::new(!options.numeric_ids),
            options,
            count,
            total: Totals::default(),
            counts: SourceCounts::default(),
            base: Arc::default(),
            linked: HashMap::new(),
        }
    }

    /// Tells all sources, or of each only what is named; blocks.
    pub(super) fn run(
        mut self,
        mut roots: mpsc::Receiver<Root>,
        named: Option<oneshot::Receiver<Vec<bytes::Bytes>>>,
    ) -> Result<SourceCounts, Stopped> {
        let named = match named {
            Some(named) => Some(named.blocking_recv().map_err(|_| Stopped)?),
            None => None,
        };
        while let Some(root) = roots.blocking_recv() {
            self.root(root, named.as_deref())?;
        }
        self.tell(Event::End(Empty {}), None)?;
        self.packer.flush()?;
        Ok(self.counts)
    }

    fn root(&mut self, root: Root, named: Option<&[bytes::Bytes]>) -> Result<(), Stopped> {
        self.base = root.path.into();
        self.tell(Event::Root(root.root.clone()), None)?;
        let mut walk = Walk::default();
        match (root.opened, named) {
            // A source that was asked for and is not there is a failure, not a loss on the way.
            (Err(error), _) => self.failed(&walk, None, &reason(&error)),
            (Ok(Opened::Folder(folder)), Some(named)) => {
                self.folder(&mut walk, folder, &root.root.name, true)?;
                if walk.depth() > 0 {
                    self.named(&mut walk, named)?;
                }
                Ok(())
            }
            (Ok(_), Some(_)) => self.failed(&walk, None, "it is no folder"),
            (Ok(opened), None) => {
                self.announce(&opened)?;
                self.entry(&mut walk, opened, root.in_folder, &root.root.name)?;
                self.tree(&mut walk, 0)
            }
        }
    }

    /// Tells what is left of the folder that the walk has entered, until it is less deep than this.
    pub(super) fn tree(&mut self, walk: &mut Walk, above: usize) -> Result<(), Stopped> {
        while walk.depth() > above {
            match walk.next() {
                Ok(None) => return Ok(()),
                Ok(Some(Step::Left(incomplete))) => {
                    self.tell(Event::Leave(Leave { incomplete }), None)?;
                }
                Ok(Some(Step::Unreadable(error))) => self.failed(walk, None, &reason(&error))?,
                Ok(Some(Step::Entry(entry))) => {
                    let name = entry.file_name().to_bytes();
                    self.found(walk, name, entry.file_type())?;
                }
                Err(error) => {
                    self.failed(walk, None, &reason(&error))?;
                    // The target has as many folders to leave as are still on the way.
                    for _ in above..=walk.depth() {
                        self.tell(Event::Leave(Leave { incomplete: true }), None)?;
                    }
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Tells one entry of the folder that the walk is in.
    pub(super) fn found(
        &mut self,
        walk: &mut Walk,
        name: &[u8],
        kind: FileType,
    ) -> Result<(), Stopped> {
        let looked = walk.folder().and_then(|folder| look(folder, name, kind));
        let opened = match looked {
            Ok(opened) => opened,
            Err(error) => return self.unopened(walk, name, &error),
        };
        let is_folder = matches!(opened, Opened::Folder(_));
        if self.filter.excludes(walk.names(), name, is_folder) {
            return Ok(());
        }
        self.entry(walk, opened, None, name)
    }

    fn entry(
        &mut self,
        walk: &mut Walk,
        opened: Opened,
        parent: Option<OwnedFd>,
        name: &[u8],
    ) -> Result<(), Stopped> {
        let share = self.options.share;
        let is_left = |stat: &Stat, share| {
            walk.is_at_root() || sharing::leaves(share, walk.names(), name, stat)
        };
        match opened {
            Opened::Seen(stat) if share.is_some_and(|share| is_left(&stat, share)) => Ok(()),
            Opened::File(_) | Opened::Link { .. } | Opened::Special(..) if share.is_some() => {
                Ok(())
            }
            Opened::File(file) => match fstat(&file) {
                Ok(stat) => self.file(walk, At::Opened(file), &stat, name),
                Err(error) => self.failed(walk, Some(name), &reason(&error.into())),
            },
            Opened::Seen(stat) => match self.at(walk, parent, name) {
                Ok(at) => self.file(walk, at, &stat, name),
                Err(error) => self.failed(walk, Some(name), &reason(&error)),
            },
            Opened::Folder(folder) => self.folder(walk, folder, name, share.is_some()),
            Opened::Link { target, stat } => {
                let attributes = self.attributes(walk, name, &stat)?;
                self.gauge.advance(0, 1);
                let link = Link {
                    name: name.to_vec().into(),
                    target: target.into(),
                    attributes: Some(attributes),
                };
                self.tell(Event::Link(link), None)
            }
            Opened::Special(kind, stat) => self.special(walk, kind, &stat, name),
        }
    }

    fn at(&self, walk: &Walk, parent: Option<OwnedFd>, name: &[u8]) -> io::Result<At> {
        match (walk.node(), parent) {
            (Some(node), _) => Ok(At::Folder(Arc::clone(node), name.to_vec())),
            (None, Some(parent)) => {
                let identity = super::folders::identity(&parent)?;
                let node = super::tree::Node::root(parent, identity, &Arc::default());
                Ok(At::Folder(node, name.to_vec()))
            }
            (None, None) => Err(rustix::io::Errno::BADF.into()),
        }
    }

    fn special(
        &mut self,
        walk: &Walk,
        kind: FileType,
        stat: &Stat,
        name: &[u8],
    ) -> Result<(), Stopped> {
        if !self.options.archive || kind == FileType::Unknown {
            return self.failed(walk, Some(name), super::opening::special(kind));
        }
        let attributes = self.attributes(walk, name, stat)?;
        self.gauge.advance(0, 1);
        let special = Special {
            name: name.to_vec().into(),
            attributes: Some(attributes),
            kind: kind.as_raw_mode(),
            major: major(stat.st_rdev),
            minor: minor(stat.st_rdev),
        };
        self.tell(Event::Special(special), None)
    }

    pub(super) fn folder(
        &mut self,
        walk: &mut Walk,
        folder: OwnedFd,
        name: &[u8],
        implied: bool,
    ) -> Result<(), Stopped> {
        let stat = match fstat(&folder) {
            Ok(stat) => stat,
            Err(error) => return self.failed(walk, Some(name), &reason(&error.into())),
        };
        let mut attributes = self.owned(&stat)?;
        if self.options.archive {
            attributes.extended = xattrs::of_open(&folder).unwrap_or_default();
        }
        if let Err(error) = walk.enter(folder, name) {
            return self.failed(walk, Some(name), &reason(&error));
        }
        self.gauge.advance(0, 1);
        let folder = Folder {
            name: name.to_vec().into(),
            attributes: Some(attributes),
            implied,
        };
        self.tell(Event::Folder(folder), None)
    }

    fn file(&mut self, walk: &Walk, at: At, stat: &Stat, name: &[u8]) -> Result<(), Stopped> {
        let size = size(stat);
        if !walk.is_at_root() && self.filter.excludes_size(size) {
            return self.present(name);
        }
        let inode = (stat.st_dev, stat.st_ino);
        let is_linked = stat.st_nlink > 1 && !walk.is_at_root();
        if is_linked && let Some(entry) = self.linked.get(&inode).copied() {
            self.gauge.advance(size, 1);
            let name = name.to_vec().into();
            return self.tell(Event::HardLink(HardLink { name, entry }), None);
        }
        let is_linked = is_linked && self.linked.len() < HARD_LINKS;
        let attributes = self.attributes(walk, name, stat)?;
        let digest = if self.options.checksum {
            match digest(&at) {
                Ok(digest) => digest.as_bytes().to_vec(),
                Err(error) => return self.unopened(walk, name, &error),
            }
        } else {
            Vec::new()
        };
        let event = Event::File(messages::File {
            name: name.to_vec().into(),
            attributes: Some(attributes),
            size,
            digest: digest.into(),
            is_linked,
        });
        let record = Record {
            place: at,
            base: Arc::clone(&self.base),
            is_root: walk.is_at_root(),
            stat: *stat,
        };
        let number = self.tell_numbered(event, Some(record))?;
        if is_linked {
            self.linked.insert(inode, number);
        }
        Ok(())
    }

    /// The attributes of the entry of that name where the walk is.
    fn attributes(&mut self, walk: &Walk, name: &[u8], stat: &Stat) -> Result<Attributes, Stopped> {
        let mut attributes = self.owned(stat)?;
        if self.options.archive
            && let Ok(folder) = walk.folder()
        {
            attributes.extended = xattrs::of(folder, name).unwrap_or_default();
        }
        Ok(attributes)
    }

    fn owned(&mut self, stat: &Stat) -> Result<Attributes, Stopped> {
        let mut attributes = Attributes::from(stat);
        if self.options.archive {
            attributes.user = Some(stat.st_uid);
            attributes.group = Some(stat.st_gid);
            for identity in self.identities.new_of(stat) {
                self.tell(Event::Identity(identity), None)?;
            }
        }
        Ok(attributes)
    }

    fn unopened(&mut self, walk: &Walk, name: &[u8], error: &io::Error) -> Result<(), Stopped> {
        if error.kind() != io::ErrorKind::NotFound || walk.is_at_root() {
            return self.failed(walk, Some(name), &reason(error));
        }
        self.counts.vanished += 1;
        let path = names::join(&self.base, walk.names().chain([name]));
        self.failure(Failure::vanished(path))
    }

    /// Counts and tells a failure: of the entry `name` in the folder where the walk is, or of that
    /// folder.
    pub(super) fn failed(
        &mut self,
        walk: &Walk,
        name: Option<&[u8]>,
        reason: &str,
    ) -> Result<(), Stopped> {
        // The root's own name is the end of its path already.
        let name = name.filter(|_| !walk.is_at_root());
        let path = names::join(&self.base, walk.names().chain(name));
        self.counts.failed += 1;
        if let Some(name) = name {
            self.present(name)?;
        }
        self.failure(Failure::new("read", path, reason))
    }

    fn present(&mut self, name: &[u8]) -> Result<(), Stopped> {
        let name = name.to_vec().into();
        self.tell(Event::Present(Present { name }), None)
    }

    pub(super) fn failed_at(&mut self, path: &[u8], reason: &str) -> Result<(), Stopped> {
        self.counts.failed += 1;
        let path = names::join(&self.base, [path]);
        self.failure(Failure::new("read", path, reason))
    }

    /// A failure is an event like others, so that the target knows of it in its place; the user of
    /// this side hears of it here.
    fn failure(&mut self, failure: Failure) -> Result<(), Stopped> {
        self.packer.failure(failure.clone())?;
        self.tell(Event::Failure(failure), None)
    }

    pub(super) fn tell(&mut self, event: Event, record: Option<Record>) -> Result<(), Stopped> {
        self.tell_numbered(event, record).map(drop)
    }

    fn tell_numbered(&mut self, event: Event, record: Option<Record>) -> Result<u64, Stopped> {
        let bytes = messages::Event {
            event: Some(event.clone()),
        };
        let bytes = bytes.encoded_len();
        if self.packed > BATCH_BYTES || self.ledger.is_full(bytes) {
            self.packer.flush()?;
            self.packed = 0;
        }
        let number = self.ledger.tell(bytes, record)?;
        self.packed += self.packer.event(event)?;
        Ok(number)
    }
}

fn digest(at: &At) -> io::Result<blake3::Hash> {
    let mut hasher = blake3::Hasher::new();
    match at {
        At::Opened(file) => hasher.update_reader(file)?,
        At::Folder(node, name) => {
            let opened = open_entry(&*node.open()?, name)?;
            hasher.update_reader(File::from(opened))?
        }
    };
    Ok(hasher.finalize())
}

/// A file's size in bytes.
pub(super) fn size(stat: &Stat) -> u64 {
    u64::try_from(stat.st_size).unwrap_or_default()
}
