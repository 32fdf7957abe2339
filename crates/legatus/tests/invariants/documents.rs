//! What the documents promise: links lead somewhere, commands are understood, examples are valid.

use std::ffi::OsString;

use clap::Command;
use legatus::cli::{self, Globals};
use legatus::config::Configuration;
use legatus::environment::{self, Environment};

use crate::repository::{files, read, root};

fn documents() -> Vec<String> {
    let markdown = files().into_iter().filter(|path| path.ends_with(".md"));
    markdown.collect()
}

/// The fenced blocks of a language, by document.
fn blocks(language: &str) -> Vec<(String, String)> {
    let fence = format!("```{language}\n");
    let blocks = documents().into_iter().flat_map(|path| {
        let text = read(&path);
        let blocks = text.split(&fence).skip(1);
        let blocks = blocks.map(|rest| rest.split("```").next().unwrap_or_default().to_owned());
        blocks
            .map(|block| (path.clone(), block))
            .collect::<Vec<_>>()
    });
    blocks.collect()
}

/// The words of a line as a shell takes it apart, up to what is the shell's own (`|`, `>`, `;`, `&`).
fn words(line: &str) -> Vec<OsString> {
    let mut words = vec![String::new()];
    let mut quote = None;
    for letter in line.chars() {
        match (quote, letter) {
            (None, '\'' | '"') => quote = Some(letter),
            (Some(open), _) if open == letter => quote = None,
            (None, '|' | '>' | ';' | '&') => break,
            (None, ' ') => words.push(String::new()),
            _ => words.last_mut().unwrap().push(letter),
        }
    }
    let words = words.into_iter().filter(|word| !word.is_empty());
    words.map(OsString::from).collect()
}

#[test]
fn every_link_leads_to_a_file_of_the_repository() {
    let mut dead = Vec::new();
    for path in documents() {
        let text = read(&path);
        for rest in text.split("](").skip(1) {
            let link = rest.split([')', '#']).next().unwrap_or_default();
            let folder = root().join(&path);
            let target = folder.parent().unwrap().join(link);
            if !link.contains("://") && !link.is_empty() && !target.exists() {
                dead.push(format!("{path}: {link}"));
            }
        }
    }
    assert!(dead.is_empty(), "dead links: {dead:?}");
}

#[test]
fn every_command_in_the_documents_is_understood() {
    let registry = legatus::modules::builtin().unwrap();
    let mut seen = 0;
    for (path, block) in blocks("sh") {
        for line in block.lines() {
            let line = line.replace("cargo run --release --", "legatus");
            let Some(start) = line.find("legatus ") else {
                continue;
            };
            let before = &line[..start];
            // In the middle of a line it may be a path, or another program's argument.
            if !(before.is_empty() || before.ends_with("| ") || before.contains("netns exec")) {
                continue;
            }
            let parsed = cli::parse(&registry, words(&line[start..]));
            assert!(parsed.is_ok(), "{path}: {line}\n{}", parsed.unwrap_err());
            seen += 1;
        }
    }
    assert!(seen > 20, "the documents have moved: {seen} commands");
}

#[test]
fn every_example_of_a_module_is_understood() {
    let registry = legatus::modules::builtin().unwrap();
    for module in registry.modules() {
        for example in &module.spec().examples {
            let parsed = cli::parse(&registry, words(&example.command));
            assert!(
                parsed.is_ok(),
                "{}\n{}",
                example.command,
                parsed.unwrap_err()
            );
        }
    }
}

#[test]
fn the_guide_names_every_flag_and_every_variable() {
    let registry = legatus::modules::builtin().unwrap();
    let guide = read("docs/guide.md") + &read("docs/modules.md");
    let mut root = cli::command(&registry);
    root.build();
    let mut missing = Vec::new();
    visit(&root, &mut |command, flag| {
        if !guide.contains(&format!("--{flag}")) {
            missing.push(format!("{command} --{flag}"));
        }
    });
    for variable in environment::ALL {
        if !guide.contains(variable.name) {
            missing.push(variable.name.to_owned());
        }
    }
    assert!(missing.is_empty(), "not in docs/guide.md: {missing:?}");
}

fn visit(command: &Command, each: &mut impl FnMut(&str, &str)) {
    for flag in command
        .get_arguments()
        .filter_map(|argument| argument.get_long())
    {
        if !["help", "version"].contains(&flag) {
            each(command.get_name(), flag);
        }
    }
    let shown = command.get_subcommands().filter(|one| !one.is_hide_set());
    for subcommand in shown {
        visit(subcommand, each);
    }
}

#[test]
fn policies_in_the_documents_are_valid() {
    let policies = blocks("toml")
        .into_iter()
        .filter(|(_, text)| text.starts_with("# policy.toml"));
    let policies: Vec<_> = policies.collect();
    assert!(policies.len() > 1, "the documents have moved");
    for (path, text) in policies {
        legatus::net::parse_policy(&text).unwrap_or_else(|error| panic!("{path}: {error}"));
    }
}

#[test]
fn configurations_in_the_documents_are_valid() {
    let all = blocks("toml")
        .into_iter()
        .filter(|(_, text)| text.starts_with("# config.toml"));
    let all: Vec<_> = all.collect();
    assert!(!all.is_empty(), "the documents have moved");
    let folder = tempfile::tempdir().unwrap();
    for (path, text) in all {
        let file = folder.path().join("config.toml");
        std::fs::write(&file, text).unwrap();
        let globals = Globals {
            config: Some(file),
            ..Globals::default()
        };
        let loaded = Configuration::load(&globals, &Environment::fixed([]));
        loaded.unwrap_or_else(|error| panic!("{path}: {error}"));
    }
}

#[test]
fn the_tests_that_the_readme_names_are_those_that_ci_runs() {
    let readme = blocks("sh")
        .into_iter()
        .filter(|(path, _)| path == "README.md");
    let commands: Vec<_> = readme
        .map(|(_, block)| block.trim_end().to_owned())
        .take(2)
        .collect();
    assert_eq!(
        commands.first().unwrap(),
        "cargo run --release -- shell local -- uname -a"
    );
    let ci = read(".ci/run");
    for command in commands {
        let run = ci.lines().any(|line| line.starts_with(&command));
        assert!(run, ".ci/run does not run `{command}`");
    }
}

#[test]
fn every_decision_record_is_in_the_index() {
    let index = read("docs/decisions/README.md");
    let records = documents().into_iter().filter_map(|path| {
        let name = path.strip_prefix("docs/decisions/")?;
        (name != "README.md").then(|| name.to_owned())
    });
    let missing: Vec<_> = records
        .filter(|name| !index.contains(name.as_str()))
        .collect();
    assert!(missing.is_empty(), "{missing:?}");
}
