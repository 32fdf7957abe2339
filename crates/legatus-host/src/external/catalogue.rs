//! All external modules that there are, in whatever state, and the registry of those that can be
//! used.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use legatus_core::{Module as _, Registry};
use thiserror::Error;
use tokio::sync::{Notify, watch};

use super::description::Description;
use super::discovery::{self, Found};
use super::grants::Grants;
use super::loading::Loader;
use super::manifest::ModuleKind;
use super::module::External;
use super::store::{Cache, CacheError, Stamp};
use crate::user::Users;

/// Where modules come from, and what they may do.
#[derive(Clone, Debug, Default)]
pub struct CatalogueSettings {
    /// Folders that are searched, with all below them.
    pub folders: Vec<PathBuf>,
    /// Extensions of files that describe themselves.
    pub extensions: Vec<String>,
    /// Whether libraries and executables may run.
    pub allow_native: bool,
    /// Whether only signed modules may run.
    pub require_signature: bool,
    /// Public keys whose signatures count, in minisign's format.
    pub trusted_keys: Vec<String>,
    /// What the operator grants, by `VENDOR/NAME`.
    pub grants: BTreeMap<String, Grants>,
    /// Plain names and the qualified ones that the operator prefers for them.
    pub preferred: BTreeMap<String, String>,
    /// Where compiled code and descriptions are kept; a folder of this program alone.
    pub cache: PathBuf,
    /// The environment, of which modules get what is granted.
    pub environment: Vec<(String, String)>,
    /// The users that calls run as.
    pub users: Users,
    /// The program that is a module host with `host_arguments`.
    pub host_executable: PathBuf,
    /// Arguments with which the program calls
    /// [`module_host_main`](super::module_host_main).
    pub host_arguments: Vec<OsString>,
}

/// There is no catalogue.
#[derive(Debug, Error)]
pub enum CatalogueError {
    /// Its cache cannot be used.
    #[error(transparent)]
    Cache(#[from] CacheError),
}

/// What can be done with a module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// It can be called.
    Ready,
    /// It may not be used here; why.
    Off(String),
    /// It cannot be used anywhere; why.
    Broken(String),
}

/// One module as it is listed.
#[derive(Clone, Debug)]
pub struct Listed {
    /// `VENDOR/NAME`; what is known of it if it is broken.
    pub qualified: String,
    /// Its version; empty if it is not known.
    pub version: String,
    /// What runs it.
    pub kind: Option<ModuleKind>,
    /// Whether it has a server half, and a client half of its own.
    pub halves: (bool, bool),
    /// The artefact.
    pub source: PathBuf,
    /// Whether it can be called.
    pub state: State,
    /// SHA-256 of the artefact, in hexadecimal; empty if it was not read.
    pub digest: String,
    /// What it does, in one line.
    pub summary: String,
    /// What its manifest asks for.
    pub wants: Grants,
    /// What it has: what it asks for and is granted.
    pub has: Grants,
    /// What it is granted and cannot be given all the same, each in words with the reason.
    pub withheld: Vec<String>,
    /// The trusted key that has signed it.
    pub signed_by: Option<String>,
}

/// What became of one thing that was found.
#[derive(Clone)]
pub(crate) struct Entry {
    stamps: Vec<Stamp>,
    pub(crate) listed: Vec<Listed>,
    pub(crate) modules: Vec<(String, Arc<External>)>,
}

/// All external modules.
pub struct Catalogue {
    settings: CatalogueSettings,
    loader: Loader,
    entries: Mutex<BTreeMap<PathBuf, Entry>>,
    /// Somebody does not want to wait for the next look.
    impatience: Notify,
    /// Counts the looks whose findings are in force.
    looks: watch::Sender<u64>,
}

impl std::fmt::Debug for Catalogue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Catalogue")
            .field("folders", &self.settings.folders)
            .finish_non_exhaustive()
    }
}

impl Catalogue {
    /// An empty catalogue; [`Catalogue::scan`] fills it.
    ///
    /// # Errors
    /// When the cache cannot be used.
    pub fn open(settings: CatalogueSettings) -> Result<Self, CatalogueError> {
        let cache = Arc::new(Cache::open(&settings.cache)?);
        Ok(Self {
            loader: Loader::new(settings.clone(), cache),
            settings,
            entries: Mutex::default(),
            impatience: Notify::new(),
            looks: watch::Sender::new(0),
        })
    }

    /// Looks what is there now. What has not changed stays as it is; what is new is compiled and
    /// described, which may take seconds. Whether anything has changed.
    pub fn scan(&self) -> bool {
        let found = discovery::search(&self.settings.folders, &self.settings.extensions);
        let before = self.entries().clone();
        let mut after = BTreeMap::new();
        let mut changed = false;
        for found in found {
            let known = before.get(&found.path);
            let entry = match known.filter(|known| known.stamps == found.stamps) {
                Some(known) => known.clone(),
                None => {
                    changed = true;
                    self.load(&found)
                }
            };
            after.insert(found.path, entry);
        }
        changed |= before.keys().any(|path| !after.contains_key(path));
        if changed {
            *self.entries() = after;
        }
        changed
    }

