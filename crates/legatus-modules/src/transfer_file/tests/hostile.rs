//! Whatever the other half sends: no panic, nothing outside of the target, nothing left half.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use proptest::prelude::*;
use prost::Message;
use tokio::sync::mpsc;

use super::super::destination::{Destination, Wanted};
use super::super::messages::event::Event as Kind;
use super::super::messages::{
    Attributes, Empty, End, Event, File, FileEnd, Finished, Folder, Link, Root, SourceMessage,
    Time, WriteOptions,
};
use super::super::report::Gauge;
use super::super::target::{Target, TargetError};

/// A target folder with something valuable beside it, and links that lead there.
fn trap() -> tempfile::TempDir {
    let trap = tempfile::tempdir().unwrap();
    fs::create_dir(trap.path().join("target")).unwrap();
    fs::create_dir(trap.path().join("outside")).unwrap();
    symlink("../outside", trap.path().join("target/a")).unwrap();
    trap
}

fn assert_untouched(trap: &Path) {
    assert_eq!(fs::read_dir(trap.join("outside")).unwrap().count(), 0);
    assert_eq!(fs::read_dir(trap).unwrap().count(), 2);
    for entry in fs::read_dir(trap.join("target")).unwrap() {
        let name = entry.unwrap().file_name();
        assert!(
            !name.to_string_lossy().ends_with(".legatus"),
            "{name:?} was left"
        );
    }
}

/// Gives these messages to a target, as they are.
fn give(
    trap: &Path,
    messages: Vec<Bytes>,
    asked: Option<Vec<Root>>,
) -> Result<Finished, TargetError> {
    let open = |path: &Path, _| fs::File::open(path);
    let wanted = Wanted {
        path: &trap.join("target/"),
        shown: b"target/",
        into_folder: true,
        no_parents: false,
    };
    let destination = Destination::find(&open, &wanted).unwrap();
    let (notices, _kept) = mpsc::channel(10_000);
    let options = WriteOptions {
        no_fsync: true,
        ..WriteOptions::default()
    };
    let target = Target::new(
        destination,
        b"target/",
        options,
        notices,
        Arc::new(Gauge::default()),
    );
    let target = match asked {
        Some(asked) => target.asking(asked),
        None => target,
    };
    let (tx, rx) = mpsc::channel(messages.len().max(1));
    for message in messages {
        tx.try_send(message).unwrap();
    }
    drop(tx);
    target.run(rx).map(|(_, finished)| finished)
}

fn message(events: Vec<Kind>) -> Bytes {
    let events = events
        .into_iter()
        .map(|event| Event { event: Some(event) })
        .collect();
    SourceMessage { events }.encode_to_vec().into()
}

fn root(name: &str) -> Kind {
    Kind::Root(Root {
        name: Bytes::copy_from_slice(name.as_bytes()),
        contents: name.is_empty(),
    })
}

fn file(name: &str, contents: &'static [u8], digest: &[u8]) -> [Kind; 3] {
    [
        Kind::File(File {
            name: Bytes::copy_from_slice(name.as_bytes()),
            ..File::default()
        }),
        Kind::Data(Bytes::from_static(contents)),
        Kind::FileEnd(FileEnd {
            digest: Bytes::copy_from_slice(digest),
        }),
    ]
}

fn folder(name: &str) -> Kind {
    Kind::Folder(Folder {
        name: Bytes::copy_from_slice(name.as_bytes()),
        ..Folder::default()
    })
}

#[test]
fn a_digest_that_lies_makes_no_file() {
    let trap = trap();
    let mut events = vec![root("f")];
    events.extend(file("", b"contents", &[0; 32]));
    events.push(Kind::End(End::default()));
    let finished = give(trap.path(), vec![message(events)], None).unwrap();
    assert_eq!((finished.files, finished.failed), (0, 1));
    assert!(!trap.path().join("target/f").exists());
    assert_untouched(trap.path());
}

#[test]
fn files_without_a_mode_get_that_of_the_original() {
    use std::os::unix::fs::PermissionsExt;
    let trap = trap();
    let mut events = vec![root("f")];
    events.extend(file("", b"contents", blake3::hash(b"contents").as_bytes()));
    events.push(Kind::End(End::default()));
    give(trap.path(), vec![message(events)], None).unwrap();
    let metadata = fs::metadata(trap.path().join("target/f")).unwrap();
    assert_eq!(metadata.permissions().mode() & 0o7777, 0o664);
}

#[test]
fn names_that_lead_elsewhere_end_the_copy() {
    for name in [
        "..",
        "../outside/x",
        "/tmp/x",
        "a/x",
        "",
        ".",
        "\0",
        &"x".repeat(256),
    ] {
        let trap = trap();
        let digest = blake3::hash(b"x");
        let mut below = vec![root(""), folder("")];
        below.extend(file(name, b"x", digest.as_bytes()));
        let mut above = vec![Kind::Root(Root {
            name: Bytes::copy_from_slice(name.as_bytes()),
            contents: false,
        })];
        above.extend(file("", b"x", digest.as_bytes()));
        let link = vec![root(""), folder(""), folder(name)];
        for events in [below, above, link] {
            let told = give(trap.path(), vec![message(events)], None);
            assert!(
                matches!(told, Err(TargetError::Misbehaved(_))),
                "{name:?}: {told:?}"
            );
            assert_untouched(trap.path());
        }
    }
}

