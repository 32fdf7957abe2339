//! Whatever the other half sends: no panic, nothing outside of the target, nothing left half.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use legatus_core::Channel;
use proptest::prelude::*;
use prost::Message;
use tokio_util::sync::CancellationToken;

use super::super::destination::{Destination, Wanted};
use super::super::engine::Side;
use super::super::messages::answer::Answer;
use super::super::messages::event::Event as Kind;
use super::super::messages::piece::Piece as PieceKind;
use super::super::messages::{
    Attributes, Begin, Copy, Empty, Event, File, FileEnd, Finished, Folder, HardLink, Leave, Link,
    Options, Packed, Piece, Root, SourceMessage, Special, TargetMessage, Time,
};
use super::super::receiving::{TargetJob, run_target};
use super::super::target::TargetError;

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

/// What a hostile source does.
enum Step {
    /// Sends a message as it is.
    Send(Bytes),
    /// Waits until a file is wanted, or it is clear that none will be.
    Await,
    /// Waits for any answer.
    AwaitAny,
    /// Stays until the target has ended: a source that goes may be all that the target tells of.
    Stay,
}

/// Does this to a target; what it says is passed over.
fn give(trap: &Path, steps: Vec<Step>, asked: Option<Vec<Root>>) -> Result<Finished, TargetError> {
    let options = Options {
        no_fsync: true,
        ..Options::default()
    };
    give_with(trap, steps, asked, options)
}

fn give_with(
    trap: &Path,
    steps: Vec<Step>,
    asked: Option<Vec<Root>>,
    options: Options,
) -> Result<Finished, TargetError> {
    let open = |path: &Path, _| fs::File::open(path);
    let wanted = Wanted {
        path: &trap.join("target/"),
        shown: b"target/",
        into_folder: true,
        no_parents: false,
        dry_run: false,
        placed: None,
    };
    let job = TargetJob {
        destination: Destination::find(&open, &wanted).unwrap(),
        shown: OsStr::new("target/"),
        options,
        asked,
        named: None,
        above: None,
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build();
    runtime.unwrap().block_on(async {
        let (ours, theirs) = Channel::pair(1 << 20);
        let cancelled = CancellationToken::new();
        let target = run_target(job, theirs, Side::Server, &cancelled);
        let (sender, mut answers) = ours.split();
        let source = async move {
            'steps: for step in steps {
                match step {
                    Step::Send(message) => {
                        if sender.send(message).await.is_err() {
                            break;
                        }
                    }
                    Step::AwaitAny => {
                        answers.receive().await;
                    }
                    Step::Stay => {
                        let ended = async { while answers.receive().await.is_some() {} };
                        let ended = tokio::time::timeout(Duration::from_secs(60), ended).await;
                        ended.expect("the target goes on");
                    }
                    Step::Await => loop {
                        let Some(message) = answers.receive().await else {
                            break 'steps;
                        };
                        let told = TargetMessage::decode(message).unwrap().answers;
                        let told: Vec<_> = told.into_iter().filter_map(|one| one.answer).collect();
                        let wanted =
                            |one: &Answer| matches!(one, Answer::Wanted(_) | Answer::Rest(_));
                        if told.iter().any(wanted) {
                            break;
                        }
                    },
                }
            }
            drop(sender);
            while answers.receive().await.is_some() {}
        };
        let (told, ()) = tokio::join!(target, source);
        told.map(|(_, finished)| finished)
    })
}

fn message(events: Vec<Kind>) -> Step {
    let events = events
        .into_iter()
        .map(|event| Event { event: Some(event) })
        .collect();
    let pieces = Vec::new();
    Step::Send(SourceMessage { events, pieces }.encode_to_vec().into())
}

fn pieces(pieces: Vec<PieceKind>) -> Step {
    let pieces = pieces
        .into_iter()
        .map(|piece| Piece { piece: Some(piece) })
        .collect();
    let events = Vec::new();
    Step::Send(SourceMessage { events, pieces }.encode_to_vec().into())
}

fn end() -> Kind {
    Kind::End(Empty {})
}

fn root(name: &str) -> Kind {
    Kind::Root(Root {
        name: Bytes::copy_from_slice(name.as_bytes()),
        contents: name.is_empty(),
    })
}

fn file(name: &str) -> Kind {
    Kind::File(File {
        name: Bytes::copy_from_slice(name.as_bytes()),
        ..File::default()
    })
}

fn contents(entry: u64, data: &'static [u8], digest: &[u8]) -> Vec<PieceKind> {
    vec![
        PieceKind::Begin(Begin {
            entry,
            ..Begin::default()
        }),
        PieceKind::Data(Bytes::from_static(data)),
        PieceKind::FileEnd(FileEnd {
            digest: Bytes::copy_from_slice(digest),
            size: data.len() as u64,
            failure: None,
        }),
    ]
}

