//! What somebody who comes from ssh, scp or rsync types, and what it is here.

use std::ffi::OsString;

use clap::Command;
use clap::builder::StyledStr;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use legatus_core::{ArgumentKind, Registry, Spec, Target, ValueKind};
use legatus_modules::{forward, shell};

/// Options of other programs, and what to say to whoever types one of them.
type Habit = (&'static [&'static str], &'static str);

/// Where a module copies: options of rsync, scp and cp.
const COPYING: &[Habit] = &[
    (
        &["-p", "--perms", "--preserve"],
        "modes and times are kept without being asked for; -a keeps owner and group, too",
    ),
    (
        &["-l", "--links"],
        "links are copied as links without being asked for; --bandwidth limits the speed",
    ),
    (
        &["-t", "-H", "-S", "--times", "--hard-links", "--sparse"],
        "times, hard links and holes are kept without being asked for",
    ),
    (
        &["-L", "-k", "--copy-links", "--copy-dirlinks"],
        "links are copied as links; name a link's target itself to copy that",
    ),
    (
        &["-o"],
        "-a keeps the owner; `legatus rsh` understands the options of ssh",
    ),
    (
        &["-g", "--owner", "--group", "--chown"],
        "-a keeps owner and group",
    ),
    (
        &["-A", "-X", "--acls", "--xattrs"],
        "-a keeps extended attributes and ACLs",
    ),
    (
        &["-D", "--devices", "--specials"],
        "-a copies devices, FIFOs and sockets",
    ),
    (&["--chmod"], "--mode gives files a mode, in octal"),
    (&["-R"], "folders come with everything in them"),
    (
        &["--relative"],
        "--files-from copies only the paths that a file names below the source",
    ),
    (
        &["-z", "-C", "--compress-choice", "--compress-level"],
        "data is compressed where that is faster; see --compress",
    ),
    (
        &["-P"],
        "progress is shown on a terminal; a port stands behind the host: HOST:PORT:PATH",
    ),
    (&["--info"], "progress is shown on a terminal"),
    (
        &["-q", "--quiet"],
        "little is told: what went wrong, and progress on a terminal",
    ),
    (&["-v", "--verbose"], "-i tells what is done"),
    (
        &["--stats"],
        "--json tells at the end how many files, folders and bytes it was",
    ),
    (
        &["--bwlimit"],
        "--bandwidth limits the speed, in bytes a second: 10M, 1.5G",
    ),
    (
        &["--inplace"],
        "a file appears when it is complete; of one that is there only changed blocks are sent",
    ),
    (
        &["--partial", "--partial-dir", "--append", "--append-verify"],
        "an interrupted copy goes on where it was when the same command is run again",
    ),
    (
        &["-u", "--update"],
        "what differs is replaced, also where that is newer; -n tells what would be done",
    ),
    (&["-c"], "--checksum compares contents"),
    (
        &["-b", "--suffix", "--backup-dir"],
        "--backup SUFFIX renames what would be replaced or deleted",
    ),
    (
        &["-f", "--filter"],
        "--exclude and --include have patterns, as in a .gitignore file",
    ),
    (
        &["-e", "--rsh"],
        "the way there is Legatus's own; rsync itself goes it with `-e 'legatus rsh'`",
    ),
    (
        &["--timeout"],
        "--reconnect says how long a lost connection is looked for",
    ),
];

/// For the module that runs commands: options of ssh.
const RUNNING: &[Habit] = &[
    (
        &["-n"],
        "`< /dev/null` behind the command gives it nothing to read",
    ),
    (
        &["-f"],
        "-d lets it run without a client; `legatus attach` shows it",
    ),
    (
        &["-s"],
        "--subsystem NAME runs what the server has under that name",
    ),
];

/// For the module that forwards connections: options of ssh.
const FORWARDING: &[Habit] = &[
    (
        &["-N", "-n", "-T", "-t"],
        "no command is run anyway; --hold stays connected even if nothing is to be forwarded",
    ),
    (&["-f"], "`legatus rsh -f -N` goes to the background"),
    (
        &["-g"],
        "`*:` before the port lets any connect, as in `-L '*:8080:HOST:80'`",
    ),
];

