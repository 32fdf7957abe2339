//! What is asked for: refused, or told in one line.

use bytes::Bytes;
use legatus_core::{Module, Request as CoreRequest};
use proptest::prelude::*;
use prost::Message;

use super::*;
use crate::shell::messages::{Command, Login, Request, Script, Terminal, Variable, request::Mode};

fn inspect(request: &Request) -> Result<String, String> {
    let request = CoreRequest::from_body(request.encode_to_vec());
    let module = module();
    let inspection = module.commander().unwrap().inspect(&request);
    inspection
        .map(|inspection| inspection.summary)
        .map_err(|fault| fault.message().to_owned())
}

fn request(mode: Mode) -> Request {
    Request {
        mode: Some(mode),
        ..Request::default()
    }
}

fn argv_of(words: &[&'static [u8]]) -> Request {
    request(Mode::Command(Command {
        arguments: words.iter().map(|word| Bytes::from_static(word)).collect(),
    }))
}

#[test]
fn requests_that_make_no_sense_are_refused() {
    let nul = Bytes::from_static(b"a\0b");
    let variable = |name: &'static [u8], value: &'static [u8]| Request {
        environment: vec![Variable {
            name: name.into(),
            value: value.into(),
        }],
        ..argv_of(&[b"true"])
    };
    for bad in [
        Request::default(),
        argv_of(&[]),
        argv_of(&[b"a", b"b\0"]),
        request(Mode::Line(nul.clone())),
        request(Mode::Script(Script {
            interpreter: nul.clone(),
            ..Script::default()
        })),
        variable(b"", b"x"),
        variable(b"a=b", b"x"),
        variable(b"a", b"\0"),
        Request {
            directory: nul.clone(),
            ..argv_of(&[b"true"])
        },
        Request {
            terminal: Some(Terminal {
                kind: nul.clone(),
                ..Terminal::default()
            }),
            ..argv_of(&[b"true"])
        },
    ] {
        assert!(inspect(&bad).is_err(), "{bad:?}");
    }
}

#[test]
fn the_summary_tells_what_runs_but_no_values() {
    let full = Request {
        environment: vec![Variable {
            name: "TOKEN".into(),
            value: "secret".into(),
        }],
        directory: "/srv".into(),
        terminal: Some(Terminal::default()),
        ..argv_of(&[b"uname", b"-a"])
    };
    let expected = r#"argv ["uname","-a"] cwd "/srv" env ["TOKEN"] tty"#;
    assert_eq!(inspect(&full).unwrap(), expected);
    let login = request(Mode::Login(Login {}));
    assert_eq!(inspect(&login).unwrap(), "login shell");
    let script = request(Mode::Script(Script {
        name: "a.py".into(),
        interpreter: "python3".into(),
        arguments: vec!["x".into()],
    }));
    let expected = r#"script "a.py" interpreter "python3" argv ["x"]"#;
    assert_eq!(inspect(&script).unwrap(), expected);
}

#[test]
fn the_summary_cannot_deceive_and_is_short() {
    let deceiving = argv_of(&[b"a\n\x1b[2J\"", b"\xff", "\u{202e}".as_bytes()]);
    assert_eq!(
        inspect(&deceiving).unwrap(),
        r#"argv ["a\n\u{1b}[2J\"","\xff","\u{202e}"]"#
    );
    let long = request(Mode::Line(vec![b'x'; 100_000].into()));
    assert_eq!(inspect(&long).unwrap().chars().count(), 257);
}

proptest! {
    #[test]
    fn no_bytes_make_the_commander_panic(body: Vec<u8>) {
        let _ = module().commander().unwrap().inspect(&CoreRequest::from_body(body));
    }
}

#[tokio::test]
async fn arguments_that_exclude_each_other_are_refused() {
    for arguments in [
        command(&["true"]).with("command", "true"),
        Arguments::new()
            .with("command", "true")
            .with("script", "/etc/passwd"),
        command(&["true"]).with("timeout", "soon"),
    ] {
        let local = MemoryLocal::new();
        assert!(matches!(run(arguments, &local).await, Outcome::Failed(_)));
    }
}

#[test]
fn the_timeout_is_the_deadline_of_the_call() {
    let arguments = command(&["true"]).with("timeout", "2m");
    let asked = crate::shell::arguments::request(&arguments, &MemoryLocal::new()).unwrap();
    assert_eq!(
        asked.request.timeout,
        Some(std::time::Duration::from_secs(120))
    );
}

#[test]
fn a_timeout_of_nothing_is_none() {
    let arguments = command(&["true"]).with("timeout", "0");
    let asked = crate::shell::arguments::request(&arguments, &MemoryLocal::new()).unwrap();
    assert_eq!(asked.request.timeout, None);
}
