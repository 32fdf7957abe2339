//! `transfer-file`: copies files and folders to and from another machine.
//!
//! Two engines and two directions: the [`source`] walks, reads, hashes and packs events into
//! messages; the [`target`] writes, verifies and names. In an upload the client is the source and
//! the server the target, in a download the other way round. Only [`commander`] and [`sender`] know
//! on which side they are.

mod branch;
mod commander;
mod destination;
mod durability;
mod engine;
mod folders;
mod messages;
mod names;
mod packer;
mod report;
mod sender;
mod source;
mod staged;
mod target;
mod temporary;
#[cfg(test)]
mod tests;
mod writing;

use std::path::PathBuf;

use legatus_core::{
    Alias, Argument, Commander, Effects, Example, Module, Placement, Sender, Spec, Target,
    ValueKind,
};

/// The module `transfer-file`.
pub(crate) fn module() -> impl Module {
    TransferFile {
        spec: spec(),
        home: None,
    }
}

struct TransferFile {
    spec: Spec,
    /// Where relative paths of requests start, if not in the home of the user that it runs as.
    home: Option<PathBuf>,
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
                "legatus transfer-file --mkdir web1:/srv/www/new --mode 0755",
                "Makes a folder and its missing parents",
            ),
        ],
    }
}

const DESCRIPTION: &str = "\
Copies files, folders with everything in them, and symbolic links (as links), keeping modes and \
times of modification. The owner is not kept, and so files lose setuid, setgid and sticky, unless \
`--mode` gives them. A folder that is named as the target and exists keeps its own mode. Of source and target one is HOST:PATH; relative remote paths start at the \
remote user's home folder.

A slash at the end of a source folder means its contents. Without it the folder itself is copied: \
into the target if that is an existing folder or ends in a slash, else to the target as its new name.

Files and symbolic links at the target are replaced, other kinds (folders, devices, FIFOs, sockets) \
never. A file appears at its name only when it is complete and its contents are verified. Exit status: 0 \
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