/// For every module whose host stands first: options of ssh.
const CALLING: &[Habit] = &[
    (
        &["-A", "-a"],
        "no agent is forwarded: certificates take the place of keys",
    ),
    (&["-X", "-x", "-Y"], "X11 is not forwarded"),
    (
        &["-C"],
        "connections are not compressed; `legatus cp` compresses where that is faster",
    ),
    (
        &["-M", "-S", "-O"],
        "each call connects anew, which is quick; nothing needs sharing",
    ),
    (
        &["-i", "-I"],
        "certificates take the place of keys: --cert and --key",
    ),
    (
        &["-l"],
        "the server says as whom calls run, by the identity of the certificate",
    ),
    (&["-o"], "`legatus rsh` understands the options of ssh"),
    (&["-p"], "a port stands behind the host: HOST:PORT"),
    (
        &["-q"],
        "--log-level off stops the log; `legatus rsh -q` tells no errors either",
    ),
    (&["-v"], "--log-level debug tells more"),
    (
        &["-L", "-R", "-D", "-W", "-N", "-g"],
        "`legatus forward` forwards ports",
    ),
];

/// For every module.
const EVERYWHERE: &[Habit] = &[
    (&["-F"], "--config names the configuration"),
    (&["-J"], "`legatus rsh -J` goes through other Legatus hosts"),
    (&["-V"], "`legatus --version` tells the version"),
];

/// Adds advice to an error about a word that was not expected, in the place of clap's.
pub(super) fn advise(
    mut error: clap::Error,
    registry: &Registry,
    command: &Command,
    command_line: &[OsString],
) -> clap::Error {
    // Others name an argument, too, and are about its value.
    if error.kind() != ErrorKind::UnknownArgument {
        return error;
    }
    let Some(ContextValue::String(unexpected)) = error.get(ContextKind::InvalidArg) else {
        return error;
    };
    let used = command_line.iter().skip(1).find_map(|word| {
        let subcommand = command.find_subcommand(word)?;
        Some(subcommand.get_name())
    });
    let module = used.and_then(|used| registry.resolve_alias(used).ok());
    let Some((module, _)) = module else {
        return error;
    };
    let spec = module.spec();
    if let Some(advice) = advice(spec, unexpected, command_line) {
        let advice = ContextValue::StyledStrs(vec![StyledStr::from(advice)]);
        error.insert(ContextKind::Suggested, advice);
        if error.remove(ContextKind::SuggestedArg).is_some() {
            // The usage has the argument that was suggested.
            error.remove(ContextKind::Usage);
        }
    } else if !takes_words(spec) {
        // Behind `--` an option of the user's would be a program's name, or too much.
        error.remove(ContextKind::Suggested);
    }
    error
}

/// Whether a word that begins with a dash could be meant as a value.
fn takes_words(module: &Spec) -> bool {
    let mut arguments = module.arguments.iter();
    arguments.any(|argument| {
        argument.kind == ArgumentKind::Positional && argument.value == ValueKind::Text
    })
}

fn advice(module: &Spec, unexpected: &str, command_line: &[OsString]) -> Option<&'static str> {
    if module.name == shell::NAME && !unexpected.starts_with('-') {
        return advice_on_command(unexpected, command_line);
    }
    let mut habits = habits(module).iter().copied().flatten();
    habits
        .find(|(words, _)| words.contains(&unexpected))
        .map(|(_, advice)| *advice)
}

/// What to say of a word that may be the beginning of a command.
fn advice_on_command(word: &str, command_line: &[OsString]) -> Option<&'static str> {
    if command_line.iter().any(|word| word == "--") {
        // The command stands where it belongs.
        return None;
    }
    Some(if word.contains(char::is_whitespace) {
        "a line for the shell there stands behind -c: legatus shell HOST -c LINE"
    } else {
        "what is to run stands behind `--`: legatus shell HOST -- COMMAND"
    })
}

