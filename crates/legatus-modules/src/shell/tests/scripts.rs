//! Scripts: carried over, run, nothing left behind.

use std::path::PathBuf;

use tempfile::TempDir;

use super::*;

fn script(content: &[u8]) -> (TempDir, PathBuf, Arguments) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a script");
    std::fs::write(&path, content).unwrap();
    let arguments = Arguments::new().with("script", path.as_os_str());
    (directory, path, arguments)
}

#[tokio::test]
async fn a_script_that_cannot_be_read_is_told() {
    let local = MemoryLocal::new();
    let outcome = run(Arguments::new().with("script", "/no/such"), &local).await;
    let expected = "cannot read the script `/no/such`: No such file or directory ()";
    assert_eq!(fault(&outcome), expected);
    let outcome = run(Arguments::new().with("script", "/"), &local).await;
    assert!(fault(&outcome).starts_with("cannot read the script `/`:"));
}

#[tokio::test]
async fn a_script_without_interpreter_is_told_what_to_do() {
    for content in ["", "echo hello\n", "#!", "#!  \n", "# !/bin/sh\n"] {
        let (_directory, path, arguments) = script(content.as_bytes());
        let local = MemoryLocal::new();
        let outcome = run(arguments, &local).await;
        let expected = format!(
            "cannot run the script \"{}\": it names no interpreter (add a #! line, or use --interpreter)",
            path.display()
        );
        assert_eq!(fault(&outcome), expected, "{content:?}");
        assert!(local.stdout().is_empty());
    }
}

#[tokio::test]
async fn an_interpreter_that_does_not_exist_is_named() {
    let (_directory, _, arguments) = script(b"#!/no/such/interpreter -x\n");
    let outcome = run(arguments, &MemoryLocal::new()).await;
    let text = fault(&outcome);
    assert!(
        text.contains("with \"/no/such/interpreter\": No such file or directory"),
        "{text}"
    );
    let (_directory, _, arguments) = script(b"echo\n");
    let arguments = arguments.with("interpreter", "no-such-interpreter");
    let outcome = run(arguments, &MemoryLocal::new()).await;
    let text = fault(&outcome);
    assert!(
        text.contains("with \"no-such-interpreter\": No such file or directory"),
        "{text}"
    );
}

#[tokio::test]
async fn an_interpreter_without_a_script_is_refused() {
    let arguments = command(&["true"]).with("interpreter", "sh");
    let outcome = run(arguments, &MemoryLocal::new()).await;
    assert!(fault(&outcome).contains("--interpreter runs a script"));
}

#[tokio::test]
async fn a_script_gets_its_arguments_and_stdin_and_gives_its_exit_status() {
    let (_directory, _, mut arguments) =
        script(b"#!/bin/sh -e\nprintf '[%s]' \"$@\"\ncat\necho err >&2\nexit 9\n");
    arguments.extend("argument", ["a b", "", "--x"]);
    let local = MemoryLocal::new().with_stdin(b"from stdin", 3);
    assert_eq!(run(arguments, &local).await, Outcome::Exit(9));
    assert_eq!(stdout(&local), "[a b][][--x]from stdin");
    assert_eq!(stderr(&local), "err\n");
}

#[tokio::test]
async fn the_interpreter_that_is_asked_for_runs_the_script() {
    let (_directory, _, arguments) = script(b"#!/no/such\nprint \"perl @ARGV\\n\";\n");
    let mut arguments = arguments.with("interpreter", "perl");
    arguments.extend("argument", ["1", "2"]);
    let local = MemoryLocal::new();
    // perl heeds the first line of a script unless it names perl.
    let outcome = run(arguments, &local).await;
    assert_ne!(outcome, Outcome::SUCCESS);

    let (_directory, _, arguments) = script(b"echo \"sh $1\"\n");
    let mut arguments = arguments.with("interpreter", "sh");
    arguments.extend("argument", ["1"]);
    let local = MemoryLocal::new();
    assert_eq!(run(arguments, &local).await, Outcome::SUCCESS);
    assert_eq!(stdout(&local), "sh 1\n");
}

#[tokio::test]
async fn a_program_can_be_a_script_too() {
    let (_directory, _, mut arguments) = script(&std::fs::read("/bin/echo").unwrap());
    arguments.extend("argument", ["hello"]);
    let local = MemoryLocal::new();
    assert_eq!(run(arguments, &local).await, Outcome::SUCCESS);
    assert_eq!(stdout(&local), "hello\n");
}

#[tokio::test]
async fn a_long_script_arrives_whole() {
    let mut content = b"#!/bin/sh\n".to_vec();
    for number in 0..60_000 {
        content.extend_from_slice(format!(": {number}\n").as_bytes());
    }
    content.extend_from_slice(b"echo end\n");
    let (_directory, _, arguments) = script(&content);
    let local = MemoryLocal::new();
    assert_eq!(run(arguments, &local).await, Outcome::SUCCESS);
    assert_eq!(stdout(&local), "end\n");
}

#[tokio::test]
async fn a_script_is_in_no_file_and_cannot_be_changed() {
    let content = b"#!/bin/sh\nreadlink \"$0\"\n(echo x >> \"$0\") 2>/dev/null || echo fixed\n";
    let (_directory, _, arguments) = script(content);
    let local = MemoryLocal::new();
    assert_eq!(run(arguments, &local).await, Outcome::SUCCESS);
    assert!(stdout(&local).starts_with("/memfd:"), "{}", stdout(&local));
}
