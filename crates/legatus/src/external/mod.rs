//! External modules of this program: where they come from by flags and configuration, and the
//! catalogue that finds them.

mod scan;
mod travel;
mod watch;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use clap::{ArgAction, Args};
use legatus_core::Fault;
use legatus_host::Users;
use legatus_host::external::{Catalogue, CatalogueError, CatalogueSettings, Grants};
use serde::Deserialize;

pub(crate) use scan::of_command_line;
pub(crate) use travel::lacking;
pub(crate) use watch::watch;

/// Extensions of files that describe themselves.
const EXTENSIONS: [&str; 2] = ["so", "wasm"];

/// Where the system's modules lie.
const SYSTEM_FOLDERS: [&str; 2] = ["/usr/lib/legatus/modules", "/var/lib/legatus/modules"];

/// The flags about external modules, of client and server alike.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "External modules")]
pub struct ModuleFlags {
    /// Where modules are looked for, with all folders below; may be given more than once [default:
    /// `modules` beside the program, the user's and the system's data folders]
    #[arg(long, global = true, value_name = "DIR", action = ArgAction::Append,
        value_hint = clap::ValueHint::DirPath)]
    pub modules_dir: Vec<PathBuf>,

    /// Extensions of files that are modules without a manifest [default: so, wasm]
    #[arg(long, global = true, value_name = "EXT", action = ArgAction::Append)]
    pub modules_extension: Vec<String>,

    /// Use built-in modules only
    #[arg(long, global = true)]
    pub no_external_modules: bool,

    /// Take client halves that a server offers without asking; they run sandboxed
    #[arg(long, global = true)]
    pub yes: bool,

    /// Let libraries and executables be modules, too: native code, in processes of its own
    #[arg(long, global = true)]
    pub allow_native: bool,
}

/// The table `[modules]` of a configuration file, of client and server alike.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub(crate) struct ModulesTable {
    pub(crate) dir: Vec<PathBuf>,
    extension: Vec<String>,
    external: Option<bool>,
    allow_native: bool,
    require_signature: bool,
    trusted_keys: Vec<String>,
    prefer: BTreeMap<String, String>,
    grants: BTreeMap<String, Grants>,
    /// Where a server puts modules that clients install; without it they cannot.
    install_dir: Option<PathBuf>,
    /// Whether client halves may be taken from servers.
    pub(crate) travel: Travel,
}

impl ModulesTable {
    /// Whether external modules are switched off.
    fn are_off(&self) -> bool {
        self.external == Some(false)
    }

    /// Takes away what was said about other modules than one that a server has handed out.
    fn restrict(&mut self) {
        self.external = None;
        self.require_signature = false;
        self.grants.clear();
        self.prefer.clear();
    }

    /// Where clients may install modules, if they may at all.
    ///
    /// # Errors
    /// When modules are not looked for there.
    pub(crate) fn install_folder(&self, catalogue: &Catalogue) -> Result<Option<PathBuf>> {
        let Some(folder) = &self.install_dir else {
            return Ok(None);
        };
        let there = folder.canonicalize();
        let there =
            there.with_context(|| format!("cannot install modules in `{}`", folder.display()))?;
        if !catalogue.searches(&there) {
            bail!(
                Fault::new(format!(
                    "modules are not looked for in `{}`, where they are to be installed",
                    folder.display()
                ))
                .with_hint("`dir` in [modules], or --modules-dir, names the folders")
            );
        }
        Ok(Some(there))
    }

    /// The trusted keys themselves, where the table may name their files.
    pub(crate) fn keys(&self) -> Vec<String> {
        let keys = self.trusted_keys.iter();
        keys.map(|key| read_key(key)).collect()
    }
}

/// Whether client halves may be taken from servers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Travel {
    /// Once for each, if there is somebody to ask.
    #[default]
    Ask,
    /// Without asking.
    Yes,
    /// Never.
    No,
}

