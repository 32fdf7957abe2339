//! The program as its user meets it: streams, exit status, signals, terminal.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::thread;

use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize};

/// `tests/in_memory/program.rs`, with no configuration.
fn program(arguments: &[&str]) -> Command {
    let mut path: PathBuf = std::env::current_exe().unwrap();
    path.pop();
    path.pop();
    // Whoever runs the tests may ignore signals, as nohup(1) does; the program would go on doing so.
    let mut command = Command::new("env");
    command
        .arg("--default-signal=HUP,INT,QUIT,TERM")
        .arg(path.join("examples/program"))
        .args(arguments)
        .env_clear()
        .env("HOME", "/nonexistent");
    command
}

fn output(arguments: &[&str]) -> Output {
    program(arguments).stdin(Stdio::null()).output().unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

/// Waits for the line `ready`.
fn await_ready(from: &mut impl Read) {
    let mut seen = Vec::new();
    let mut byte = [0];
    while !seen.ends_with(b"ready") {
        from.read_exact(&mut byte).unwrap();
        seen.push(byte[0]);
    }
}

fn send(child: &Child, signal: Signal) {
    let pid = Pid::from_raw(child.id().try_into().unwrap()).unwrap();
    kill_process(pid, signal).unwrap();
}

/// A program that has printed `ready`, on pipes.
fn started(way: &str) -> (Child, std::process::ChildStdout) {
    let mut child = program(&["probe", "local", way])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdout = child.stdout.take().unwrap();
    await_ready(&mut stdout);
    (child, stdout)
}

#[test]
fn usage_errors_have_status_2_and_leave_stdout_alone() {
    for line in [
        &["nonsense"][..],
        &["echo"],
        &["echo", "a b"],
        &["help", "--nonsense"],
    ] {
        let output = output(line);
        assert_eq!(output.status.code(), Some(2), "{line:?}");
        assert!(
            output.stdout.is_empty() && !output.stderr.is_empty(),
            "{line:?}"
        );
    }
}

#[test]
fn a_host_without_an_identity_is_a_failure_with_a_hint() {
    let output = output(&["echo", "web1", "a"]);
    assert_eq!(output.status.code(), Some(255));
    let expected = "legatus: no client certificate is configured, and there is none at \
                    /nonexistent/.config/legatus/client.crt\nhint: ";
    assert!(
        text(&output.stderr).starts_with(expected),
        "{}",
        text(&output.stderr)
    );
}

#[test]
fn machines_are_told_of_failures_too() {
    let output = output(&["echo", "web1", "a", "--json"]);
    assert_eq!(output.status.code(), Some(255));
    let line: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(line["outcome"]["kind"], "failed");
    assert!(line["outcome"]["hint"].is_string());
}

#[test]
fn what_the_module_prints_goes_to_stdout() {
    let output = output(&["echo", "local", "hello", "world"]);
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(text(&output.stdout), "hello world\n");
    assert_eq!(text(&output.stderr), "");
}

#[test]
fn with_json_every_line_is_an_object_and_the_last_the_outcome() {
    let output = output(&["--json", "echo", "local", "hello"]);
    let expected = "{\"stream\":\"stdout\",\"data\":\"hello\\n\"}\n\
                    {\"outcome\":{\"kind\":\"exit\",\"status\":0}}\n";
    assert_eq!(text(&output.stdout), expected);
}

#[test]
fn reports_go_to_stderr_and_records_to_json_only() {
    let plain = output(&["probe", "local", "report"]);
    assert_eq!(plain.status.code(), Some(7));
    assert_eq!(text(&plain.stdout), "ready\n");
    assert_eq!(text(&plain.stderr), "legatus: a\\u{1b}[2Jb\n");
    let json = output(&["probe", "local", "report", "--json"]);
    assert!(
        text(&json.stdout).contains("\n{\"a\":1}\n"),
        "{}",
        text(&json.stdout)
    );
}

#[test]
fn ten_megabytes_come_back_whole() {
    let input: Vec<u8> = (0..2_500_000_u32).flat_map(u32::to_le_bytes).collect();
    let mut child = program(&["echo", "local"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let sent = input.clone();
    let writer = thread::spawn(move || stdin.write_all(&sent).unwrap());
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert!(output.stdout == input);
}

#[test]
fn a_reader_that_goes_away_ends_the_program_silently_as_sigpipe_does() {
    for line in [
        &["echo", "local", "hello"][..],
        &["--json", "echo", "local", "hello"],
        &["probe", "local", "write"],
        &["--version"],
        &["--help"],
        &["help", "echo"],
        &["modules", "list"],
        &["completions", "bash"],
    ] {
        let (reader, writer) = io::pipe().unwrap();
        drop(reader);
        let output = program(line)
            .stdin(Stdio::null())
            .stdout(writer)
            .stderr(Stdio::piped())
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(141), "{line:?}");
        assert_eq!(text(&output.stderr), "", "{line:?}");
    }
}

#[test]
fn a_full_disk_is_told() {
    let full = File::options().write(true).open("/dev/full").unwrap();
    let output = program(&["echo", "local", "hello"])
        .stdin(Stdio::null())
        .stdout(full)
        .stderr(Stdio::piped())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(255));
    assert!(text(&output.stderr).contains("No space left on device"));
}

#[test]
fn modules_are_listed_here_and_there() {
    let here = output(&["modules", "list"]);
    let there = output(&["modules", "list", "local"]);
    assert_eq!(text(&here.stdout), text(&there.stdout));
    assert!(text(&here.stdout).contains("\nprobe  "));
    let unreachable = output(&["modules", "list", "web1"]);
    assert_eq!(unreachable.status.code(), Some(255));
}

#[test]
fn help_of_a_module_is_that_of_its_flag() {
    let by_command = output(&["help", "Echo"]);
    let by_flag = output(&["echo", "--help"]);
    assert_eq!(by_command.status.code(), Some(0));
    assert_eq!(text(&by_command.stdout), text(&by_flag.stdout));
    let unknown = output(&["help", "ecko"]);
    assert!(text(&unknown.stderr).contains("did you mean `echo`?"));
}

#[test]
fn completions_and_manual_pages_know_the_modules() {
    for shell in ["bash", "zsh", "fish"] {
        let script = output(&["completions", shell]);
        assert!(text(&script.stdout).contains("probe"), "{shell}");
    }
    let dir = tempfile::tempdir().unwrap();
    let written = output(&["man", "--dir", dir.path().to_str().unwrap()]);
    assert_eq!(written.status.code(), Some(0));
    let page = std::fs::read_to_string(dir.path().join("legatus-probe.1")).unwrap();
    assert!(page.contains("Treat terminal and signals"));
}

#[test]
fn a_module_that_takes_signals_gets_them() {
    for (signal, name) in [
        (Signal::INT, "Interrupt"),
        (Signal::QUIT, "Quit"),
        (Signal::TERM, "Terminate"),
        (Signal::HUP, "HangUp"),
    ] {
        let (mut child, mut stdout) = started("take");
        send(&child, signal);
        let mut rest = String::new();
        stdout.read_to_string(&mut rest).unwrap();
        assert_eq!(rest.trim(), name);
        assert_eq!(child.wait().unwrap().code(), Some(7));
    }
}

#[test]
fn a_signal_that_nobody_takes_ends_the_program_by_itself() {
    for signal in [Signal::INT, Signal::TERM, Signal::HUP] {
        let (mut child, _stdout) = started("wait");
        send(&child, signal);
        assert_eq!(child.wait().unwrap().signal(), Some(signal.as_raw()));
    }
}

#[test]
fn a_module_that_does_not_take_its_signals_cannot_hold_the_program() {
    let (mut child, _stdout) = started("ignore");
    // Signals that wait to be delivered merge, so this may take more than four.
    let status = loop {
        send(&child, Signal::TERM);
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        thread::yield_now();
    };
    assert_eq!(status.signal(), Some(Signal::TERM.as_raw()));
}

/// A program that has printed `ready` on a terminal, and the terminal's other side.
fn started_on_terminal(way: &str) -> (Child, File) {
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&master).unwrap();
    unlockpt(&master).unwrap();
    let slave = ioctl_tiocgptpeer(&master, OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    assert!(is_cooked(&master));
    let side = || Stdio::from(slave.try_clone().unwrap());
    let child = program(&["probe", "local", way])
        .stdin(side())
        .stdout(side())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut master = File::from(master);
    await_ready(&mut master);
    (child, master)
}

fn is_cooked(master: &impl std::os::fd::AsFd) -> bool {
    tcgetattr(master)
        .unwrap()
        .local_modes
        .contains(LocalModes::ICANON | LocalModes::ECHO)
}

#[test]
fn the_terminal_is_restored_however_the_program_ends() {
    for (way, signal) in [
        ("wait", Some(Signal::TERM)),
        ("wait", Some(Signal::HUP)),
        ("wait", Some(Signal::INT)),
        ("take", Some(Signal::INT)),
        ("panic", None),
        ("exit", None),
        ("report", None),
    ] {
        let (mut child, master) = started_on_terminal(way);
        if let Some(signal) = signal {
            assert!(!is_cooked(&master), "{way}");
            send(&child, signal);
        }
        child.wait().unwrap();
        assert!(is_cooked(&master), "{way} {signal:?}");
    }
}

#[test]
fn a_new_size_of_the_terminal_is_noticed() {
    let (mut child, mut master) = started_on_terminal("resized");
    let size = Winsize {
        ws_col: 132,
        ws_row: 43,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    tcsetwinsize(&master, size).unwrap();
    // The terminal is not the controlling one of the child, so nobody else tells it.
    send(&child, Signal::WINCH);
    let mut seen = Vec::new();
    let mut byte = [0];
    while !seen.ends_with(b"132x43") {
        master.read_exact(&mut byte).unwrap();
        seen.push(byte[0]);
    }
    assert_eq!(child.wait().unwrap().code(), Some(7));
    drop(OwnedFd::from(master));
}
