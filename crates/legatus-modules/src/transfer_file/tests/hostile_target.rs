//! Whatever a target asks for: no panic, no waiting for ever, nothing told but the file.

use std::ffi::OsStr;
use std::fs;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use legatus_core::{Channel, ChannelReceiver, Fault};
use proptest::prelude::*;
use prost::Message;

use super::super::delta::{KEY_BYTES, SUM_BYTES, SUMS_BYTES};
use super::super::engine::Side;
use super::super::messages::answer::Answer;
use super::super::messages::piece::Piece;
use super::super::messages::{Finished, Names, Options, Range, Rest, SourceMessage, Sums, message};
use super::super::sharing::Placing;
use super::super::source::{SourceJob, SourcePath, Summary, run_source};

/// The number of the only file that the source tells of, behind its name and how much there is.
const FILE: u64 = 2;
const SIZE: usize = 256 << 10;
const BLOCK: u64 = 4096;

/// Has a source tell of one file; gives it these answers, and goes, at once or when it has the contents. What
/// the source said of these comes with how it ended.
fn answer(answers: Vec<Bytes>, stays: bool) -> (Result<Summary, Fault>, Vec<Piece>) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file");
    fs::write(&path, vec![b'x'; SIZE]).unwrap();
    let open = |path: &Path, _| fs::File::open(path);
    let shown = OsStr::new("file");
    let path = path.as_path();
    let job = SourceJob {
        paths: &[SourcePath { path, shown }],
        open: &open,
        count: false,
        options: Options::default(),
        named: None,
        placed: &Placing::default(),
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build();
    runtime.unwrap().block_on(async {
        let (ours, theirs) = Channel::pair(1 << 20);
        let (sender, mut events) = ours.split();
        let target = async move {
            await_event(&mut events).await;
            for answer in answers {
                if sender.send(answer).await.is_err() {
                    break;
                }
            }
            let mut sender = stays.then_some(sender);
            let mut told = Vec::new();
            while let Some(message) = events.receive().await {
                let pieces = SourceMessage::decode(message).unwrap().pieces;
                told.extend(pieces.into_iter().filter_map(|piece| piece.piece));
                if let Some(Piece::FileEnd(_)) = told.last() {
                    sender = None;
                }
            }
            drop(sender);
            told
        };
        let source = run_source(job, theirs, Side::Server);
        let both = async { tokio::join!(source, target) };
        let both = tokio::time::timeout(Duration::from_secs(60), both).await;
        both.expect("the source goes on")
    })
}

/// Waits until the source has told of its file.
async fn await_event(events: &mut ChannelReceiver) {
    let mut told = 0;
    while told <= FILE {
        let message = events
            .receive()
            .await
            .expect("the source tells of its file");
        told += SourceMessage::decode(message).unwrap().events.len() as u64;
    }
}

/// Has a source hear this, and tells what it thinks of it.
fn complaint(answers: Vec<Answer>) -> String {
    let told = format!("{answers:?}");
    let (ended, _) = answer(answers.into_iter().map(message).collect(), false);
    match ended {
        Ok(_) => panic!("the source takes {told}"),
        Err(fault) => fault.message().to_owned(),
    }
}

fn rest(block_bytes: u64) -> Answer {
    Answer::Rest(Rest {
        entry: FILE,
        offset: 0,
        block_bytes,
        key: vec![7; KEY_BYTES].into(),
    })
}

fn sums(bytes: usize, last: bool) -> Answer {
    Answer::Sums(Sums {
        entry: FILE,
        sums: vec![0; bytes].into(),
        last,
    })
}

#[test]
fn sums_of_blocks_that_cannot_be_end_the_copy() {
    let most = usize::try_from(SUMS_BYTES).unwrap();
    for (answers, expected) in [
        (vec![sums(SUM_BYTES, true)], "of no file"),
        (vec![rest(BLOCK), sums(SUM_BYTES - 1, false)], "cannot be"),
        (vec![rest(BLOCK), sums(SUM_BYTES + 1, true)], "cannot be"),
        (vec![rest(BLOCK), sums(0, false)], "cannot be"),
        (
            vec![rest(BLOCK), sums(most, false), sums(SUM_BYTES, false)],
            "too many",
        ),
        (
            vec![rest(BLOCK), sums(SUM_BYTES, true), sums(SUM_BYTES, true)],
            "of no file",
        ),
        (vec![rest(u64::MAX)], "blocks that cannot be"),
    ] {
        let complaint = complaint(answers);
        assert!(complaint.contains(expected), "{complaint}");
    }
}

