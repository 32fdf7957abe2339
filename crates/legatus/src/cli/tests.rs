//! What command lines mean, and what is said of those that mean nothing.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStringExt;

use legatus_core::{
    Alias, Argument, Arguments, BoxFuture, Caller, Example, Fault, Local, Module, Outcome, Sender,
    Spec, Target, ValueKind,
};

use super::*;

struct Described {
    spec: Spec,
    has_sender: bool,
}

impl Module for Described {
    fn spec(&self) -> &Spec {
        &self.spec
    }

    fn sender(&self) -> Option<&dyn Sender> {
        self.has_sender.then_some(self)
    }
}

impl Sender for Described {
    fn send<'a>(
        &'a self,
        _: Arguments,
        _: &'a dyn Caller,
        _: &'a dyn Local,
    ) -> BoxFuture<'a, Result<Outcome, Fault>> {
        Box::pin(async { Ok(Outcome::SUCCESS) })
    }
}

fn spec(name: &'static str) -> Spec {
    Spec {
        name: name.into(),
        version: "1.0".into(),
        ..Spec::default()
    }
}

/// Like a remote shell: a host first, options, and everything after `--`.
fn run_spec() -> Spec {
    Spec {
        summary: "Run a command".into(),
        description: "Runs it exactly as given.".into(),
        arguments: vec![
            Argument::option("line", "LINE", "A line for the shell")
                .short('c')
                .conflicts(&["command"]),
            Argument::option("env", "K=V", "A variable").repeated(),
            Argument::option("mode", "MODE", "A file mode").value(ValueKind::Mode),
            Argument::option("timeout", "TIME", "At most so long").value(ValueKind::Duration),
            Argument::flag("tty", "Force a terminal").short('t'),
            Argument::trailing("command", "CMD", "The command and its arguments"),
        ],
        examples: vec![Example::new(
            "legatus run web1 -- id",
            "Prints who you are there",
        )],
        ..spec("run")
    }
}

/// Like a copy: locations instead of a host.
fn copy_spec() -> Spec {
    Spec {
        aliases: vec![Alias::name("dup")],
        target: Target::InLocations,
        arguments: vec![
            Argument::positional("source", "SRC", "What to copy")
                .value(ValueKind::Location)
                .required()
                .repeated(),
            Argument::positional("target", "DST", "Where to")
                .value(ValueKind::Location)
                .required(),
        ],
        ..spec("copy")
    }
}

/// Like a module with actions and a name for each.
fn machine_spec() -> Spec {
    Spec {
        aliases: vec![
            Alias::with_arguments("reboot", "Start the machine again", &["reboot"]),
            Alias::with_arguments("note", "Leave a note", &["note", "first"]),
        ],
        arguments: vec![
            Argument::positional("action", "ACTION", "What to do").required(),
            Argument::positional("word", "WORD", "More about it").repeated(),
            Argument::flag("now", "At once").conflicts(&["action"]),
        ],
        ..spec("machine")
    }
}

fn registry() -> Registry {
    let mut registry = legatus_modules::builtin().unwrap();
    for spec in [run_spec(), copy_spec(), machine_spec()] {
        registry
            .add(Described {
                spec,
                has_sender: true,
            })
            .unwrap();
    }
    let spec = spec("mute");
    registry
        .add(Described {
            spec,
            has_sender: false,
        })
        .unwrap();
    registry
}

fn words(line: &[&str]) -> Vec<OsString> {
    ["legatus"].iter().chain(line).map(OsString::from).collect()
}

fn parsed(line: &[&str]) -> Result<CommandLine, clap::Error> {
    parse(&registry(), words(line))
}

fn invocation(line: &[&str]) -> Invocation {
    match parsed(line).unwrap().task {
        Task::Call(invocation) => invocation,
        Task::Fixed(fixed) => panic!("{fixed:?}"),
    }
}

fn values<'a>(invocation: &'a Invocation, name: &str) -> Vec<&'a str> {
    let values = invocation.arguments.all(name).iter();
    values.map(|value| value.to_str().unwrap()).collect()
}

