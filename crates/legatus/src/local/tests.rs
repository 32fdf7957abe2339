//! The user's machine as Senders see it.

use std::future::Future;
use std::io::{Read, Write};
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::thread;

use bytes::Bytes;
use legatus_core::limits;
use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};

use super::*;

/// A machine on pipes, with the other ends of stdin, stdout and stderr.
struct Piped {
    local: ProcessLocal,
    stdin: io::PipeWriter,
    stdout: io::PipeReader,
    stderr: io::PipeReader,
}

fn piped(json: bool) -> Piped {
    let (stdin_reader, stdin) = io::pipe().unwrap();
    let (stdout, stdout_writer) = io::pipe().unwrap();
    let (stderr, stderr_writer) = io::pipe().unwrap();
    let streams = Streams {
        stdin: stdin_reader.into(),
        stdout: stdout_writer.into(),
        stderr: stderr_writer.into(),
    };
    Piped {
        local: ProcessLocal::over(streams, json),
        stdin,
        stdout,
        stderr,
    }
}

fn polled_once<T>(future: impl Future<Output = T>) -> Poll<T> {
    pin!(future).poll(&mut Context::from_waker(Waker::noop()))
}

fn read_all(mut from: io::PipeReader) -> thread::JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut all = Vec::new();
        from.read_to_end(&mut all).unwrap();
        all
    })
}

#[tokio::test]
async fn a_writer_waits_while_nobody_reads_and_goes_on_when_somebody_does() {
    let piped = piped(false);
    let mut output = piped.local.output(Stream::Stdout);
    let chunk = Bytes::from(vec![7; limits::CHUNK_BYTES]);
    // The pipe and a task hold some; nothing else does.
    let mut accepted = 0;
    while polled_once(output.write(chunk.clone())).is_ready() {
        accepted += 1;
        assert!(accepted < 100, "nothing bounds what waits");
    }
    assert!(polled_once(output.flush()).is_pending());
    let reader = read_all(piped.stdout);
    output.write(chunk.clone()).await.unwrap();
    output.flush().await.unwrap();
    drop((output, piped.local));
    let written = reader.join().unwrap().len();
    // A write that was given up while it waited has written nothing.
    assert_eq!(written, (accepted + 1) * chunk.len());
}

#[tokio::test]
async fn small_and_large_writes_stay_in_order() {
    let piped = piped(false);
    let reader = read_all(piped.stdout);
    let mut output = piped.local.output(Stream::Stdout);
    let mut expected = Vec::new();
    for (turn, length) in [1, 4096, 4097, 0, 3, 200_000, 1, 2, 70_000, 5]
        .iter()
        .enumerate()
    {
        let chunk = vec![u8::try_from(turn).unwrap(); *length];
        expected.extend_from_slice(&chunk);
        output.write(chunk.into()).await.unwrap();
    }
    output.flush().await.unwrap();
    drop((output, piped.local));
    assert!(reader.join().unwrap() == expected);
}

#[tokio::test]
async fn a_reader_that_has_gone_is_an_error_of_small_and_large_writes() {
    for length in [1, 4 * limits::CHUNK_BYTES] {
        let piped = piped(false);
        drop(piped.stdout);
        let mut output = piped.local.output(Stream::Stdout);
        let written = output.write(vec![0; length].into()).await;
        let error = written.and(output.flush().await).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
        let again = output.write(Bytes::from_static(b"x")).await.unwrap_err();
        assert_eq!(again.kind(), io::ErrorKind::BrokenPipe);
        assert!(piped.local.stdout_is_broken());
    }
}

#[tokio::test]
async fn output_that_was_lost_makes_a_success_a_failure_and_nothing_else() {
    for (told, is_changed) in [
        (Outcome::SUCCESS, true),
        (Outcome::Cancelled, false),
        (Outcome::Timeout, false),
    ] {
        let piped = piped(false);
        drop(piped.stderr);
        let mut output = piped.local.output(Stream::Stderr);
        output.write(vec![0; 100_000].into()).await.unwrap_err();
        let outcome = piped.local.finish(told.clone()).await;
        assert_eq!(outcome != told, is_changed, "{outcome:?}");
    }
}

#[tokio::test]
async fn a_key_is_passed_on_at_once_and_the_end_is_empty() {
    let mut piped = piped(false);
    let mut input = piped.local.stdin().unwrap();
    assert!(piped.local.stdin().is_none());
    piped.stdin.write_all(b"k").unwrap();
    assert_eq!(input.read().await.unwrap(), "k");
    // Given up while nothing was there; what comes later is not lost.
    assert!(polled_once(input.read()).is_pending());
    piped.stdin.write_all(b"ey").unwrap();
    assert_eq!(input.read().await.unwrap(), "ey");
    drop(piped.stdin);
    assert!(input.read().await.unwrap().is_empty());
    assert!(input.read().await.unwrap().is_empty());
}

#[tokio::test]
async fn input_comes_whole_in_chunks_of_bounded_size() {
    let mut piped = piped(false);
    let expected: Vec<u8> = (0..1_000_000_u32).flat_map(u32::to_le_bytes).collect();
    let sent = expected.clone();
    let writer = thread::spawn(move || piped.stdin.write_all(&sent).unwrap());
    let mut input = piped.local.stdin().unwrap();
    let mut all = Vec::new();
    loop {
        let chunk = input.read().await.unwrap();
        if chunk.is_empty() {
            break;
        }
        assert!(chunk.len() <= limits::CHUNK_BYTES);
        all.extend_from_slice(&chunk);
    }
    writer.join().unwrap();
    assert!(all == expected);
}

