//! Folders that are remembered for later without staying open: a name, a parent and, as long as there
//! is room for it, a descriptor.

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use super::folders::{Identity, identity, open_folder};

/// Folders that stay open for who comes later. A process has 1,024 descriptors by default.
const OPEN: usize = 128;

/// Which folders of one tree are open, the one that was opened first in front.
#[derive(Debug, Default)]
pub(super) struct Cache {
    open: Mutex<VecDeque<Weak<Node>>>,
}

/// A folder.
#[derive(Debug)]
pub(super) struct Node {
    parent: Option<Arc<Self>>,
    name: Vec<u8>,
    identity: Identity,
    folder: Mutex<Option<Arc<OwnedFd>>>,
    cache: Arc<Cache>,
}

impl Node {
    /// The folder where a tree begins; it stays open.
    pub(super) fn root(folder: OwnedFd, identity: Identity, cache: &Arc<Cache>) -> Arc<Self> {
        Arc::new(Self {
            parent: None,
            name: Vec::new(),
            identity,
            folder: Mutex::new(Some(Arc::new(folder))),
            cache: Arc::clone(cache),
        })
    }

    /// A folder in another.
    pub(super) fn below(parent: &Arc<Self>, name: &[u8], identity: Identity) -> Arc<Self> {
        Arc::new(Self {
            parent: Some(Arc::clone(parent)),
            name: name.to_vec(),
            identity,
            folder: Mutex::default(),
            cache: Arc::clone(&parent.cache),
        })
    }

    /// A folder in another, open already.
    pub(super) fn opened(
        parent: &Arc<Self>,
        name: &[u8],
        folder: OwnedFd,
    ) -> io::Result<Arc<Self>> {
        let node = Self::below(parent, name, identity(&folder)?);
        node.keep(Arc::new(folder));
        Ok(node)
    }

    pub(super) fn name(&self) -> &[u8] {
        &self.name
    }

    pub(super) fn identity(&self) -> Identity {
        self.identity
    }

    /// The names from below the root to here.
    pub(super) fn names(&self) -> Vec<&[u8]> {
        let mut names = Vec::new();
        let mut node = self;
        while let Some(parent) = &node.parent {
            names.push(node.name.as_slice());
            node = parent;
        }
        names.reverse();
        names
    }

    /// The folder by descriptor.
    ///
    /// # Errors
    /// When it cannot be opened, or something else is where it was.
    pub(super) fn open(self: &Arc<Self>) -> io::Result<Arc<OwnedFd>> {
        // By hand and not by recursion: trees may be deeper than a stack.
        let mut closed = Vec::new();
        let mut node = self;
        let mut folder = loop {
            if let Some(open) = node.slot().as_ref() {
                break Arc::clone(open);
            }
            closed.push(node);
            node = node.parent.as_ref().ok_or(rustix::io::Errno::BADF)?;
        };
        for node in closed.into_iter().rev() {
            let opened = open_folder(&*folder, &node.name)?;
            if identity(&opened)? != node.identity {
                return Err(io::Error::other("a folder was replaced meanwhile"));
            }
            folder = Arc::new(opened);
            node.keep(Arc::clone(&folder));
        }
        Ok(folder)
    }

    fn keep(self: &Arc<Self>, folder: Arc<OwnedFd>) {
        *self.slot() = Some(folder);
        let first = {
            let mut open = lock(&self.cache.open);
            open.push_back(Arc::downgrade(self));
            if open.len() > OPEN {
                open.pop_front()
            } else {
                None
            }
        };
        if let Some(first) = first.and_then(|first| first.upgrade()) {
            first.slot().take();
        }
    }

    fn slot(&self) -> MutexGuard<'_, Option<Arc<OwnedFd>>> {
        lock(&self.folder)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // Not by recursion, which would be as deep as the tree.
        let mut parent = self.parent.take();
        while let Some(mut last) = parent.and_then(Arc::into_inner) {
            parent = last.parent.take();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::ffi::OsStrExt;

    use super::*;

    fn root(folder: &tempfile::TempDir) -> Arc<Node> {
        let opened = rustix::fs::open(
            folder.path().as_os_str().as_bytes(),
            rustix::fs::OFlags::RDONLY,
            rustix::fs::Mode::empty(),
        )
        .unwrap();
        let id = identity(&opened).unwrap();
        Node::root(opened, id, &Arc::default())
    }

    #[test]
    fn more_folders_than_may_stay_open_are_opened_again() {
        let folder = tempfile::tempdir().unwrap();
        let mut node = root(&folder);
        let mut nodes = Vec::new();
        let mut path = folder.path().to_owned();
        for _ in 0..3 * OPEN {
            path.push("d");
            fs::create_dir(&path).unwrap();
            let opened = open_folder(&*node.open().unwrap(), b"d").unwrap();
            node = Node::opened(&node, b"d", opened).unwrap();
            nodes.push(Arc::clone(&node));
        }
        let open = nodes.iter().filter(|node| node.slot().is_some()).count();
        assert!(open <= OPEN, "{open}");
        for node in nodes.iter().rev() {
            assert_eq!(identity(&*node.open().unwrap()).unwrap(), node.identity());
        }
        assert_eq!(nodes.last().unwrap().names().len(), 3 * OPEN);
    }

    #[test]
    fn a_folder_that_was_swapped_for_another_or_a_link_is_not_taken_for_it() {
        let folder = tempfile::tempdir().unwrap();
        let root = root(&folder);
        let at = |name: &str| folder.path().join(name);
        fs::create_dir(at("d")).unwrap();
        fs::create_dir(at("outside")).unwrap();
        let id = identity(open_folder(&*root.open().unwrap(), b"d").unwrap()).unwrap();
        let node = Node::below(&root, b"d", id);
        fs::rename(at("d"), at("moved")).unwrap();
        assert!(node.open().is_err());
        fs::create_dir(at("d")).unwrap();
        assert!(node.open().is_err());
        fs::remove_dir(at("d")).unwrap();
        std::os::unix::fs::symlink("moved", at("d")).unwrap();
        assert!(node.open().is_err(), "a link was followed");
    }

    #[test]
    fn a_tree_as_deep_as_any_does_not_overflow_a_small_stack() {
        let folder = tempfile::tempdir().unwrap();
        let root = root(&folder);
        std::thread::Builder::new()
            .stack_size(64 << 10)
            .spawn(move || {
                let mut node = root;
                for _ in 0..super::super::folders::DEPTH {
                    node = Node::below(&node, b"d", (0, 0));
                }
                assert!(node.open().is_err());
                drop(node);
            })
            .unwrap()
            .join()
            .unwrap();
    }
}
