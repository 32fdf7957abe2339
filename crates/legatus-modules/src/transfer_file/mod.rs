//! `transfer-file`: copies files and folders to and from another machine.
//!
//! A copy has a half that reads and a half that writes. In an upload the client reads and the server
//! writes, in a download the other way round; only [`commander`] and [`sender`] know on which side
//! they are. Each half has two threads, so that nobody waits for an answer to a file:
//!
//! ```text
//!   source                                                target
//!   listing: walks, tells every entry  ──── events ────►  judging: looks at what is there,
//!                                                         makes folders and links,
//!   reading: reads what is wanted      ◄─── answers ────  asks for the contents of files
//!            (matching: blocks that    ──── pieces ────►  writing: verifies, names
//!             the target has)          ◄─── settled ────
//! ```
//!
//! [`source`] and [`receiving`] run the two halves over a channel, [`ledger`] and [`target`] are what
//! the threads of each share.

mod beside;
mod bounds;
mod change;
mod commander;
mod compression;
mod considering;
mod deletion;
mod delta;
mod destination;
mod durability;
mod engine;
mod entering;
mod filter;
mod folders;
mod gate;
mod growing;
mod judging;
mod ledger;
mod leftovers;
mod links;
mod listing;
mod making;
mod matching;
mod messages;
mod metadata;
mod names;
mod naming;
mod opening;
mod ownership;
mod pacing;
mod packer;
mod partial;
mod plan;
mod reading;
mod receiving;
mod reconnecting;
mod report;
mod sender;
mod sharing;
mod site;
mod source;
mod staged;
mod staging;
mod tally;
mod target;
mod temporary;
#[cfg(test)]
mod tests;
mod transcript;
mod tree;
mod writing;
mod xattrs;

use std::path::PathBuf;

use legatus_core::{
    Alias, Argument, Commander, Effects, Example, Fault, Module, Placement, Sender, Settings, Spec,
    Target, ValueKind,
};

use crate::configured::Configured;

/// The module `transfer-file`.
pub(crate) fn module() -> impl Module {
    TransferFile {
        spec: spec(),
        home: None,
        bounds: Configured::default(),
    }
}

struct TransferFile {
    spec: Spec,
    /// Where relative paths of requests start, if not in the home of the user that it runs as.
    home: Option<PathBuf>,
    /// What the server's settings allow.
    bounds: Configured<messages::Bounds>,
}

impl Module for TransferFile {
    fn spec(&self) -> &Spec {
        &self.spec
    }

    fn commander(&self) -> Option<&dyn Commander> {
        Some(self)
    }

    fn sender(&self) -> Option<&dyn Sender> {
        Some(self)
    }

    fn configure(&self, settings: &Settings) -> Result<(), Fault> {
        self.bounds.set(bounds::from_settings(settings)?)
    }
}

fn spec() -> Spec {
    Spec {
        name: "transfer-file".into(),
        aliases: vec![Alias::name("cp")],
        version: env!("CARGO_PKG_VERSION").into(),
        summary: "Copy files and folders to or from a host".into(),
        description: DESCRIPTION.into(),
        effects: Effects::READ.union(Effects::WRITE),
        target: Target::InLocations,
        placement: Placement::Child,
        arguments: arguments(),
        examples: vec![
            Example::new(
                "legatus transfer-file notes.txt web1:",
                "Copies a file into the home folder on web1",
            ),
            Example::new(
                "legatus cp web1:/var/log/ logs",
                "Copies the contents of a remote folder into the folder `logs`",
            ),
            Example::new(
                "legatus cp --delete --exclude '*.o' --dry-run project/ web1:project",
                "Tells what would change to make the remote folder the same, object files aside",
            ),
            Example::new(
                "legatus transfer-file --mkdir web1:/srv/www/new --mode 0755",
                "Makes a folder and its missing parents",
            ),
        ],
    }
}