#[test]
fn a_key_of_another_length_ends_the_copy() {
    for length in [0, 1, KEY_BYTES - 1, KEY_BYTES + 1] {
        let rest = Answer::Rest(Rest {
            entry: FILE,
            offset: 0,
            block_bytes: BLOCK,
            key: vec![7; length].into(),
        });
        let complaint = complaint(vec![rest]);
        assert!(complaint.contains("blocks that cannot be"), "{complaint}");
    }
}

#[test]
fn what_was_not_told_or_is_asked_for_too_often_ends_the_copy() {
    let range = |first, count| Range { first, count };
    let names = || {
        Answer::Names(Names {
            paths: vec![Bytes::from_static(b"a")],
            last: true,
        })
    };
    for answers in [
        vec![Answer::Wanted(range(9, 1))],
        vec![Answer::Wanted(range(FILE, u64::MAX))],
        vec![
            Answer::Wanted(range(u64::MAX, 1)),
            Answer::Settled(range(0, 99)),
        ],
        vec![Answer::Wanted(range(0, 1))],
        vec![Answer::Wanted(range(FILE, 1)); 3],
        vec![rest(BLOCK), rest(BLOCK), rest(BLOCK)],
        vec![Answer::Settled(range(u64::MAX, 1))],
        vec![Answer::Settled(range(1, u64::MAX))],
        vec![
            Answer::Settled(range(FILE, 1)),
            Answer::Wanted(range(FILE, 1)),
        ],
        vec![names()],
    ] {
        let told = format!("{answers:?}");
        let complaint = complaint(answers);
        assert!(
            complaint.contains("does not keep to the protocol"),
            "{told}: {complaint}"
        );
    }
}

#[test]
fn sums_that_lie_have_the_file_sent_as_it_is() {
    let lies = [
        message(rest(BLOCK)),
        message(sums(SIZE / 4096 * SUM_BYTES, true)),
    ];
    let (ended, told) = answer(lies.into(), true);
    assert!(ended.is_ok(), "{:?}", ended.err());
    let mut sent = 0;
    for piece in told {
        match piece {
            Piece::Data(data) => sent += data.len(),
            Piece::Packed(packed) => sent += usize::try_from(packed.length).unwrap(),
            Piece::Copy(copy) => panic!("{copy:?} of what nobody has"),
            _ => {}
        }
    }
    assert_eq!(sent, SIZE);
}

#[test]
fn a_target_that_goes_while_it_tells_of_blocks_ends_the_copy() {
    let (ended, _) = answer(
        vec![message(rest(BLOCK)), message(sums(SUM_BYTES, false))],
        false,
    );
    assert!(ended.is_ok_and(|summary| summary.target.is_none()));
}

fn number() -> impl Strategy<Value = u64> {
    prop_oneof![4 => 0_u64..4, 1 => any::<u64>()]
}

fn any_answer() -> impl Strategy<Value = Answer> {
    let range = || (number(), number()).prop_map(|(first, count)| Range { first, count });
    let bytes = |most| proptest::collection::vec(any::<u8>(), 0..most).prop_map(Bytes::from);
    prop_oneof![
        range().prop_map(Answer::Wanted),
        range().prop_map(Answer::Settled),
        number().prop_map(Answer::Skip),
        (number(), number(), number(), any::<bool>()).prop_map(
            |(entry, offset, block_bytes, short)| {
                let key = vec![0; KEY_BYTES - usize::from(short)].into();
                Answer::Rest(Rest {
                    entry,
                    offset,
                    block_bytes,
                    key,
                })
            }
        ),
        (number(), 0..4_usize, any::<u8>(), any::<bool>()).prop_map(
            |(entry, count, byte, last)| {
                let sums = vec![byte; count * SUM_BYTES].into();
                Answer::Sums(Sums { entry, sums, last })
            }
        ),
        (bytes(9), any::<bool>()).prop_map(|(path, last)| {
            Answer::Names(Names {
                paths: vec![path],
                last,
            })
        }),
        Just(Answer::Finished(Finished::default())),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_bytes_make_a_source_panic_or_wait_for_ever(
        answers in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..64), 0..8),
    ) {
        drop(answer(answers.into_iter().map(Bytes::from).collect(), false));
    }

    #[test]
    fn no_answers_make_a_source_panic_or_wait_for_ever(
        answers in proptest::collection::vec(any_answer(), 0..12),
    ) {
        drop(answer(answers.into_iter().map(message).collect(), false));
    }
}