fn folder(name: &str) -> Kind {
    Kind::Folder(Folder {
        name: Bytes::copy_from_slice(name.as_bytes()),
        ..Folder::default()
    })
}

fn leave() -> Kind {
    Kind::Leave(Leave::default())
}

/// What a source proves these contents with.
fn digest(contents: &[u8]) -> [u8; 16] {
    twox_hash::XxHash3_128::oneshot(contents).to_be_bytes()
}

#[test]
fn a_digest_of_another_length_ends_the_copy() {
    for length in [1, 15, 17, 32] {
        let trap = trap();
        let events = vec![root("f"), file(""), end()];
        let odd = Bytes::from(vec![0; length]);
        let mut told = contents(1, b"contents", &odd);
        if length > 16 {
            told.insert(2, PieceKind::Check(odd));
        }
        let steps = vec![message(events), Step::Await, pieces(told), Step::Stay];
        let ended = give(trap.path(), steps, None);
        assert!(
            matches!(ended, Err(TargetError::Misbehaved(_))),
            "{ended:?}"
        );
        assert_untouched(trap.path());
    }
}

#[test]
fn pieces_of_another_version_end_the_copy_and_say_so() {
    let trap = trap();
    // What was `check` once: field 6, of 2 bytes; in a piece, which is field 2 of the message.
    let former = Bytes::from_static(&[2 << 3 | 2, 4, 6 << 3 | 2, 2, 0, 0]);
    let events = vec![root("f"), file(""), end()];
    let steps = vec![message(events), Step::Await, Step::Send(former), Step::Stay];
    let error = give(trap.path(), steps, None).unwrap_err();
    assert!(error.to_string().contains("another version"), "{error}");
}

#[test]
fn a_check_that_lies_is_asked_for_once_more_and_makes_no_file() {
    let trap = trap();
    let events = vec![root("f"), file(""), end()];
    // All is right but what the check says of the first part.
    let lie = || {
        let mut told = contents(1, b"first", &digest(b"second"));
        told.insert(2, PieceKind::Check(Bytes::from_static(&[0; 16])));
        told.insert(3, PieceKind::Data(Bytes::from_static(b"second")));
        if let Some(PieceKind::FileEnd(end)) = told.last_mut() {
            end.size = 11;
        }
        pieces(told)
    };
    let steps = vec![message(events), Step::Await, lie(), Step::Await, lie()];
    let finished = give(trap.path(), steps, None).unwrap();
    assert_eq!((finished.files, finished.failed), (0, 1));
    assert!(!trap.path().join("target/f").exists());
    assert_untouched(trap.path());
}

#[test]
fn a_digest_that_lies_is_asked_for_once_more_and_makes_no_file() {
    let trap = trap();
    let events = vec![root("f"), file(""), end()];
    let lie = || pieces(contents(1, b"contents", &[0; 16]));
    let steps = vec![message(events), Step::Await, lie(), Step::Await, lie()];
    let finished = give(trap.path(), steps, None).unwrap();
    assert_eq!((finished.files, finished.failed), (0, 1));
    assert!(!trap.path().join("target/f").exists());
    assert_untouched(trap.path());
}

#[test]
fn a_digest_that_was_wrong_once_is_made_good() {
    let trap = trap();
    let events = vec![root("f"), file(""), end()];
    let told = |digest: &[u8]| pieces(contents(1, b"contents", digest));
    let right = digest(b"contents");
    let steps = vec![
        message(events),
        Step::Await,
        told(&[0; 16]),
        Step::Await,
        told(&right),
    ];
    let finished = give(trap.path(), steps, None).unwrap();
    assert_eq!((finished.files, finished.failed), (1, 0));
    assert_eq!(fs::read(trap.path().join("target/f")).unwrap(), b"contents");
}

#[test]
fn a_length_that_lies_makes_no_file() {
    let trap = trap();
    let events = vec![root("f"), file(""), end()];
    let lie = || {
        let mut told = contents(1, b"contents", &digest(b"contents"));
        if let Some(PieceKind::FileEnd(end)) = told.last_mut() {
            end.size = 9;
        }
        pieces(told)
    };
    let steps = vec![message(events), Step::Await, lie(), Step::Await, lie()];
    let finished = give(trap.path(), steps, None).unwrap();
    assert_eq!((finished.files, finished.failed), (0, 1));
    assert_untouched(trap.path());
}