/// Where folders of this program and this user are.
#[derive(Clone, Debug, Default)]
pub(crate) struct Places {
    /// The program's own folder.
    pub(crate) program: Option<PathBuf>,
    /// `$XDG_DATA_HOME`, or what stands for it.
    pub(crate) data: Option<PathBuf>,
}

/// Puts flags and table together. `None` if external modules are off.
pub(crate) fn settings(
    flags: &ModuleFlags,
    table: ModulesTable,
    places: &Places,
    cache: PathBuf,
    users: Users,
) -> Option<CatalogueSettings> {
    if flags.no_external_modules || table.are_off() {
        return None;
    }
    let given = [&flags.modules_dir, &table.dir];
    let given = given.into_iter().find(|folders| !folders.is_empty());
    let extensions = [&flags.modules_extension, &table.extension];
    let extensions = extensions
        .into_iter()
        .find(|extensions| !extensions.is_empty());
    let extensions = extensions.cloned();
    Some(CatalogueSettings {
        folders: given.cloned().unwrap_or_else(|| default_folders(places)),
        extensions: extensions
            .unwrap_or_else(|| EXTENSIONS.map(str::to_owned).into())
            .iter()
            .map(|extension| extension.trim_start_matches('.').to_owned())
            .collect(),
        allow_native: flags.allow_native || table.allow_native,
        require_signature: table.require_signature,
        trusted_keys: table.keys(),
        grants: table.grants,
        preferred: table.prefer,
        cache,
        environment: environment(),
        users,
        host_executable: "/proc/self/exe".into(),
        host_arguments: vec!["module-host".into()],
    })
}

fn default_folders(places: &Places) -> Vec<PathBuf> {
    let program = places.program.iter().map(|folder| folder.join("modules"));
    let data = places
        .data
        .iter()
        .map(|folder| folder.join("legatus/modules"));
    let system = SYSTEM_FOLDERS.iter().map(PathBuf::from);
    program.chain(data).chain(system).collect()
}

/// A key as it stands in the configuration, or in the file that it names.
pub(crate) fn read_key(text: &str) -> String {
    let from_file = || {
        let file = std::fs::read_to_string(text).ok()?;
        legatus_host::external::public_key(&file)
    };
    legatus_host::external::public_key(text)
        .or_else(from_file)
        .unwrap_or_else(|| text.to_owned())
}

/// The environment, as far as it is text.
fn environment() -> Vec<(String, String)> {
    let text = |(name, value): (OsString, OsString)| {
        Some((name.into_string().ok()?, value.into_string().ok()?))
    };
    std::env::vars_os().filter_map(text).collect()
}

impl Places {
    /// Those of this process.
    pub(crate) fn of_process() -> Self {
        let absolute = |name: &str| {
            let path = std::env::var_os(name).map(PathBuf::from);
            path.filter(|path| path.is_absolute())
        };
        let home = absolute("HOME");
        let program = std::env::current_exe().ok();
        Self {
            program: program.and_then(|program| program.parent().map(Path::to_owned)),
            data: absolute("XDG_DATA_HOME").or_else(|| Some(home?.join(".local/share"))),
        }
    }

    /// Where compiled code of this user is kept.
    pub(crate) fn cache(&self) -> Option<PathBuf> {
        let data = self.data.as_ref()?;
        Some(data.join("legatus/cache"))
    }
}

/// A filled catalogue.
///
/// # Errors
/// When its cache cannot be used.
pub(crate) fn open(settings: CatalogueSettings) -> Result<Catalogue, CatalogueError> {
    let catalogue = Catalogue::open(settings)?;
    catalogue.scan();
    Ok(catalogue)
}

/// Whether one of the folders exists: without any there is nothing to find, and nothing to cache.
pub(crate) fn has_folders(settings: &CatalogueSettings) -> bool {
    settings.folders.iter().any(|folder| folder.is_dir())
}
