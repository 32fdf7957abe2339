//! Exact argv and lines: streams, exit status, signals.

use super::*;

#[tokio::test]
async fn a_command_that_does_not_exist_is_told_as_by_a_shell() {
    let (outcome, local) = argv(&["/no/such/program"]).await;
    assert_eq!(outcome, Outcome::Exit(127));
    let expected = "legatus: cannot run `/no/such/program`: No such file or directory\n";
    assert_eq!(stderr(&local), expected);
    assert_eq!(
        argv(&["no-such-program-in-path"]).await.0,
        Outcome::Exit(127)
    );
}

#[tokio::test]
async fn a_line_that_was_meant_for_a_shell_is_told_how_to_reach_one() {
    let (outcome, local) = argv(&["ls -l /"]).await;
    assert_eq!(outcome, Outcome::Exit(127));
    assert!(
        stderr(&local).contains("hint: `-c LINE`"),
        "{}",
        stderr(&local)
    );
}

#[tokio::test]
async fn a_file_that_cannot_be_executed_is_told_as_by_a_shell() {
    let (outcome, local) = argv(&["/etc/passwd"]).await;
    assert_eq!(outcome, Outcome::Exit(126));
    let expected = "legatus: cannot run `/etc/passwd`: Permission denied\n";
    assert_eq!(stderr(&local), expected);
    assert_eq!(argv(&["/"]).await.0, Outcome::Exit(126));
}

#[tokio::test]
async fn an_empty_program_name_is_not_found() {
    assert_eq!(argv(&[""]).await.0, Outcome::Exit(127));
}

#[tokio::test]
async fn every_exit_status_comes_back() {
    for status in [0, 1, 7, 126, 128, 255] {
        let (outcome, _) = argv(&["sh", "-c", &format!("exit {status}")]).await;
        assert_eq!(outcome, Outcome::Exit(status));
    }
}

#[tokio::test]
async fn a_command_that_a_signal_ended_tells_the_signal() {
    assert_eq!(
        argv(&["sh", "-c", "kill -9 $$"]).await.0,
        Outcome::Signal(9)
    );
    assert_eq!(
        argv(&["sh", "-c", "kill -TERM $$"]).await.0,
        Outcome::Signal(15)
    );
}

#[tokio::test]
async fn stdout_stderr_and_exit_status_are_separate() {
    let (outcome, local) = argv(&["sh", "-c", "echo out; echo err >&2; exit 7"]).await;
    assert_eq!(outcome, Outcome::Exit(7));
    assert_eq!(
        (stdout(&local), stderr(&local)),
        ("out\n".into(), "err\n".into())
    );
}

#[tokio::test]
async fn arguments_arrive_exactly_as_they_stand() {
    use std::os::unix::ffi::OsStringExt;
    let odd = [
        b"a b".to_vec(),
        b"".to_vec(),
        b"$HOME".to_vec(),
        b"-n".to_vec(),
        b"x\ny".to_vec(),
        b"\xff\xfe".to_vec(),
        b"'\"\\;*".to_vec(),
    ];
    let mut arguments = command(&["printf", "[%s]"]);
    arguments.extend("argument", odd.iter().cloned().map(OsString::from_vec));
    let local = MemoryLocal::new();
    assert_eq!(run(arguments, &local).await, Outcome::SUCCESS);
    let expected: Vec<u8> = odd
        .iter()
        .flat_map(|word| [b"[", word.as_slice(), b"]"].concat())
        .collect();
    assert_eq!(local.stdout(), expected);
}

#[tokio::test]
async fn large_output_arrives_whole_and_in_order() {
    let (outcome, local) = argv(&["seq", "1", "1000000"]).await;
    assert_eq!(outcome, Outcome::SUCCESS);
    let expected: String = (1..=1_000_000)
        .map(|number| format!("{number}\n"))
        .collect();
    assert!(local.stdout() == expected.as_bytes());
}

#[tokio::test]
async fn both_streams_arrive_whole_when_both_are_large() {
    let script = "seq 1 200000 & seq 1 200000 >&2; wait";
    let (outcome, local) = argv(&["sh", "-c", script]).await;
    assert_eq!(outcome, Outcome::SUCCESS);
    let expected: String = (1..=200_000).map(|number| format!("{number}\n")).collect();
    assert!(local.stdout() == expected.as_bytes());
    assert!(local.stderr() == expected.as_bytes());
}