    /// Has whoever looks for changes look now.
    pub(crate) fn look_now(&self) {
        self.impatience.notify_one();
    }

    /// Waits until somebody wants a look now.
    pub async fn wanted(&self) {
        self.impatience.notified().await;
    }

    /// Says that what the last look has found is in force.
    pub fn in_force(&self) {
        self.looks.send_modify(|count| *count += 1);
    }

    pub(crate) fn looked(&self) -> watch::Receiver<u64> {
        self.looks.subscribe()
    }

    /// Whether modules are looked for in this folder.
    pub fn searches(&self, folder: &Path) -> bool {
        let mut folders = self.settings.folders.iter();
        folders.any(|one| one.canonicalize().is_ok_and(|one| folder.starts_with(one)))
    }

    pub(crate) fn extensions(&self) -> &[String] {
        &self.settings.extensions
    }

    /// Loads something that is not, or not yet, in one of the folders.
    pub(crate) fn load_aside(&self, found: &Found) -> Entry {
        self.loader.load(found)
    }

    fn load(&self, found: &Found) -> Entry {
        let mut entry = self.loader.load(found);
        entry.stamps.clone_from(&found.stamps);
        for listed in &entry.listed {
            let source = listed.source.display();
            for what in &listed.withheld {
                tracing::warn!(module = listed.qualified, "it is not given: {what}");
            }
            match &listed.state {
                State::Ready => {
                    tracing::info!(module = listed.qualified, %source, "a module is ready");
                }
                State::Off(reason) => {
                    tracing::debug!(module = listed.qualified, %source, reason, "a module is off");
                }
                State::Broken(reason) => {
                    tracing::warn!(module = listed.qualified, %source, reason, "a module is broken");
                }
            }
        }
        entry
    }

    fn entries(&self) -> std::sync::MutexGuard<'_, BTreeMap<PathBuf, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All modules, also those that cannot be used.
    pub fn listed(&self) -> Vec<Listed> {
        let entries = self.entries();
        entries
            .values()
            .flat_map(|entry| entry.listed.clone())
            .collect()
    }

    /// The built-in modules of `builtin` and those that can be used beside them. Of two of one
    /// qualified name the first found counts.
    pub fn registry(&self, builtin: &Registry) -> Registry {
        let mut registry = Registry::new().with_builtin(builtin);
        for (vendor, module) in self.entries().values().flat_map(|entry| &entry.modules) {
            let name = module.spec().name.to_string();
            let added = registry.add_external(vendor, Arc::clone(module) as _);
            if let Err(error) = added {
                tracing::warn!(module = name, %error, "a module was left out");
            }
        }
        for (name, qualified) in &self.settings.preferred {
            registry.prefer(name, qualified);
        }
        registry
    }

    /// The artefact of a client half that may travel: a WebAssembly module's, by its digest.
    pub fn travelling(&self, digest: &str) -> Option<PathBuf> {
        let entries = self.entries();
        let mut all = entries.values().flat_map(|entry| &entry.listed);
        let found = all.find(|listed| {
            listed.digest == digest
                && listed.kind == Some(ModuleKind::Wasm)
                && listed.halves.1
                && listed.state == State::Ready
        });
        found.map(|listed| listed.source.clone())
    }
}

impl Entry {
    /// What cannot be used.
    pub(crate) fn unusable(found: &Found, state: State) -> Self {
        let manifest = found.manifest.as_ref();
        let name = manifest.map_or_else(
            || name_of(found.folder.as_deref().unwrap_or(&found.path)),
            |manifest| format!("{}/{}", manifest.vendor, manifest.name),
        );
        let listed = Listed {
            qualified: name,
            version: manifest
                .map(|manifest| manifest.version.clone())
                .unwrap_or_default(),
            kind: manifest.map(|manifest| manifest.kind),
            halves: (false, false),
            source: found.path.clone(),
            state,
            digest: String::new(),
            summary: String::new(),
            wants: manifest
                .map(|manifest| manifest.grants.clone())
                .unwrap_or_default(),
            has: Grants::default(),
            withheld: Vec::new(),
            signed_by: None,
        };
        Self {
            stamps: Vec::new(),
            listed: vec![listed],
            modules: Vec::new(),
        }
    }

    /// What can be used.
    pub(crate) fn ready(
        modules: Vec<(String, Arc<External>)>,
        common: &Listed,
        described: &[Description],
    ) -> Self {
        let vendor = common.qualified.split('/').next().unwrap_or_default();
        let listed = described.iter().map(|one| Listed {
            qualified: format!("{vendor}/{}", one.name),
            version: one.version.clone(),
            halves: (one.commander, one.sender),
            summary: one.summary.clone(),
            ..common.clone()
        });
        Self {
            stamps: Vec::new(),
            listed: listed.collect(),
            modules,
        }
    }
}

/// How a file without a manifest is called.
pub(crate) fn name_of(path: &Path) -> String {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    format!("local/{}", stem.to_lowercase())
}