/// What is known of a module, what is about it alone first.
fn habits(module: &Spec) -> &'static [&'static [Habit]] {
    if module.target == Target::InLocations {
        &[COPYING, EVERYWHERE]
    } else if module.name == shell::NAME {
        &[RUNNING, CALLING, EVERYWHERE]
    } else if module.name == forward::NAME {
        &[FORWARDING, CALLING, EVERYWHERE]
    } else {
        &[CALLING, EVERYWHERE]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{command, parse};

    /// Each table, and a module for which it holds.
    const TABLES: [(&str, &[Habit]); 7] = [
        ("transfer-file", COPYING),
        ("shell", RUNNING),
        ("forward", FORWARDING),
        ("shell", CALLING),
        ("echo", CALLING),
        ("shell", EVERYWHERE),
        ("transfer-file", EVERYWHERE),
    ];

    fn refusal(line: &[&str]) -> String {
        let registry = legatus_modules::builtin().unwrap();
        let words = ["legatus"].iter().chain(line).map(OsString::from);
        let error = parse(&registry, words).unwrap_err();
        assert_eq!(error.exit_code(), 2, "{error}");
        error.to_string()
    }

    /// The options that a text names, those in backquotes aside, which are other programs'.
    fn options(text: &str) -> impl Iterator<Item = &str> {
        let own = text.split('`').step_by(2);
        own.flat_map(str::split_whitespace)
            .map(|word| word.trim_end_matches([',', ';', ':']))
            .filter(|word| word.starts_with('-'))
    }

    #[test]
    fn whoever_types_an_option_of_another_program_hears_what_it_is_here() {
        for (module, table) in TABLES {
            for (words, advice) in table {
                for &word in *words {
                    let refused = refusal(&[module, word]);
                    assert!(refused.contains(&format!("tip: {advice}\n")), "{refused}");
                    // Nor what clap would say.
                    assert!(!refused.contains(&format!("-- {word}")), "{refused}");
                    assert!(!refused.contains("a similar argument"), "{refused}");
                }
            }
        }
    }

    #[test]
    fn advice_names_only_options_that_there_are() {
        let registry = legatus_modules::builtin().unwrap();
        let root = command(&registry);
        for (module, table) in TABLES {
            let of_module = root.find_subcommand(module).unwrap();
            let known: Vec<_> = root
                .get_arguments()
                .chain(of_module.get_arguments())
                .flat_map(|arg| {
                    let long = arg.get_long().map(|name| format!("--{name}"));
                    let short = arg.get_short().map(|letter| format!("-{letter}"));
                    long.into_iter().chain(short)
                })
                .collect();
            for option in table.iter().flat_map(|(_, advice)| options(advice)) {
                assert!(known.iter().any(|known| known == option), "{option}");
            }
        }
    }

    #[test]
    fn who_asks_for_more_to_be_kept_hears_that_owners_are_not() {
        let refused = refusal(&["cp", "-p", "a", "web1:b"]);
        assert!(refused.contains("-a keeps owner and group"), "{refused}");
        assert!(!refused.contains("owners"), "{refused}");
    }

    #[test]
    fn links_to_follow_are_no_ports_to_forward() {
        for word in ["-L", "--copy-links"] {
            let refused = refusal(&["cp", word, "a", "web1:b"]);
            assert!(refused.contains("links are copied as links"), "{refused}");
            assert!(!refused.contains("forward"), "{refused}");
        }
        assert!(refusal(&["shell", "-L", "1:a:1", "web1"]).contains("`legatus forward`"));
    }

    #[test]
    fn nobody_is_told_to_run_an_option_as_a_program() {
        for word in ["-n", "-K", "--nonsense"] {
            for line in [&["shell", "web1", word, "--", "id"][..], &["forward", word]] {
                let refused = refusal(line);
                assert!(!refused.contains(&format!("-- {word}")), "{refused}");
            }
        }
        // Where words are values that may be what was meant.
        let refused = refusal(&["echo", "web1", "-K"]);
        assert!(refused.contains("-- -K"), "{refused}");
    }

    #[test]
    fn a_suggestion_that_is_wrong_leaves_no_trace_in_the_usage() {
        let refused = refusal(&["cp", "--inplace", "a", "web1:b"]);
        assert!(refused.contains("when it is complete"), "{refused}");
        assert!(!refused.contains("--include"), "{refused}");
    }

    #[test]
    fn a_command_that_stands_behind_two_dashes_is_not_sent_there() {
        for line in [
            &["shell", "me@web1", "--", "id"][..],
            &["shell", "me@web1"],
            &["shell", "me", "web1", "--", "id"],
        ] {
            let refused = refusal(line);
            assert!(!refused.contains("stands behind"), "{line:?}: {refused}");
        }
        let refused = refusal(&["shell", "web1", "id"]);
        assert!(refused.contains("stands behind `--`"), "{refused}");
    }

    #[test]
    fn a_line_for_a_shell_is_told_from_a_command() {
        let refused = refusal(&["shell", "web1", "ls -l /etc"]);
        assert!(refused.contains("legatus shell HOST -c LINE"), "{refused}");
    }
}