#[tokio::test]
async fn every_byte_passes_in_both_directions() {
    let bytes: Vec<u8> = (0..200_000_u32).flat_map(u32::to_le_bytes).collect();
    let (outcome, local) = with_stdin(&["cat"], &bytes).await;
    assert_eq!(outcome, Outcome::SUCCESS);
    assert!(local.stdout() == bytes);
}

#[tokio::test]
async fn the_end_of_stdin_reaches_the_command() {
    let (outcome, local) = argv(&["wc", "-c"]).await;
    assert_eq!((outcome, stdout(&local).trim()), (Outcome::SUCCESS, "0"));
}

#[tokio::test]
async fn a_command_need_not_read_its_stdin() {
    let input = vec![b'x'; 3_000_000];
    assert_eq!(with_stdin(&["true"], &input).await.0, Outcome::SUCCESS);
    let (outcome, local) = with_stdin(&["sh", "-c", "exec <&-; echo closed"], &input).await;
    assert_eq!(
        (outcome, stdout(&local).as_str()),
        (Outcome::SUCCESS, "closed\n")
    );
}

#[tokio::test]
async fn the_call_ends_with_the_last_writer_of_its_output() {
    let script = "(while kill -0 $$ 2>&-; do :; done; echo late) & exit 3";
    let (outcome, local) = argv(&["sh", "-c", script]).await;
    assert_eq!(
        (outcome, stdout(&local).as_str()),
        (Outcome::Exit(3), "late\n")
    );
}

#[tokio::test]
async fn a_line_runs_in_the_shell_of_the_user() {
    let local = MemoryLocal::new();
    let line = "printf '%s\\n' 'a b' | wc -l; echo $0; exit 4";
    let outcome = run(Arguments::new().with("command", line), &local).await;
    assert_eq!(outcome, Outcome::Exit(4));
    let shell = super::super::account::Account::current()
        .unwrap()
        .shell_name(false);
    assert_eq!(stdout(&local), format!("1\n{}\n", shell.display()));
}

#[tokio::test]
async fn without_a_terminal_the_login_shell_reads_stdin() {
    let local = MemoryLocal::new().with_stdin(b"echo $0; exit 5\n", 3);
    let outcome = run(Arguments::new(), &local).await;
    assert_eq!(outcome, Outcome::Exit(5));
    let shell = super::super::account::Account::current()
        .unwrap()
        .shell_name(true);
    assert_eq!(stdout(&local), format!("{}\n", shell.display()));
}

#[tokio::test]
async fn a_login_shell_that_does_not_exist_is_told() {
    use crate::shell::account::Account;
    use crate::shell::messages::{Login, request::Mode};
    use crate::shell::program::{NotRun, Program};
    use crate::shell::spawn::{Surroundings, spawn};
    let account = Account {
        name: "ann".into(),
        home: "/".into(),
        shell: "/no/such/shell".into(),
    };
    let program = Program::new(Some(Mode::Login(Login {})), None, &account).unwrap();
    let surroundings = Surroundings {
        directory: "/".into(),
        environment: Vec::new(),
        terminal: None,
    };
    let error = spawn(&program, &surroundings).unwrap_err();
    let NotRun::Failed(fault) = program.not_run(&error) else {
        panic!("not failed");
    };
    let expected = "cannot run \"/no/such/shell\", the login shell of \"ann\": \
        No such file or directory";
    assert_eq!(fault.message(), expected);
    assert!(fault.hint().unwrap().contains("passwd"));
}

#[tokio::test]
#[expect(unsafe_code, reason = "no safe crate sets a disposition")]
async fn a_command_does_not_ignore_what_the_server_ignores() {
    // SAFETY: it runs no code; nothing else in these tests uses this signal.
    unsafe { libc::signal(libc::SIGUSR2, libc::SIG_IGN) };
    let (outcome, _) = argv(&["sh", "-c", "kill -USR2 $$; sleep 1000"]).await;
    assert_eq!(outcome, Outcome::Signal(12));
}