fn refusal(line: &[&str]) -> String {
    let error = parsed(line).unwrap_err();
    assert_eq!(error.exit_code(), 2, "{error}");
    error.to_string()
}

#[test]
fn the_tree_is_sound_with_built_in_and_other_modules() {
    command(&registry()).debug_assert();
}

#[test]
fn no_built_in_module_has_a_reserved_name() {
    let registry = legatus_modules::builtin().unwrap();
    let root = fixed();
    for module in registry.modules() {
        assert_eq!(check::check(&root, module.spec()), Ok(()));
    }
}

#[test]
fn usage_errors_say_what_is_wrong() {
    for (line, expected) in [
        (&["shel"][..], "unrecognized subcommand 'shel'"),
        (&["rnu", "a"], "a similar subcommand exists: 'run'"),
        (&["run"], "<HOST>"),
        (&["run", "a b"], "`a b` is no host"),
        (&["shell", "ann@web1"], "the server says as which user"),
        (&["shell", "web1", "id"], "legatus shell HOST -- COMMAND"),
        (&["shell", "-p", "22", "web1"], "HOST:PORT"),
        (&["cp", "-p", "a", "web1:b"], "-a keeps owner and group"),
        (
            &["transfer-file", "-p", "a", "web1:b"],
            "-a keeps owner and group",
        ),
        (&["run", "web1", "id"], "unexpected argument 'id'"),
        (&["run", "web1", "--mode", "0999"], "an octal file mode"),
        (&["run", "web1", "--timeout", "soon"], "a length of time"),
        (
            &["run", "web1", "-c", "x", "--", "y"],
            "cannot be used with",
        ),
        (
            &["run", "web1", "--nonsense"],
            "unexpected argument '--nonsense'",
        ),
        (&["copy", "a", "b"], "no host is named"),
        (&["copy", "a:x", "b:y"], "`a` and `b` are two hosts"),
        (&["copy", "a:1:x", "a:2:y"], "`a:1` and `a:2` are two hosts"),
        (&["copy", "a b:x", "y"], "`a b:x` is no host"),
        (&["copy", "a:x"], "<DST>"),
        (&["machine", "web1"], "<ACTION>"),
        (&["mute", "web1"], "no client half here"),
        (&["--connect-timeout", "x", "echo", "a"], "a length of time"),
    ] {
        let refused = refusal(line);
        assert!(refused.contains(expected), "{line:?}: {refused}");
    }
}

#[test]
fn everything_behind_two_dashes_is_verbatim() {
    let invocation = invocation(&[
        "run",
        "web1:2222",
        "-t",
        "--env",
        "A=1",
        "--env",
        "-x",
        "--",
        "ls",
        "--json",
        "--",
        "-c",
        "",
    ]);
    assert_eq!(invocation.host.to_string(), "web1:2222");
    assert_eq!(
        values(&invocation, "command"),
        ["ls", "--json", "--", "-c", ""]
    );
    assert_eq!(values(&invocation, "env"), ["A=1", "-x"]);
    assert!(invocation.arguments.is_given("tty"));
    assert!(!invocation.arguments.is_given("line"));
}

#[test]
fn nothing_behind_two_dashes_is_no_argument() {
    assert!(
        !invocation(&["run", "web1", "--"])
            .arguments
            .is_given("command")
    );
    assert_eq!(
        values(&invocation(&["run", "web1", "-c", "-l"]), "line"),
        ["-l"]
    );
}

#[test]
fn values_that_are_not_utf8_pass_unchanged() {
    let odd = OsString::from_vec(b"\xff\xfe\n".to_vec());
    let mut line = words(&["run", "web1", "--"]);
    line.push(odd.clone());
    let Task::Call(invocation) = parse(&registry(), line).unwrap().task else {
        panic!();
    };
    assert_eq!(invocation.arguments.last("command"), Some(odd.as_os_str()));

    let mut line = words(&["copy"]);
    line.push(odd.clone());
    line.push("web1:/tmp".into());
    let Task::Call(invocation) = parse(&registry(), line).unwrap().task else {
        panic!();
    };
    assert_eq!(invocation.arguments.last("source"), Some(odd.as_os_str()));
}