#[test]
fn files_without_a_mode_get_that_of_the_original() {
    use std::os::unix::fs::PermissionsExt;
    let trap = trap();
    let events = vec![root("f"), file(""), end()];
    let told = pieces(contents(1, b"contents", &digest(b"contents")));
    give(trap.path(), vec![message(events), Step::Await, told], None).unwrap();
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
        let named = Bytes::copy_from_slice(name.as_bytes());
        let below = vec![root(""), folder(""), file(name)];
        let above = vec![
            Kind::Root(Root {
                name: named.clone(),
                contents: false,
            }),
            file(""),
        ];
        let folders = vec![root(""), folder(""), folder(name)];
        let hard = vec![
            root(""),
            folder(""),
            Kind::HardLink(HardLink {
                name: named,
                entry: 0,
            }),
        ];
        for events in [below, above, folders, hard] {
            let trap = trap();
            let told = give(trap.path(), vec![message(events), Step::Stay], None);
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
    for events in [
        vec![leave()],
        vec![file("f")],
        vec![folder("f")],
        vec![root("f"), leave()],
        vec![root("f"), file("x"), file("y")],
        vec![root("f"), folder(""), end()],
        vec![root("f"), folder(""), root("g")],
        vec![root("f"), folder(""), leave(), leave()],
        vec![root("f"), folder(""), leave(), folder("")],
        vec![
            root("f"),
            Kind::Special(Special {
                kind: 0o020_000,
                ..Special::default()
            }),
        ],
    ] {
        let trap = trap();
        let told = give(trap.path(), vec![message(events.clone()), Step::Stay], None);
        assert!(
            matches!(told, Err(TargetError::Misbehaved(_))),
            "{events:?}: {told:?}"
        );
        assert_untouched(trap.path());
    }
}

#[test]
fn pieces_out_of_order_or_that_cannot_be_end_the_copy() {
    let begin = |entry, offset| {
        PieceKind::Begin(Begin {
            entry,
            offset,
            ..Begin::default()
        })
    };
    let data = || PieceKind::Data(Bytes::from_static(b"x"));
    let copy = |first, count| PieceKind::Copy(Copy { first, count });
    let packed = PieceKind::Packed(Packed {
        frame: Bytes::from_static(b"no frame"),
        length: 3,
    });
    for told in [
        vec![data()],
        vec![PieceKind::FileEnd(FileEnd::default())],
        vec![begin(0, 0)],
        vec![begin(7, 0)],
        vec![begin(u64::MAX, 0)],
        vec![begin(1, 0), begin(1, 0)],
        vec![begin(1, 1)],
        vec![begin(1, u64::MAX)],
        vec![begin(1, 0), copy(0, 1)],
        vec![begin(1, 0), packed],
    ] {
        let trap = trap();
        let events = vec![root("f"), file(""), end()];
        let steps = vec![
            message(events),
            Step::Await,
            pieces(told.clone()),
            Step::Stay,
        ];
        let ended = give(trap.path(), steps, None);
        assert!(
            matches!(ended, Err(TargetError::Misbehaved(_))),
            "{told:?}: {ended:?}"
        );
        assert!(!trap.path().join("target/f").exists());
        assert_untouched(trap.path());
    }
}

#[test]
fn blocks_that_the_target_does_not_have_make_no_file() {
    for (first, count) in [
        (0, 40),
        (31, 2),
        (u64::MAX, 1),
        (1, u64::MAX),
        (u64::MAX / 2, 2),
    ] {
        let trap = trap();
        fs::write(trap.path().join("target/f"), vec![b'x'; 64 << 10]).unwrap();
        let events = vec![
            root("f"),
            Kind::File(File {
                size: (64 << 10) + 1,
                ..File::default()
            }),
            end(),
        ];
        let told = vec![
            PieceKind::Begin(Begin {
                entry: 1,
                ..Begin::default()
            }),
            PieceKind::Copy(Copy { first, count }),
            PieceKind::FileEnd(FileEnd {
                digest: Bytes::from_static(&[1; 32]),
                ..FileEnd::default()
            }),
        ];
        let steps = vec![message(events), Step::Await, pieces(told), Step::Stay];
        match give(trap.path(), steps, None) {
            Ok(finished) => assert_eq!((finished.files, finished.failed), (0, 1)),
            Err(error) => assert!(matches!(error, TargetError::Misbehaved(_)), "{error:?}"),
        }
        let kept = fs::read(trap.path().join("target/f")).unwrap();
        assert_eq!(kept, vec![b'x'; 64 << 10]);
        assert_untouched(trap.path());
    }
}

#[test]
fn a_hole_that_is_longer_than_any_file_makes_no_file() {
    for length in [u64::MAX, i64::MAX as u64, 1 << 62] {
        let trap = trap();
        let events = vec![root("f"), file(""), end()];
        let told = vec![
            PieceKind::Begin(Begin {
                entry: 1,
                ..Begin::default()
            }),
            PieceKind::Hole(length),
            PieceKind::Hole(length),
            PieceKind::FileEnd(FileEnd::default()),
        ];
        let steps = vec![message(events), Step::Await, pieces(told)];
        let finished = give(trap.path(), steps, None).unwrap();
        assert_eq!(finished.files, 0, "{length}");
        assert!(!trap.path().join("target/f").exists());
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
        let told = give(trap.path(), vec![message(events), Step::Stay], asked());
        assert!(matches!(told, Err(TargetError::Misbehaved(_))), "{told:?}");
    }
}

#[test]
fn a_copy_that_stops_half_way_is_told_as_interrupted() {
    let trap = trap();
    let mut half = contents(1, b"x", b"");
    half.pop();
    let steps = vec![
        message(vec![root("f"), file("")]),
        Step::Await,
        pieces(half),
    ];
    let told = give(trap.path(), steps, None);
    assert!(matches!(told, Err(TargetError::Interrupted)), "{told:?}");
    assert!(!trap.path().join("target/f").exists());
    assert_untouched(trap.path());
}

#[test]
fn folders_without_end_end_the_copy_and_take_bounded_memory() {
    let trap = trap();
    let mut events = vec![root("")];
    events.extend(std::iter::repeat_n(folder("a"), 100_000));
    // The first is the target, the second a link that is in the way.
    let told = give(trap.path(), vec![message(events), Step::Stay], None);
    assert!(matches!(told, Err(TargetError::Misbehaved(_))), "{told:?}");
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
            ..Attributes::default()
        },
    ))
}