#[tokio::test]
async fn input_that_cannot_be_read_is_an_error() {
    let (_, writer) = io::pipe().unwrap();
    let streams = Streams {
        stdin: File::open("/").unwrap().into(),
        stdout: writer.try_clone().unwrap().into(),
        stderr: writer.into(),
    };
    let local = ProcessLocal::over(streams, false);
    let error = local.stdin().unwrap().read().await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::IsADirectory);
}

#[tokio::test]
async fn with_json_both_streams_and_records_are_lines_of_stdout() {
    let piped = piped(true);
    let mut stdout = piped.local.output(Stream::Stdout);
    let mut stderr = piped.local.output(Stream::Stderr);
    stdout
        .write(Bytes::from_static(b"a\xe2\x82"))
        .await
        .unwrap();
    stderr.write(Bytes::from_static(b"\xff")).await.unwrap();
    stdout.write(Bytes::from_static(b"\xac")).await.unwrap();
    stdout.write(Bytes::from_static(b"\xe2")).await.unwrap();
    piped.local.record(r#"{"x":1}"#);
    stdout.flush().await.unwrap();
    drop((stdout, stderr, piped.local));
    let all = read_all(piped.stdout).join().unwrap();
    let expected = "{\"stream\":\"stdout\",\"data\":\"a\"}\n\
                    {\"stream\":\"stderr\",\"base64\":\"/w==\"}\n\
                    {\"stream\":\"stdout\",\"data\":\"\u{20ac}\"}\n\
                    {\"x\":1}\n\
                    {\"stream\":\"stdout\",\"base64\":\"4g==\"}\n";
    assert_eq!(String::from_utf8(all).unwrap(), expected);
    assert!(read_all(piped.stderr).join().unwrap().is_empty());
}

#[tokio::test]
async fn with_json_a_character_stays_whole_across_flushes() {
    let piped = piped(true);
    let mut stdout = piped.local.output(Stream::Stdout);
    for part in [&b"\xe2\x82"[..], b"\xac", b"\xe2"] {
        stdout.write(Bytes::from_static(part)).await.unwrap();
        stdout.flush().await.unwrap();
    }
    drop((stdout, piped.local));
    let all = read_all(piped.stdout).join().unwrap();
    let expected = "{\"stream\":\"stdout\",\"data\":\"\u{20ac}\"}\n\
                    {\"stream\":\"stdout\",\"base64\":\"4g==\"}\n";
    assert_eq!(String::from_utf8(all).unwrap(), expected);
}

/// A machine whose stdin and stderr, and stdout if `shows`, are a terminal; with its other side.
fn on_terminal(shows: bool) -> (ProcessLocal, File) {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let master = openpt(flags).unwrap();
    grantpt(&master).unwrap();
    unlockpt(&master).unwrap();
    let terminal = ioctl_tiocgptpeer(&master, flags).unwrap();
    let (_, pipe) = io::pipe().unwrap();
    let streams = Streams {
        stdin: terminal.try_clone().unwrap(),
        stdout: if shows {
            terminal.try_clone().unwrap()
        } else {
            pipe.into()
        },
        stderr: terminal,
    };
    (ProcessLocal::over(streams, false), master.into())
}

#[tokio::test]
async fn a_terminal_that_takes_nothing_never_stops_the_thread() {
    let (local, mut master) = on_terminal(true);
    let mut output = local.output(Stream::Stdout);
    let chunk = Bytes::from(vec![b'x'; 1000]);
    let mut accepted = 0;
    while polled_once(output.write(chunk.clone())).is_ready() {
        accepted += 1;
        assert!(accepted < 1000, "nothing bounds what waits");
    }
    let expected = accepted * chunk.len();
    let reader = thread::spawn(move || {
        let mut all = vec![0; expected];
        master.read_exact(&mut all).unwrap();
        (all, master)
    });
    output.flush().await.unwrap();
    let (all, _master) = reader.join().unwrap();
    assert!(all.iter().all(|byte| *byte == b'x'));
}

#[test]
fn a_terminal_is_there_for_keys_even_if_stdout_is_none() {
    for shows in [true, false] {
        let (local, _master) = on_terminal(shows);
        assert_eq!(local.terminal().unwrap().shows_output(), shows);
    }
}

#[test]
fn files_open_as_open_does_and_fifos_do_not_hang() {
    let piped = piped(false);
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, "x").unwrap();
    let link = dir.path().join("link");
    std::os::unix::fs::symlink(&file, &link).unwrap();
    let fifo = dir.path().join("fifo");
    rustix::fs::mkfifoat(rustix::fs::CWD, &fifo, Mode::RUSR).unwrap();
    assert!(piped.local.open(&link, true).is_err());
    assert!(piped.local.open(&link, false).is_ok());
    assert!(piped.local.open(&fifo, false).is_ok());
    let missing = piped
        .local
        .open(&dir.path().join("missing"), false)
        .unwrap_err();
    assert_eq!(missing.kind(), io::ErrorKind::NotFound);
    assert!(piped.local.terminal().is_none());
}