#[test]
fn the_host_is_found_in_locations_on_either_side() {
    for (line, host) in [
        (&["copy", "a", "b", "web1:/x"][..], "web1"),
        (&["copy", "web1:/a", "web1:/b", "here"], "web1"),
        (&["dup", "[::1]:7:/a", "./b:c"], "[::1]:7"),
        (&["dup", "--", "-x", "web1:y"], "web1"),
    ] {
        assert_eq!(invocation(line).host.to_string(), host, "{line:?}");
    }
    let invocation = invocation(&["copy", "a", "b", "web1:/x"]);
    assert_eq!(values(&invocation, "source"), ["a", "b"]);
    assert_eq!(values(&invocation, "target"), ["web1:/x"]);
}

#[test]
fn aliases_stand_for_arguments() {
    let reboot = invocation(&["reboot", "web1", "--now"]);
    assert_eq!(reboot.module.spec().name, "machine");
    assert_eq!(values(&reboot, "action"), ["reboot"]);
    assert!(reboot.arguments.is_given("now"));
    let note = invocation(&["note", "web1", "second"]);
    assert_eq!(values(&note, "action"), ["note"]);
    assert_eq!(values(&note, "word"), ["first", "second"]);
}

#[test]
fn names_of_modules_count_in_any_case() {
    for name in ["run", "Run", "RUN"] {
        assert_eq!(invocation(&[name, "web1"]).module.spec().name, "run");
    }
    assert_eq!(
        values(&invocation(&["Reboot", "web1"]), "action"),
        ["reboot"]
    );
}

#[test]
fn global_flags_stand_before_or_behind_the_subcommand() {
    for line in [
        &[
            "--json",
            "--ca",
            "c",
            "--cert",
            "a",
            "--log-level",
            "debug",
            "run",
            "web1",
        ][..],
        &[
            "run",
            "--json",
            "web1",
            "--ca",
            "c",
            "--cert",
            "a",
            "--log-level",
            "debug",
        ],
        &[
            "--json",
            "--ca",
            "c",
            "run",
            "--cert",
            "a",
            "web1",
            "--log-level",
            "debug",
        ],
    ] {
        let globals = parsed(line).unwrap().globals;
        assert!(globals.json && !globals.system_roots, "{line:?}");
        assert_eq!(globals.ca.as_deref(), Some("c".as_ref()), "{line:?}");
        assert_eq!(
            globals.cert,
            ["a"].map(std::path::PathBuf::from),
            "{line:?}"
        );
        assert_eq!(globals.log_level.as_deref(), Some("debug"), "{line:?}");
    }
    let globals = parsed(&["echo", "local", "--connect-timeout", "500ms"])
        .unwrap()
        .globals;
    assert_eq!(
        globals.connect_timeout,
        Some(std::time::Duration::from_millis(500))
    );
}

#[test]
fn a_server_may_have_several_certificates() {
    let line = [
        "serve", "--cert", "a", "--key", "b", "--cert", "c", "--key", "d",
    ];
    let globals = parsed(&line).unwrap().globals;
    assert_eq!(globals.cert, ["a", "c"].map(std::path::PathBuf::from));
    assert_eq!(globals.key, ["b", "d"].map(std::path::PathBuf::from));
}