fn event() -> impl Strategy<Value = Kind> {
    prop_oneof![
        1 => (name(), any::<bool>()).prop_map(|(name, contents)| Kind::Root(Root { name, contents })),
        3 => (name(), attributes(), any::<bool>())
            .prop_map(|(name, attributes, implied)| Kind::Folder(Folder { name, attributes, implied })),
        2 => Just(leave()),
        4 => (name(), attributes(), any::<u64>(), any::<bool>())
            .prop_map(|(name, attributes, size, is_linked)| Kind::File(File {
                name,
                attributes,
                size: size % (1 << 20),
                is_linked,
                ..File::default()
            })),
        1 => (name(), 0_u64..8).prop_map(|(name, entry)| Kind::HardLink(HardLink { name, entry })),
        2 => (name(), attributes()).prop_map(|(name, attributes)| Kind::Link(Link {
            name,
            target: Bytes::from_static(b"../outside"),
            attributes,
        })),
        1 => Just(end()),
    ]
}

fn piece() -> impl Strategy<Value = PieceKind> {
    let digest = || {
        prop_oneof![
            Just(Bytes::copy_from_slice(&digest(b"xx"))),
            Just(Bytes::copy_from_slice(&digest(b""))),
            Just(Bytes::new()),
        ]
    };
    prop_oneof![
        4 => (0_u64..10, prop_oneof![Just(0_u64), any::<u64>()]).prop_map(|(entry, offset)| {
            PieceKind::Begin(Begin { entry, offset, ..Begin::default() })
        }),
        2 => Just(PieceKind::Data(Bytes::from_static(b"xx"))),
        1 => (any::<u64>(), any::<u64>()).prop_map(|(first, count)| {
            PieceKind::Copy(Copy { first, count })
        }),
        1 => prop_oneof![0_u64..100, any::<u64>()].prop_map(PieceKind::Hole),
        1 => digest().prop_map(PieceKind::Check),
        3 => (digest(), 0_u64..3).prop_map(|(digest, size)| {
            PieceKind::FileEnd(FileEnd { digest, size, failure: None })
        }),
    ]
}

proptest! {
    #[test]
    fn no_bytes_make_a_target_panic_or_write_outside(messages: Vec<Vec<u8>>) {
        let trap = trap();
        let steps = messages.into_iter().map(|bytes| Step::Send(bytes.into())).collect();
        give(trap.path(), steps, None).ok();
        assert_untouched(trap.path());
    }

    #[test]
    fn no_events_and_pieces_make_a_target_panic_or_write_outside(
        events in proptest::collection::vec(event(), 0..40),
        told in proptest::collection::vec(piece(), 0..40),
        delete: bool,
    ) {
        let trap = trap();
        let mut all = vec![root(""), folder("")];
        all.extend(events);
        let mut steps = vec![message(all), Step::AwaitAny];
        steps.extend(told.into_iter().map(|piece| pieces(vec![piece])));
        let options = Options { no_fsync: true, delete, ..Options::default() };
        give_with(trap.path(), steps, None, options).ok();
        assert_untouched(trap.path());
    }
}
