//! `legatus modules check` and `test`: a module on its own, as a server would load it.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context as _, Result, bail};
use legatus_core::{Fault, Registry};
use legatus_host::Users;
use legatus_host::external::{Catalogue, Listed, State, USAGE, USAGE_PREFIX};

use super::list::external;
use crate::commands::Context;
use crate::commands::call::start_logging;
use crate::config::Configuration;
use crate::console;
use crate::external::{Places, open, settings};

/// A copy of a module in a folder of its own, which is removed with this.
struct Alone {
    folder: PathBuf,
    modules: PathBuf,
}

impl Drop for Alone {
    fn drop(&mut self) {
        // It is in the folder for such things, which somebody else clears.
        fs::remove_dir_all(&self.folder).ok();
    }
}

impl Alone {
    /// Copies the module, so that nothing else of its folder is looked at.
    fn new(file: &Path) -> Result<Self> {
        let file = file
            .canonicalize()
            .with_context(|| format!("no `{}`", file.display()))?;
        let name = format!("legatus-check-{}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        let modules = folder.join("modules");
        fs::create_dir_all(&modules)?;
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o700))?;
        let alone = Self { folder, modules };
        copy(
            &file,
            &alone.modules.join(file.file_name().unwrap_or_default()),
            8,
        )?;
        Ok(alone)
    }

    /// The module as this program sees it.
    fn catalogue(&self, context: &Context<'_>) -> Result<Catalogue> {
        let configuration = Configuration::load(context.globals, context.environment)?;
        // What a module says while it is loaded concerns its author.
        start_logging(&configuration)?;
        let mut flags = context.globals.modules.clone();
        flags.modules_dir = vec![self.modules.clone()];
        flags.no_external_modules = false;
        flags.allow_native = true;
        let table = configuration.modules().clone();
        let cache = self.folder.join("cache");
        let settings = settings(&flags, table, &Places::default(), cache, Users::default());
        let Some(settings) = settings else {
            bail!("the configuration switches external modules off");
        };
        Ok(open(settings)?)
    }

    /// This program, with this module only.
    fn program(&self) -> Command {
        let mut command = Command::new("/proc/self/exe");
        command
            .arg("--modules-dir")
            .arg(&self.modules)
            .arg("--allow-native")
            .env("XDG_DATA_HOME", &self.folder);
        command
    }
}

fn copy(from: &Path, to: &Path, depth: usize) -> Result<()> {
    let kind = fs::symlink_metadata(from)?;
    if kind.is_dir() && depth > 0 {
        fs::create_dir(to)?;
        for entry in fs::read_dir(from)? {
            let entry = entry?;
            copy(&entry.path(), &to.join(entry.file_name()), depth - 1)?;
        }
    } else if kind.is_file() {
        fs::copy(from, to)?;
    } else {
        bail!("`{}` is neither a file nor a folder", from.display());
    }
    Ok(())
}

/// The modules in it; an error if one is not ready.
fn ready(catalogue: &Catalogue, file: &Path) -> Result<Vec<Listed>> {
    let listed = catalogue.listed();
    if listed.is_empty() {
        bail!(
            Fault::new(format!("there is no module in `{}`", file.display()))
                .with_hint("it takes a .so or .wasm file, or a folder with a module.toml")
        );
    }
    for one in &listed {
        if let State::Off(reason) | State::Broken(reason) = &one.state {
            bail!("`{}` cannot be used: {reason}", one.qualified);
        }
    }
    Ok(listed)
}

/// Loads a module, shows it, and runs its examples.
pub(super) fn check(file: &Path, context: &Context<'_>) -> Result<ExitCode> {
    let alone = Alone::new(file)?;
    let catalogue = alone.catalogue(context)?;
    for one in ready(&catalogue, file)? {
        console::print(external(&one).as_bytes())?;
    }
    examples(&alone, &catalogue)
}

/// Runs a module's halves against each other: with these arguments, or as its examples say.
pub(super) fn test(file: &Path, arguments: &[OsString], context: &Context<'_>) -> Result<ExitCode> {
    let alone = Alone::new(file)?;
    let catalogue = alone.catalogue(context)?;
    let listed = ready(&catalogue, file)?;
    if arguments.is_empty() {
        return examples(&alone, &catalogue);
    }
    let first = listed
        .first()
        .map(|one| one.qualified.clone())
        .unwrap_or_default();
    let status = alone
        .program()
        .arg(first)
        .arg("local")
        .args(arguments)
        .status()?;
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    Ok(ExitCode::from(code.unwrap_or(255)))
}

/// Runs all examples on the host `local`, and tells how each ended.
fn examples(alone: &Alone, catalogue: &Catalogue) -> Result<ExitCode> {
    let registry = catalogue.registry(&Registry::new());
    let mut failed = 0;
    for (qualified, module) in registry.qualified() {
        for example in &module.spec().examples {
            let Some(words) = words(&example.command, &module.spec().name, &qualified) else {
                bail!("the example `{}` does not call the module", example.command);
            };
            let ran = alone
                .program()
                .arg("--log-level")
                .arg(format!("{USAGE}=debug,warn"))
                .args(&words)
                .stdin(Stdio::null())
                .output()
                .context("cannot run the example")?;
            let ended = ran
                .status
                .code()
                .map_or_else(|| "no status".to_owned(), |code| format!("status {code}"));
            let line = format!("ran      {}: {ended}\n", example.command);
            console::print(line.as_bytes())?;
            let told = String::from_utf8_lossy(&ran.stderr);
            for used in told.lines().filter_map(used) {
                console::print(format!("used     {used}\n").as_bytes())?;
            }
            if !ran.status.success() {
                failed += 1;
                let told = told.lines().filter(|line| used(line).is_none());
                console::complain(&told.collect::<Vec<_>>().join("\n"));
            }
        }
    }
    Ok(if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// What a line of the log tells of the limits that a half has used.
fn used(line: &str) -> Option<&str> {
    let (before, used) = line.split_once(USAGE_PREFIX)?;
    before.contains(USAGE).then_some(used)
}

/// The words of an example, with the host `local` and the module's exact name.
fn words(command: &str, name: &str, qualified: &str) -> Option<Vec<String>> {
    let mut words = command.split_whitespace().map(str::to_owned);
    let (program, module) = (words.next()?, words.next()?);
    if program != "legatus" || module != name {
        return None;
    }
    words.next()?;
    let called = [qualified.to_owned(), "local".to_owned()];
    Some(called.into_iter().chain(words).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn examples_are_run_here_and_under_the_exact_name() {
        let here = words("legatus thumbs web1 --size 3", "thumbs", "acme/thumbs").unwrap();
        assert_eq!(here, ["acme/thumbs", "local", "--size", "3"]);
        assert_eq!(words("rm -rf /", "thumbs", "acme/thumbs"), None);
        assert_eq!(words("legatus shell web1", "thumbs", "acme/thumbs"), None);
    }
}
