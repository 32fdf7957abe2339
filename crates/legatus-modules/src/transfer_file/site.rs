//! A folder at the target, while entries come into it.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::messages::Attributes;
use super::names;
use super::temporary::Sweep;
use super::tree::Node;

/// Where a source's entries go: how paths below are told.
#[derive(Debug, Default)]
pub(super) struct Origin {
    /// The path of the entry that the source became, as the user wrote the target.
    pub(super) base: Vec<u8>,
    /// The same below the target's folder, for changes.
    pub(super) below: Vec<u8>,
}

/// A folder at the target.
#[derive(Debug)]
pub(super) struct Site {
    pub(super) parent: Option<Arc<Self>>,
    /// `None` where the folder would be made, if this were not only a look at what would be done.
    node: Option<Arc<Node>>,
    name: Vec<u8>,
    /// Folders above it, the target's own not counted.
    pub(super) depth: usize,
    pub(super) origin: Arc<Origin>,
    /// It was made by this copy: nothing is in it yet.
    pub(super) is_new: bool,
    /// What it gets when it is complete: writing into it changes its time, and its mode may forbid
    /// that.
    closing: Mutex<Option<Attributes>>,
    /// Something in it has changed.
    touched: AtomicBool,
    /// Who still has something to do in it.
    holders: AtomicUsize,
    pub(super) sweep: Sweep,
}

impl Site {
    /// The folder where a source's own entry goes.
    pub(super) fn top(node: Option<Arc<Node>>, origin: Arc<Origin>, sweep: Sweep) -> Arc<Self> {
        Arc::new(Self {
            parent: None,
            is_new: node.is_none(),
            node,
            name: Vec::new(),
            depth: 0,
            origin,
            closing: Mutex::default(),
            touched: AtomicBool::new(false),
            holders: AtomicUsize::new(1),
            sweep,
        })
    }

    /// A folder in another, which it holds.
    pub(super) fn below(
        parent: &Arc<Self>,
        node: Option<Arc<Node>>,
        name: &[u8],
        is_new: bool,
        closing: Option<Attributes>,
    ) -> Arc<Self> {
        parent.hold();
        Arc::new(Self {
            parent: Some(Arc::clone(parent)),
            node,
            name: name.to_vec(),
            depth: parent.depth + 1,
            origin: Arc::clone(&parent.origin),
            is_new,
            closing: Mutex::new(closing),
            touched: AtomicBool::new(is_new),
            holders: AtomicUsize::new(1),
            sweep: parent.sweep.another(),
        })
    }

    /// The folder by descriptor.
    pub(super) fn open(&self) -> io::Result<Arc<OwnedFd>> {
        self.node().ok_or(rustix::io::Errno::NOENT)?.open()
    }

    pub(super) fn node(&self) -> Option<&Arc<Node>> {
        self.node.as_ref()
    }

    /// The device that it is on.
    pub(super) fn device(&self) -> u64 {
        self.node.as_ref().map_or(0, |node| node.identity().0)
    }

    /// The names from below the source's own entry to here.
    pub(super) fn names(&self) -> Vec<&[u8]> {
        let mut names = Vec::new();
        let mut site = self;
        while site.depth > 1 {
            names.push(site.name.as_slice());
            let Some(parent) = &site.parent else { break };
            site = parent;
        }
        names.reverse();
        names
    }

    /// The path of an entry in it, or its own, as failures tell it.
    pub(super) fn path(&self, name: Option<&[u8]>) -> Vec<u8> {
        self.join(&self.origin.base, name)
    }

    /// The same below the target, as changes tell it.
    pub(super) fn below_target(&self, name: Option<&[u8]>) -> Vec<u8> {
        self.join(&self.origin.below, name)
    }

    fn join(&self, base: &[u8], name: Option<&[u8]>) -> Vec<u8> {
        // The path of the source's own entry is known already.
        let name = name.filter(|_| self.depth > 0);
        names::join(base, self.names().into_iter().chain(name))
    }

    /// Remembers that something in it has changed.
    pub(super) fn touch(&self) {
        self.touched.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_touched(&self) -> bool {
        self.touched.load(Ordering::Relaxed)
    }

    /// What it gets in the end.
    pub(super) fn closing(&self) -> Option<Attributes> {
        let mut closing = self.closing.lock().unwrap_or_else(PoisonError::into_inner);
        closing.take()
    }

    /// Somebody has something to do in it.
    pub(super) fn hold(&self) {
        self.holders.fetch_add(1, Ordering::Relaxed);
    }

    /// One of them is done; true for the last.
    pub(super) fn let_go(&self) -> bool {
        self.holders.fetch_sub(1, Ordering::AcqRel) == 1
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        // Not by recursion, which would be as deep as the tree.
        let mut parent = self.parent.take();
        while let Some(mut last) = parent.and_then(Arc::into_inner) {
            parent = last.parent.take();
        }
    }
}
