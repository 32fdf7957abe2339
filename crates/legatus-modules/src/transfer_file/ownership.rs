//! Owners and groups by name: ids are numbers of one machine only.

use std::collections::{HashMap, HashSet};

use nix::unistd::{Gid, Group, Uid, User};
use rustix::fs::Stat;

use super::messages::{Attributes, Identity};

/// Users and groups that are remembered.
const IDENTITIES: usize = 1 << 16;

/// Tells the name of each user and group once.
#[derive(Debug)]
pub(super) struct Names {
    enabled: bool,
    told: HashSet<(bool, u32)>,
}

impl Names {
    pub(super) fn new(enabled: bool) -> Self {
        Self {
            enabled,
            told: HashSet::new(),
        }
    }

    /// The names of an entry's owner and group that were not told before.
    pub(super) fn new_of(&mut self, stat: &Stat) -> Vec<Identity> {
        if !self.enabled {
            return Vec::new();
        }
        let both = [(false, stat.st_uid), (true, stat.st_gid)];
        let new = both.into_iter().filter(|one| self.told.insert(*one));
        new.filter_map(|(is_group, id)| {
            let name = name_of(is_group, id)?.into_bytes().into();
            Some(Identity { id, is_group, name })
        })
        .collect()
    }
}

fn name_of(is_group: bool, id: u32) -> Option<String> {
    if is_group {
        Group::from_gid(Gid::from_raw(id))
            .ok()?
            .map(|group| group.name)
    } else {
        User::from_uid(Uid::from_raw(id))
            .ok()?
            .map(|user| user.name)
    }
}

/// What the ids of the other machine are here.
#[derive(Debug, Default)]
pub(super) struct Mapping {
    ids: HashMap<(bool, u32), u32>,
}

impl Mapping {
    /// Learns the name of an id; a name that is not known here leaves it the number that it is.
    pub(super) fn learn(&mut self, identity: &Identity) {
        if self.ids.len() >= IDENTITIES {
            return;
        }
        let known = str::from_utf8(&identity.name).ok().and_then(|name| {
            if identity.is_group {
                Some(Group::from_name(name).ok()??.gid.as_raw())
            } else {
                Some(User::from_name(name).ok()??.uid.as_raw())
            }
        });
        if let Some(known) = known {
            self.ids.insert((identity.is_group, identity.id), known);
        }
    }

    /// Puts the ids of this machine into what the source told.
    pub(super) fn apply(&self, attributes: &mut Attributes) {
        let here = |is_group, id: u32| self.ids.get(&(is_group, id)).copied().unwrap_or(id);
        attributes.user = attributes.user.map(|id| here(false, id));
        attributes.group = attributes.group.map(|id| here(true, id));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_those_of_the_name_here_and_else_the_same_number() {
        let mut mapping = Mapping::default();
        for (is_group, name) in [(false, "root"), (true, "root"), (false, "no such user")] {
            let id = if name == "root" { 4711 } else { 4712 };
            let name = name.into();
            mapping.learn(&Identity { id, is_group, name });
        }
        let mut attributes = Attributes {
            user: Some(4711),
            group: Some(4711),
            ..Attributes::default()
        };
        mapping.apply(&mut attributes);
        assert_eq!((attributes.user, attributes.group), (Some(0), Some(0)));
        attributes.user = Some(4712);
        mapping.apply(&mut attributes);
        assert_eq!(attributes.user, Some(4712));
    }
}
