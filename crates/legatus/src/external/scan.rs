//! A client's external modules: they have to be known before the command line can be taken apart,
//! so that the flags about them are looked for beforehand.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use anyhow::Result;
use legatus_host::Users;
use legatus_host::external::Catalogue;

use super::{ModuleFlags, Places, has_folders, open, settings};
use crate::cli::Globals;
use crate::config::Configuration;
use crate::environment::Environment;

/// Subcommands that need no external modules, or find their own.
const WITHOUT: [&str; 6] = [
    "completions",
    "holder",
    "man",
    "module-host",
    "pki",
    "serve",
];

/// The external modules that a client's command line may name. `None` without any.
///
/// # Errors
/// When the cache cannot be used.
pub(crate) fn of_command_line(words: &[OsString]) -> Result<Option<Catalogue>> {
    let globals = globals(words);
    if words
        .get(1)
        .is_some_and(|word| WITHOUT.iter().any(|name| word == name))
    {
        return Ok(None);
    }
    // What is wrong with the configuration is told where it is used.
    let configuration = Configuration::load(&globals, &Environment::Process);
    let table = configuration.map(|configuration| configuration.modules().clone());
    let places = Places::of_process();
    let Some(cache) = places.cache() else {
        return Ok(None);
    };
    let table = table.unwrap_or_default();
    let settings = settings(&globals.modules, table, &places, cache, Users::default());
    match settings.filter(has_folders) {
        Some(settings) => Ok(Some(open(settings)?)),
        None => Ok(None),
    }
}

/// The flags about external modules, and about the configuration and identity that lead to them.
pub(super) fn globals(words: &[OsString]) -> Globals {
    let mut modules = ModuleFlags::default();
    let mut globals = Globals::default();
    let mut words = words.iter().take_while(|word| *word != "--");
    while let Some(word) = words.next() {
        let (name, value) = split(word);
        let mut value = || value.clone().or_else(|| words.next().cloned());
        match name.to_str() {
            Some("--modules-dir") => modules.modules_dir.extend(value().map(PathBuf::from)),
            Some("--modules-extension") => {
                let extension = value().and_then(|value| value.into_string().ok());
                modules.modules_extension.extend(extension);
            }
            Some("--no-external-modules") => modules.no_external_modules = true,
            Some("--allow-native") => modules.allow_native = true,
            Some("--config") => globals.config = value().map(PathBuf::from),
            Some("--cert") => globals.cert.extend(value().map(PathBuf::from)),
            Some("--key") => globals.key.extend(value().map(PathBuf::from)),
            Some("--ca") => globals.ca = value().map(PathBuf::from),
            Some("--system-roots") => globals.system_roots = true,
            _ => {}
        }
    }
    Globals { modules, ..globals }
}

/// `--name=value` apart.
fn split(word: &OsStr) -> (OsString, Option<OsString>) {
    use std::os::unix::ffi::{OsStrExt, OsStringExt};
    let bytes = word.as_bytes();
    match bytes.iter().position(|byte| *byte == b'=') {
        Some(place) if bytes.starts_with(b"--") => {
            let (name, value) = bytes.split_at(place);
            let value = value.get(1..).unwrap_or_default().to_vec();
            (
                OsString::from_vec(name.to_vec()),
                Some(OsString::from_vec(value)),
            )
        }
        _ => (word.to_owned(), None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_found_wherever_they_stand_before_what_trails() {
        let words =
            "legatus thumbs host --modules-dir a --modules-dir=b --allow-native x -- --config c";
        let words: Vec<_> = words.split(' ').map(OsString::from).collect();
        let globals = globals(&words);
        assert_eq!(
            globals.modules.modules_dir,
            [PathBuf::from("a"), "b".into()]
        );
        assert!(globals.modules.allow_native && !globals.modules.no_external_modules);
        assert_eq!(globals.config, None);
    }
}
