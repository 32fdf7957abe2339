//! What command lines mean, those captured from other programs among them.

use std::ffi::OsString;

use legatus_core::Registry;
use proptest::prelude::*;

use super::options::{Session, Tty};
use super::*;
use crate::network::Network;

fn words_of(text: &[&str]) -> Vec<OsString> {
    text.iter().map(OsString::from).collect()
}

fn asked(text: &[&str]) -> Result<Asked, Fault> {
    of_words(&words_of(text))
}

fn of_words(words: &[OsString]) -> Result<Asked, Fault> {
    let words = grammar::parse(words)?;
    in_context(|context| Asked::from_words(words, context))
}

fn in_context<T>(run: impl FnOnce(&Context<'_>) -> T) -> T {
    let registry = Registry::new();
    run(&Context {
        globals: &Globals::default(),
        environment: &Environment::fixed([]),
        registry: &registry,
        connector: &Network::new(&registry),
    })
}

#[test]
fn what_is_not_understood_is_named() {
    let cases: [(&[&str], &str); 25] = [
        (&[], "no host"),
        (&["-p", "22"], "no host"),
        (&["-z", "web1"], "-z"),
        (&["-vz", "web1"], "-z"),
        (&["web1", "-z", "true"], "-z"),
        (&["--frobnicate", "web1"], "--frobnicate"),
        (&["-p"], "-p"),
        (&["web1", "-o"], "-o"),
        (&["--", "-x"], "`-x`"),
        (&["--", "ann@-x"], "`ann@-x`"),
        (&["-l", "ann", "--", "-oProxyCommand=x"], "-oProxyCommand=x"),
        (&["@web1"], "`@web1`"),
        (&["we b1"], "`we b1`"),
        (&["-p", "0", "web1"], "`0`"),
        (&["-p", "65536", "web1"], "`65536`"),
        (&["-oPort=x", "web1"], "`x`"),
        (&["-oFavouriteColour=red", "web1"], "favouritecolour"),
        (&["-oProxyCommand=nc web1 22", "web1"], "ProxyCommand"),
        (&["-oTunnel=yes", "web1"], "Tunnel"),
        (&["-o", "Port", "web1"], "port"),
        (&["-s", "web1"], "subsystem"),
        (&["-f", "web1"], "-f"),
        (&["-oRemoteCommand=ls", "web1", "id"], "RemoteCommand"),
        (&["-oSetEnv=A", "web1"], "`A`"),
        (&["-J", "-x", "web1"], "-x"),
    ];
    for (words, named) in cases {
        let fault = asked(words).expect_err(&format!("{words:?}"));
        assert!(fault.message().contains(named), "{words:?}: {fault}");
    }
    for letter in ["-Q", "-w", "-O"] {
        assert!(asked(&[letter, "x", "web1"]).is_err(), "{letter}");
    }
}

#[test]
fn help_is_no_error_and_needs_no_host() {
    for words in [&["--help"][..], &["-v", "--help"], &["web1", "--help"]] {
        assert!(asked(words).unwrap().help, "{words:?}");
        let status = in_context(|context| main(&words_of(words), context));
        assert_eq!(format!("{status:?}"), format!("{:?}", ExitCode::SUCCESS));
    }
    let of_command = asked(&["web1", "ls", "--help"]).unwrap();
    assert!(!of_command.help);
    assert_eq!(of_command.command.unwrap(), "ls --help");
}

#[test]
fn an_option_that_ssh_does_not_have_leads_to_those_that_it_has() {
    for words in [&["-h"], &["--frobnicate"]] {
        let fault = asked(words).unwrap_err();
        assert!(fault.hint().unwrap().contains("--help"), "{words:?}");
    }
}

#[test]
fn a_word_with_a_nul_byte_is_refused() {
    use std::os::unix::ffi::OsStringExt;
    for place in 0..3 {
        let mut words = words_of(&["-v", "web1", "true"]);
        words[place] = OsString::from_vec(b"a\0b".to_vec());
        let fault = of_words(&words).unwrap_err();
        assert!(fault.message().contains("NUL"), "{fault}");
    }
}

#[test]
fn options_stand_before_and_behind_the_host_and_the_command_keeps_its_own() {
    let asked = asked(&["-v", "web1", "-p", "7", "-T", "ls", "-l", "--", "-p9"]).unwrap();
    assert_eq!(asked.host_name, "web1");
    assert_eq!(
        (asked.port, asked.tty, asked.verbosity),
        (Some(7), Tty::Never, 1)
    );
    assert_eq!(asked.command.unwrap(), "ls -l -- -p9");
}

#[test]
fn behind_two_dashes_comes_the_host_and_then_only_the_command() {
    let asked = asked(&["-l", "ann", "-s", "--", "web1", "sftp"]).unwrap();
    assert_eq!(asked.session, Session::Subsystem);
    assert_eq!(asked.user.unwrap(), "ann");
    assert_eq!(asked.command.unwrap(), "sftp");
    let scp = tests::asked(&["--", "web1", "-p", "x"]).unwrap();
    assert_eq!((scp.port, scp.command.unwrap()), (None, "-p x".into()));
}

#[test]
fn keywords_are_taken_in_every_spelling() {
    let spellings: [&[&str]; 7] = [
        &["-o", "Port=7"],
        &["-oPort=7"],
        &["-oport 7"],
        &["-o", "PORT 7"],
        &["-o", "Port = 7"],
        &["-o", "Port=\"7\""],
        &["-p7"],
    ];
    for spelling in spellings {
        let words = [spelling, &["web1"]].concat();
        assert_eq!(asked(&words).unwrap().port, Some(7), "{spelling:?}");
    }
}

#[test]
fn the_first_of_two_values_counts_as_with_ssh() {
    let asked = asked(&["-p", "7", "-oPort=8", "-oUser=ann", "-l", "bob", "eve@web1"]).unwrap();
    assert_eq!(asked.port, Some(7));
    assert_eq!(asked.user.unwrap(), "ann");
}

#[test]
fn hosts_are_addresses_names_and_uris() {
    let uri = asked(&["ssh://ann@web1:7", "true"]).unwrap();
    assert_eq!((uri.host_name.as_str(), uri.port), ("web1:7", Some(7)));
    assert_eq!(uri.user.unwrap(), "ann");
    let bare = asked(&["::1", "rsync", "--server"]).unwrap();
    assert_eq!(bare.host.unwrap().name, "::1");
    let at = asked(&["a@b@web1"]).unwrap();
    assert_eq!(at.user.unwrap(), "a@b");
}

#[test]
fn terminals_are_asked_for_as_with_ssh() {
    let tty = |words: &[&str]| asked(words).unwrap().tty;
    assert_eq!(tty(&["web1"]), Tty::Auto);
    assert_eq!(tty(&["-t", "web1"]), Tty::Yes);
    assert_eq!(tty(&["-tt", "web1"]), Tty::Force);
    assert_eq!(tty(&["-t", "web1", "-t"]), Tty::Force);
    assert_eq!(tty(&["-tt", "-T", "web1"]), Tty::Never);
    assert_eq!(tty(&["-T", "-oRequestTTY=force", "web1"]), Tty::Never);
}

#[test]
fn gits_probe_and_its_calls_are_understood() {
    let probe = asked(&["-G", "-o", "SendEnv=GIT_PROTOCOL", "-p", "2222", "ann@web1"]).unwrap();
    assert!(probe.describe);
    assert_eq!(probe.send_environment, ["GIT_PROTOCOL"]);
    let call = asked(&[
        "-o",
        "SendEnv=GIT_PROTOCOL",
        "web1",
        "git-upload-pack '/srv/r.git'",
    ]);
    assert_eq!(
        call.unwrap().command.unwrap(),
        "git-upload-pack '/srv/r.git'"
    );
}

#[test]
fn scps_and_sftps_calls_are_understood() {
    let scp = asked(&[
        "-x",
        "-oPermitLocalCommand=no",
        "-oClearAllForwardings=yes",
        "-oRemoteCommand=none",
        "-oRequestTTY=no",
        "-C",
        "-o",
        "Ciphers=aes128-ctr",
        "-oIgnoreUnknown=use*,foo",
        "-oUseKeychains=yes",
        "-i",
        "key",
        "-oForwardAgent=no",
        "-p",
        "2222",
        "-l",
        "ann",
        "-s",
        "--",
        "web1",
        "sftp",
    ]);
    let scp = scp.unwrap();
    assert_eq!(scp.session, Session::Subsystem);
    assert_eq!((scp.port, scp.tty), (Some(2222), Tty::Never));
    assert!(
        scp.notes
            .iter()
            .any(|note| note.contains("ciphers=aes128-ctr")),
        "{:?}",
        scp.notes
    );
    let sftp = asked(&[
        "-oForwardX11 no",
        "-oPermitLocalCommand no",
        "-oClearAllForwardings yes",
        "-obatchmode yes",
        "-oPort 2222",
        "-l",
        "ann",
        "-s",
        "--",
        "web1",
        "sftp",
    ]);
    assert_eq!(sftp.unwrap().port, Some(2222));
    let direct = asked(&["--subsystem", "sftp", "web1"]).unwrap();
    assert_eq!(direct.session, Session::Subsystem);
    assert_eq!(direct.command.unwrap(), "sftp");
}

#[test]
fn ansibles_call_is_understood() {
    let asked = asked(&[
        "-vvv",
        "-C",
        "-o",
        "ControlMaster=auto",
        "-o",
        "ControlPersist=60s",
        "-o",
        "Port=22",
        "-o",
        "KbdInteractiveAuthentication=no",
        "-o",
        "PasswordAuthentication=no",
        "-o",
        "User=\"root\"",
        "-o",
        "ConnectTimeout=10",
        "-o",
        "ControlPath=\"/tmp/a b\"",
        "-tt",
        "web1",
        "/bin/sh -c 'echo ~ && sleep 0'",
    ]);
    let asked = asked.unwrap();
    assert_eq!(asked.user.unwrap(), "root");
    assert_eq!((asked.tty, asked.port), (Tty::Force, Some(22)));
    let timeout = asked.globals.connect_timeout.unwrap();
    assert_eq!(timeout.as_secs(), 10);
}

#[test]
fn forwardings_are_gathered_unless_something_clears_them() {
    let forwards = |words: &[&str]| {
        let forwards = asked(words).unwrap().forwards.into_iter();
        let forwards = forwards.map(|(kind, value)| format!("{kind} {}", value.display()));
        forwards.collect::<Vec<_>>()
    };
    let all = [
        "-L",
        "80:a:80",
        "-NR81:b:81",
        "-D",
        "1080",
        "-oLocalForward=82 c:82",
        "web1",
    ];
    let expected = [
        "local 80:a:80",
        "remote 81:b:81",
        "dynamic 1080",
        "local 82:c:82",
    ];
    assert_eq!(forwards(&all), expected);
    let open = ["-g", "-L80:a:80", "-D1080", "-Llocalhost:1:b:2", "web1"];
    let expected = ["local *:80:a:80", "dynamic *:1080", "local localhost:1:b:2"];
    assert_eq!(forwards(&open), expected);
    let cleared = [&all[..6], &["-oClearAllForwardings=yes", "web1"]].concat();
    assert!(forwards(&cleared).is_empty());
    let stdio = asked(&["-W", "db:5432", "-L80:a:80", "web1"]).unwrap();
    assert_eq!(stdio.session, Session::Stdio("db:5432".into()));
    assert!(stdio.forwards.is_empty());
}

#[test]
fn the_programs_name_decides_how_it_behaves() {
    let rest = |text: &[&str]| words(&words_of(text)).map(<[_]>::to_vec);
    assert_eq!(rest(&["/opt/ssh", "web1"]), Some(words_of(&["web1"])));
    assert_eq!(rest(&["rsh", "rsh"]), Some(words_of(&["rsh"])));
    assert_eq!(rest(&["legatus-ssh"]), Some(vec![]));
    assert_eq!(
        rest(&["legatus", "rsh", "--", "web1"]),
        Some(words_of(&["--", "web1"]))
    );
    for other in [
        &["legatus", "shell", "rsh"] as &[_],
        &["legatus"],
        &["sshd", "x"],
    ] {
        assert_eq!(rest(other), None, "{other:?}");
    }
}

proptest! {
    #[test]
    fn no_words_make_reading_them_panic(words: Vec<Vec<u8>>) {
        use std::os::unix::ffi::OsStringExt;
        let words: Vec<_> = words.into_iter().map(OsString::from_vec).collect();
        let _ = of_words(&words);
    }

    #[test]
    fn no_cluster_of_options_makes_reading_them_panic(words in proptest::collection::vec("-{0,2}[a-zA-Z0-9=:@ \"]{0,8}", 0..6)) {
        let words: Vec<_> = words.into_iter().map(OsString::from).collect();
        let _ = of_words(&words);
    }
}