const DESCRIPTION: &str = "\
Copies files, folders with everything in them, and symbolic links (as links), keeping modes, times of \
modification, hard links and holes. Files that are there already, with the same size and time, are not sent \
again, and of those that have changed only what has. A copy whose connection is lost goes on when there is one \
again; one that was interrupted goes on where it was when the same command is run again. With `--archive` owners, special modes, extended attributes and access control lists \
are kept and devices copied; without it files lose setuid, setgid and sticky, unless `--mode` gives \
them. A folder that is named as the target and exists keeps its own mode. Of source and target one is \
HOST:PATH; relative remote paths start at the remote user's home folder.

A slash at the end of a source folder means its contents. Without it the folder itself is copied: \
into the target if that is an existing folder or ends in a slash, else to the target as its new name.

Files and symbolic links at the target are replaced; what is of another kind than the source's entry \
only with `--delete`; devices, FIFOs and sockets never. A file appears at its name only when it is complete and its contents are verified. Exit status: 0 \
everything was copied, 23 some entries failed (each is told), 24 some entries vanished before they \
were read.";

fn arguments() -> Vec<Argument> {
    vec![
        Argument::positional(
            "paths",
            "PATH",
            "Sources and at last the target: PATH or HOST:PATH",
        )
        .value(ValueKind::Location)
        .required()
        .repeated(),
        Argument::flag(
            "mkdir",
            "Make folders, with missing parents, instead of copying",
        ),
        Argument::option(
            "mode",
            "MODE",
            "Mode of files, instead of the source's; of made folders",
        )
        .value(ValueKind::Mode),
        Argument::flag("no-parents", "Do not make missing parents of the target"),
        Argument::flag(
            "archive",
            "Keep owners, special modes, extended attributes, ACLs; copy devices",
        )
        .short('a'),
        Argument::flag(
            "numeric-ids",
            "With --archive: owners by number, not by name",
        ),
        Argument::flag(
            "delete",
            "Remove at the target what the source does not have",
        ),
        Argument::flag("dry-run", "Change nothing, tell what would change").short('n'),
        Argument::flag("itemize", "Tell each change in a line, as rsync does").short('i'),
        Argument::option(
            "exclude",
            "PATTERN",
            "Leave out what matches, as a line of .gitignore would",
        )
        .repeated(),
        Argument::option("include", "PATTERN", "Do not leave out what matches").repeated(),
        Argument::option("exclude-from", "FILE", "Patterns, as in a .gitignore file")
            .value(ValueKind::Path)
            .repeated(),
        Argument::option(
            "files-from",
            "FILE",
            "Copy only the paths below the source that FILE lists (- for stdin)",
        )
        .value(ValueKind::Path),
        Argument::flag("from0", "Paths in --files-from end in a 0, not a newline").short('0'),
        Argument::option("max-size", "SIZE", "Leave out larger files").value(ValueKind::Size),
        Argument::option("min-size", "SIZE", "Leave out smaller files").value(ValueKind::Size),
        Argument::flag("checksum", "Compare contents, not sizes and times"),
        Argument::option(
            "backup",
            "SUFFIX",
            "Keep what is replaced or deleted, its name with SUFFIX",
        ),
        Argument::flag("whole-file", "Send changed files as a whole").short('W'),
        Argument::option(
            "compress",
            "HOW",
            "auto, none, or zstd with a level as in zstd:3",
        ),
        Argument::option("bandwidth", "SIZE", "At most so many bytes a second")
            .value(ValueKind::Size),
        Argument::flag(
            "atomic",
            "Make a folder as a whole beside its name, and swap it in when complete",
        ),
        Argument::option(
            "partial-ttl",
            "TIME",
            "Keep incomplete large files so long (1d)",
        )
        .value(ValueKind::Duration),
        Argument::option(
            "jobs",
            "N",
            "Copy files over so many connections (1; at most 16)",
        ),
        Argument::flag(
            "progress",
            "With --json: tell every second how far the copy is",
        ),
        Argument::option(
            "reconnect",
            "TIME",
            "Look for a lost connection so long, and go on (10m); 0: do not",
        )
        .value(ValueKind::Duration),
        Argument::flag("no-fsync", "Do not wait until everything is on the disk"),
        Argument::flag(
            "verify-disk",
            "Read every file back from the disk and compare",
        ),
        Argument::flag(
            "recursive",
            "For users of scp: folders are always copied with contents",
        )
        .short('r'),
    ]
}
