//! The folders that a target is in, from the one that a source became down to where entries arrive.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::destination::Destination;
use super::folders::{DEPTH, Identity, OPEN_FOLDERS, identity, reopen_parent};
use super::messages::Attributes;
use super::temporary::{Place, Sweep};

/// The folders that a target is in.
#[derive(Debug, Default)]
pub(super) struct Branch {
    levels: Vec<Level>,
    /// Of the target's own folder.
    sweep: Sweep,
}

#[derive(Debug)]
struct Level {
    name: Vec<u8>,
    identity: Identity,
    /// `None` while it is too far up to stay open.
    folder: Option<OwnedFd>,
    /// What it gets when it is complete: writing into it changes its time, and its mode may forbid
    /// that.
    attributes: Option<Attributes>,
    sweep: Sweep,
}

impl Branch {
    pub(super) fn depth(&self) -> usize {
        self.levels.len()
    }

    /// Goes into a folder, which gets these attributes in the end.
    pub(super) fn enter(
        &mut self,
        folder: OwnedFd,
        name: &[u8],
        attributes: Option<Attributes>,
    ) -> io::Result<()> {
        if self.levels.len() >= DEPTH {
            return Err(io::Error::other("folders are nested too deeply"));
        }
        self.levels.push(Level {
            name: name.to_vec(),
            identity: identity(&folder)?,
            folder: Some(folder),
            attributes,
            sweep: Sweep::default(),
        });
        if let Some(far) = self.levels.len().checked_sub(OPEN_FOLDERS + 1)
            && let Some(level) = self.levels.get_mut(far)
        {
            level.folder = None;
        }
        Ok(())
    }

    /// The folder that we are in.
    pub(super) fn folder(&self) -> io::Result<BorrowedFd<'_>> {
        let level = self.levels.last().and_then(|level| level.folder.as_ref());
        Ok(level.ok_or(rustix::io::Errno::BADF)?.as_fd())
    }

    /// The folder that entries are made in now: that which we are in, or that of the target.
    pub(super) fn place<'a>(&'a self, target: &'a Destination) -> io::Result<Place<'a>> {
        let Some(level) = self.levels.last() else {
            let folder = target.folder();
            return Ok(Place::new(folder, identity(folder)?.0, &self.sweep));
        };
        Ok(Place::new(self.folder()?, level.identity.0, &level.sweep))
    }

    /// The device of the folder that we are in.
    pub(super) fn device(&self) -> u64 {
        self.levels.last().map_or(0, |level| level.identity.0)
    }

    /// What the folder that we are in gets when it is complete.
    pub(super) fn attributes(&self) -> Option<&Attributes> {
        self.levels.last()?.attributes.as_ref()
    }

    /// The names of the folders below the first.
    pub(super) fn names(&self) -> impl Iterator<Item = &[u8]> {
        self.levels
            .iter()
            .skip(1)
            .map(|level| level.name.as_slice())
    }

    /// Leaves the folder that we are in.
    ///
    /// # Errors
    /// When the way back up cannot be found.
    pub(super) fn leave(&mut self) -> io::Result<()> {
        let left = self.levels.pop().and_then(|level| level.folder);
        if let (Some(left), Some(parent)) = (left, self.levels.last_mut())
            && parent.folder.is_none()
        {
            parent.folder = Some(reopen_parent(left, parent.identity)?);
        }
        Ok(())
    }
}
