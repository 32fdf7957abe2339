//! The modules of an artefact, gathered from the halves that [`module!`](crate::module) lists.

use crate::{Call, Client, Commander, Description, Fault, Given, Host, Outcome, Sender};

type Execute = fn(&Call, &mut Host) -> Result<u8, Fault>;
type Send = fn(&[Given], &mut Client) -> Result<Outcome, Fault>;

/// One half of a module.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    describe: fn() -> Description,
    execute: Option<Execute>,
    send: Option<Send>,
}

impl Entry {
    /// A server half.
    #[must_use]
    pub const fn commander<M: Commander>() -> Self {
        Self {
            describe: M::describe,
            execute: Some(M::execute),
            send: None,
        }
    }

    /// A client half.
    #[must_use]
    pub const fn sender<M: Sender>() -> Self {
        Self {
            describe: M::describe,
            execute: None,
            send: Some(M::send),
        }
    }
}

/// One module with its halves.
pub(crate) struct Whole {
    pub(crate) told: Description,
    pub(crate) execute: Option<Execute>,
    pub(crate) send: Option<Send>,
}

/// The modules: halves of one name belong together.
pub(crate) fn modules(entries: &[Entry]) -> Vec<Whole> {
    let mut modules: Vec<Whole> = Vec::new();
    for entry in entries {
        let told = (entry.describe)();
        let known = modules.iter_mut().find(|one| one.told.name == told.name);
        if let Some(known) = known {
            known.execute = known.execute.or(entry.execute);
            known.send = known.send.or(entry.send);
        } else {
            modules.push(Whole {
                told,
                execute: entry.execute,
                send: entry.send,
            });
        }
    }
    modules
}

/// Runs a server half.
pub(crate) fn execute(
    entries: &[Entry],
    module: &str,
    call: &Call,
    host: &mut Host,
) -> Result<u8, Fault> {
    let mut modules = modules(entries).into_iter();
    let found = modules.find(|one| one.told.name == module);
    match found.and_then(|one| one.execute) {
        Some(execute) => execute(call, host),
        None => Err(Fault::new(format!("`{module}` has no server half"))),
    }
}

/// Runs a client half.
pub(crate) fn send(
    entries: &[Entry],
    module: &str,
    arguments: &[Given],
    client: &mut Client,
) -> Result<Outcome, Fault> {
    let mut modules = modules(entries).into_iter();
    let found = modules.find(|one| one.told.name == module);
    match found.and_then(|one| one.send) {
        Some(send) => send(arguments, client),
        None => Err(Fault::new(format!("`{module}` has no client half"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Module;

    struct Both;

    impl Module for Both {
        fn describe() -> Description {
            Description::new("both", "1.0.0", "Has both halves")
        }
    }

    impl Commander for Both {
        fn execute(_: &Call, _: &mut Host) -> Result<u8, Fault> {
            Ok(7)
        }
    }

    impl Sender for Both {
        fn send(_: &[Given], _: &mut Client) -> Result<Outcome, Fault> {
            Ok(Outcome::Exit(8))
        }
    }

    struct Other;

    impl Module for Other {
        fn describe() -> Description {
            Description::new("other", "1.0.0", "Has a server half")
        }
    }

    impl Commander for Other {
        fn execute(_: &Call, _: &mut Host) -> Result<u8, Fault> {
            Ok(9)
        }
    }

    #[test]
    fn halves_of_one_name_are_one_module() {
        let entries = [
            Entry::commander::<Both>(),
            Entry::commander::<Other>(),
            Entry::sender::<Both>(),
        ];
        let modules = modules(&entries);
        let halves = modules
            .iter()
            .map(|one| (one.told.name, one.execute.is_some(), one.send.is_some()));
        let halves: Vec<_> = halves.collect();
        assert_eq!(halves, [("both", true, true), ("other", true, false)]);
    }
}
