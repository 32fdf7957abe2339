//! Further names of files, made when all files have theirs.

use std::collections::HashMap;
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;

use rustix::fs::{AtFlags, linkat, statat};

use super::change::Differences;
use super::listing::HARD_LINKS;
use super::messages::{Change, Failure, Misbehaved};
use super::report::reason;
use super::site::Site;
use super::staged;
use super::target::{Notice, Shared, TargetError};
use super::temporary::{Place, check_kind};

/// Files with several names, and these names.
#[derive(Debug, Default)]
pub(super) struct Links {
    firsts: HashMap<u64, (Arc<Site>, Vec<u8>)>,
    further: Vec<(Arc<Site>, Vec<u8>, u64)>,
}

impl Links {
    /// The first name of a file.
    pub(super) fn first(
        &mut self,
        entry: u64,
        site: &Arc<Site>,
        name: &[u8],
    ) -> Result<(), Misbehaved> {
        if self.firsts.len() >= HARD_LINKS {
            return Err(Misbehaved("too many files with several names"));
        }
        self.firsts.insert(entry, (Arc::clone(site), name.to_vec()));
        Ok(())
    }

    /// A further one; the site is held by the caller.
    pub(super) fn add(
        &mut self,
        site: Arc<Site>,
        name: Vec<u8>,
        entry: u64,
    ) -> Result<(), Misbehaved> {
        if self.further.len() >= 8 * HARD_LINKS {
            return Err(Misbehaved("too many names of files"));
        }
        self.further.push((site, name, entry));
        Ok(())
    }

    /// Makes all further names.
    pub(super) fn make(self, shared: &Shared) -> Result<(), TargetError> {
        for (site, name, entry) in self.further {
            let Some((first, first_name)) = self.firsts.get(&entry) else {
                return Err(Misbehaved("a further name of what is no file").into());
            };
            if let Err(error) = make(shared, (first, first_name), &site, &name) {
                let failure = Failure::new("link", site.path(Some(&name)), reason(&error));
                shared.failed(failure)?;
            } else {
                shared.finished().links += 1;
            }
            shared.let_go(&site)?;
        }
        Ok(())
    }
}

fn make(
    shared: &Shared,
    first: (&Arc<Site>, &[u8]),
    site: &Arc<Site>,
    name: &[u8],
) -> io::Result<()> {
    let dry_run = shared.options.dry_run;
    let (from, is_new) = if dry_run && (first.0.node().is_none() || site.node().is_none()) {
        (None, true)
    } else {
        let folder = first.0.open()?;
        let stat = statat(&*folder, first.1, AtFlags::SYMLINK_NOFOLLOW);
        let there = statat(&*site.open()?, name, AtFlags::SYMLINK_NOFOLLOW).ok();
        if let (Ok(stat), Some(there)) = (&stat, &there)
            && (stat.st_dev, stat.st_ino) == (there.st_dev, there.st_ino)
        {
            return Ok(());
        }
        if let Some(there) = &there {
            check_kind(super::judging::kind(there))?;
        }
        (Some(folder), there.is_none())
    };
    if shared.options.itemize {
        let differences = Differences {
            is_new,
            ..Differences::default()
        };
        let change = Change {
            flags: differences.flags('h', 'f'),
            path: site.below_target(Some(name)).into(),
            link: first.0.below_target(Some(first.1)).into(),
        };
        shared.tell(Notice::Change(change)).ok();
    }
    let Some(from) = from.filter(|_| !dry_run) else {
        return Ok(());
    };
    let folder = site.open()?;
    let place = Place::new(folder.as_fd(), &site.sweep);
    site.touch();
    staged::entry(
        place,
        name,
        |name| linkat(&*from, first.1, &*folder, name, AtFlags::empty()),
        |_| Ok(()),
    )
}