#[test]
fn events_out_of_order_end_the_copy() {
    let data = || Kind::Data(Bytes::from_static(b"x"));
    let leave = || Kind::Leave(Empty {});
    let end = || Kind::End(End::default());
    let [begin, _, file_end] = file("f", b"", b"");
    for events in [
        vec![data()],
        vec![leave()],
        vec![file_end.clone()],
        vec![begin.clone()],
        vec![folder("f")],
        vec![root("f"), leave()],
        vec![root("f"), begin.clone(), begin.clone()],
        vec![root("f"), begin.clone(), end()],
        vec![root("f"), begin.clone(), folder("x")],
        vec![root("f"), folder(""), end()],
        vec![root("f"), folder(""), root("g")],
        vec![root("f"), folder(""), leave(), leave()],
        vec![root("f"), folder(""), leave(), folder("")],
    ] {
        let trap = trap();
        let told = give(trap.path(), vec![message(events.clone())], None);
        assert!(
            matches!(told, Err(TargetError::Misbehaved(_))),
            "{events:?}: {told:?}"
        );
        assert_untouched(trap.path());
    }
}

#[test]
fn a_server_cannot_send_what_was_not_asked_for() {
    let asked = || {
        Some(vec![Root {
            name: Bytes::from_static(b"wanted"),
            contents: false,
        }])
    };
    for events in [
        vec![root(".bashrc")],
        vec![root("")],
        vec![root("wanted"), root("wanted")],
    ] {
        let trap = trap();
        let told = give(trap.path(), vec![message(events)], asked());
        assert!(matches!(told, Err(TargetError::Misbehaved(_))), "{told:?}");
    }
}

#[test]
fn a_copy_that_stops_half_way_is_told_as_interrupted() {
    let trap = trap();
    let [begin, data, _] = file("", b"x", b"");
    let told = give(
        trap.path(),
        vec![message(vec![root("f"), begin, data])],
        None,
    );
    assert!(matches!(told, Err(TargetError::Interrupted)));
    assert!(!trap.path().join("target/f").exists());
    assert_untouched(trap.path());
}

#[test]
fn folders_without_end_end_the_copy_or_fail_and_take_bounded_memory() {
    let trap = trap();
    let mut events = vec![root("")];
    events.extend(std::iter::repeat_n(folder("a"), 200_000));
    // The first is the target, the second a link that is in the way.
    let told = give(trap.path(), vec![message(events)], None);
    assert!(matches!(told, Err(TargetError::Interrupted)), "{told:?}");
    assert_untouched(trap.path());
}

fn name() -> impl Strategy<Value = Bytes> {
    prop_oneof![
        4 => "[ab]",
        1 => Just("..".to_owned()),
        1 => Just("../outside/x".to_owned()),
        1 => "[/.\0a]{0,3}",
    ]
    .prop_map(Bytes::from)
}

fn attributes() -> impl Strategy<Value = Option<Attributes>> {
    proptest::option::of((any::<Option<u32>>(), any::<i64>(), any::<u32>()).prop_map(
        |(mode, seconds, nanoseconds)| Attributes {
            // Such that the test itself can look into folders when it is not run by root.
            mode: mode.map(|mode| mode | 0o700),
            modified: Some(Time {
                seconds,
                nanoseconds,
            }),
        },
    ))
}

fn event() -> impl Strategy<Value = Kind> {
    let digest = prop_oneof![
        Just(Bytes::copy_from_slice(blake3::hash(b"xx").as_bytes())),
        Just(Bytes::copy_from_slice(blake3::hash(b"").as_bytes())),
        Just(Bytes::new()),
    ];
    prop_oneof![
        1 => (name(), any::<bool>()).prop_map(|(name, contents)| Kind::Root(Root { name, contents })),
        3 => (name(), attributes())
            .prop_map(|(name, attributes)| Kind::Folder(Folder { name, attributes })),
        2 => Just(Kind::Leave(Empty {})),
        3 => (name(), attributes(), any::<u64>())
            .prop_map(|(name, attributes, size)| Kind::File(File { name, attributes, size })),
        2 => Just(Kind::Data(Bytes::from_static(b"xx"))),
        3 => digest.prop_map(|digest| Kind::FileEnd(FileEnd { digest })),
        2 => (name(), attributes()).prop_map(|(name, attributes)| Kind::Link(Link {
            name,
            target: Bytes::from_static(b"../outside"),
            attributes,
        })),
        1 => Just(Kind::End(End::default())),
    ]
}

proptest! {
    #[test]
    fn no_bytes_make_a_target_panic_or_write_outside(messages: Vec<Vec<u8>>) {
        let trap = trap();
        let messages = messages.into_iter().map(Bytes::from).collect();
        give(trap.path(), messages, None).ok();
        assert_untouched(trap.path());
    }

    #[test]
    fn no_events_make_a_target_panic_or_write_outside(
        events in proptest::collection::vec(event(), 0..40),
    ) {
        let trap = trap();
        let mut all = vec![root(""), folder("")];
        all.extend(events);
        give(trap.path(), vec![message(all)], None).ok();
        assert_untouched(trap.path());
    }
}
