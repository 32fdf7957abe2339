//! Tests of both halves against each other, through channels of a few bytes.

mod commands;
mod environment;
mod prediction;
mod process_tree;
mod requests;
mod scripts;
mod terminal;
mod user;
mod user_kit;
mod wire;

use std::ffi::OsString;
use std::sync::Arc;

use legatus_core::testing::{self, MemoryLocal};
use legatus_core::{Arguments, Outcome};

use super::module;

/// Runs `legatus shell HOST -- WORDS`.
async fn argv(words: &[&str]) -> (Outcome, MemoryLocal) {
    with_stdin(words, b"").await
}

/// The same with these bytes at stdin.
async fn with_stdin(words: &[&str], stdin: &[u8]) -> (Outcome, MemoryLocal) {
    let local = MemoryLocal::new().with_stdin(stdin, 1000);
    let outcome = run(command(words), &local).await;
    (outcome, local)
}

async fn run(arguments: Arguments, local: &MemoryLocal) -> Outcome {
    testing::run(Arc::new(module()), arguments, local).await
}

fn command(words: &[&str]) -> Arguments {
    let mut arguments = Arguments::new();
    arguments.extend("argument", words.iter().map(OsString::from));
    arguments
}

/// What was written to stdout, as text.
fn stdout(local: &MemoryLocal) -> String {
    String::from_utf8(local.stdout()).unwrap()
}

/// What was written to stderr, as text.
fn stderr(local: &MemoryLocal) -> String {
    String::from_utf8(local.stderr()).unwrap()
}

/// The text of a failed outcome, with its hint.
fn fault(outcome: &Outcome) -> String {
    let Outcome::Failed(fault) = outcome else {
        panic!("not failed but {outcome:?}");
    };
    format!("{} ({})", fault.message(), fault.hint().unwrap_or_default())
}