#[test]
fn a_module_whose_spec_cannot_be_a_subcommand_is_left_out() {
    let with = |arguments| Spec {
        arguments,
        ..spec("bad")
    };
    let name = |text: &'static str| with(vec![Argument::flag(text, "")]);
    let place = Argument::positional;
    for (bad, expected) in [
        (spec("serve"), UnusableSpec::Reserved("serve".into())),
        (spec("sessions"), UnusableSpec::Reserved("sessions".into())),
        (name("json"), UnusableSpec::Name("json".into())),
        (name("help"), UnusableSpec::Name("help".into())),
        (name("-x"), UnusableSpec::Name("-x".into())),
        (name("a=b"), UnusableSpec::Name("a=b".into())),
        (name(""), UnusableSpec::Name(String::new())),
        (
            with(vec![Argument::flag("one", "").short('h')]),
            UnusableSpec::Name("one".into()),
        ),
        (
            with(vec![Argument::flag("one", ""), Argument::flag("one", "")]),
            UnusableSpec::Name("one".into()),
        ),
        (
            with(vec![place("a", "", "").repeated(), place("b", "", "")]),
            UnusableSpec::Ambiguous("a".into()),
        ),
        (
            with(vec![place("a", "", ""), place("b", "", "").required()]),
            UnusableSpec::Ambiguous("a".into()),
        ),
        (
            with(vec![
                Argument::trailing("a", "", ""),
                Argument::trailing("b", "", ""),
            ]),
            UnusableSpec::Ambiguous("b".into()),
        ),
        (
            with(vec![Argument::flag("a", "").conflicts(&["b"])]),
            UnusableSpec::Conflict("a".into(), "b".into()),
        ),
    ] {
        let root = fixed();
        assert_eq!(check::check(&root, &bad), Err(expected));
        let mut registry = Registry::new();
        let name = bad.name.to_string();
        registry
            .add(Described {
                spec: bad,
                has_sender: true,
            })
            .unwrap();
        let tree = command(&registry);
        assert_eq!(
            tree.get_subcommands().count(),
            root.get_subcommands().count()
        );
        let Err(error) = parse(&registry, words(&[&name, "web1"])) else {
            // The program's own subcommand of that name is not replaced.
            assert!(root.find_subcommand(&name).is_some(), "{name}");
            continue;
        };
        let is_fixed = error.kind() == ErrorKind::UnknownArgument;
        assert!(
            is_fixed || error.to_string().contains("cannot be called"),
            "{error}"
        );
    }
}

#[test]
fn a_modules_help_shows_its_spec() {
    let error = parsed(&["run", "--help"]).unwrap_err();
    assert_eq!(error.exit_code(), 0);
    let help = error.to_string();
    let (own, global) = help.split_once("Global options:").unwrap();
    let expected = "\
Run a command

Runs it exactly as given.

Usage: legatus run [OPTIONS] <HOST> [-- <CMD>...]

Arguments:
  <HOST>
          The host to call: NAME, NAME:PORT, [IPV6]:PORT, or `local`

  [CMD]...
          The command and its arguments

Options:
  -c, --line <LINE>
          A line for the shell

      --env <K=V>
          A variable

      --mode <MODE>
          A file mode

      --timeout <TIME>
          At most so long

  -t, --tty
          Force a terminal

  -h, --help
          Print help (see a summary with '-h')

";
    assert_eq!(own, expected);
    assert!(global.contains("--connect-timeout <TIME>"));
    assert!(
        global.ends_with("Examples:\n  legatus run web1 -- id\n      Prints who you are there\n")
    );
}

#[test]
fn the_programs_help_shows_modules_first_and_no_hidden_commands() {
    let help = parsed(&["--help"]).unwrap_err().to_string();
    let place = |text: &str| {
        help.find(text)
            .unwrap_or_else(|| panic!("no {text:?} in {help}"))
    };
    assert!(place("\n  echo ") < place("\n  run ") && place("\n  run ") < place("\n  serve "));
    assert!(place("[alias: dup]") > 0 && place("LEGATUS_CERT") > 0);
    for hidden in ["\n  man", "\n  holder", "\n  mute"] {
        assert!(!help.contains(hidden), "{help}");
    }
}

#[test]
fn flags_of_nobody_take_no_value_from_a_module() {
    let invocation = invocation(&["echo", "local", "a", "--json", "b"]);
    assert_eq!(values(&invocation, "text"), ["a", "b"]);
    assert_eq!(invocation.arguments.last("json"), None::<&OsStr>);
}
