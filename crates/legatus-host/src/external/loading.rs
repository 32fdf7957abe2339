//! From something found to modules that can be called: digest, signature, code, description.

use std::path::PathBuf;
use std::sync::Arc;

use legatus_core::Origin;

use super::artefact::Artefact;
use super::catalogue::{CatalogueSettings, Entry, Listed, State, name_of};
use super::child::{ChildModule, ChildSettings, Form};
use super::description::Description;
#[cfg(feature = "wasm")]
use super::description::{Described, Kind, Value, is_name};
use super::discovery::{Found, SIGNATURE};
use super::fault::Failure;
use super::granting::given;
use super::grants::Grants;
#[cfg(feature = "wasm")]
use super::manifest::Manifest;
use super::manifest::{HalfName, Limits, ModuleKind};
use super::module::External;
#[cfg(feature = "wasm")]
use super::runner::AsUser;
use super::runner::Runner;
use super::runtime::in_runtime;
use super::signature;
use super::store::Cache;
#[cfg(feature = "wasm")]
use super::wasm::{Engines, WasmModule, World};
use crate::fork_server::{ForkServer, Program};

/// Makes modules of what was found.
pub(crate) struct Loader {
    settings: CatalogueSettings,
    cache: Arc<Cache>,
    /// What module hosts are copies of.
    fork_server: Arc<ForkServer>,
    #[cfg(feature = "wasm")]
    engines: Arc<Engines>,
}

/// What runs an artefact, and what it tells about itself.
type Loaded = (ModuleKind, Arc<dyn Runner>, Vec<Description>);

/// What is known of a module before its artefact is looked at.
struct About<'a> {
    qualified: &'a str,
    wants: &'a Grants,
    has: &'a Grants,
    limits: Limits,
}

impl About<'_> {
    /// What it asks for and does not have.
    fn denied(&self) -> Arc<[String]> {
        self.wants.missing(self.has).into()
    }
}

/// Why there is no module.
enum Refusal {
    Off(String),
    Broken(String),
}

impl From<Failure> for Refusal {
    fn from(failure: Failure) -> Self {
        Self::Broken(failure.to_string())
    }
}

impl Loader {
    pub(crate) fn new(settings: CatalogueSettings, cache: Arc<Cache>) -> Self {
        let fork_server = Arc::new(ForkServer::new(Program {
            executable: settings.host_executable.clone(),
            arguments: settings.host_arguments.clone(),
            descriptor_limit: None,
        }));
        Self {
            settings,
            cache,
            fork_server,
            #[cfg(feature = "wasm")]
            engines: Arc::default(),
        }
    }

    /// Makes modules of what was found, or tells why there are none.
    pub(crate) fn load(&self, found: &Found) -> Entry {
        match self.try_load(found) {
            Ok(entry) => entry,
            Err(Refusal::Off(reason)) => Entry::unusable(found, State::Off(reason)),
            Err(Refusal::Broken(reason)) => Entry::unusable(found, State::Broken(reason)),
        }
    }

    fn try_load(&self, found: &Found) -> Result<Entry, Refusal> {
        if let Some(problem) = &found.problem {
            return Err(Refusal::Broken(problem.clone()));
        }
        let signed_by = self.signer(found)?;
        let mut artefact = Artefact::of(&found.path, &self.cache)?;
        if let Some(expected) = found.manifest.as_ref().and_then(|one| one.digest.as_ref())
            && !expected.eq_ignore_ascii_case(&artefact.digest)
        {
            return Err(Refusal::Broken(format!(
                "its digest is {}, the manifest says {expected}",
                artefact.digest
            )));
        }
        let kind = match &found.manifest {
            Some(manifest) => manifest.kind,
            None => bare_kind(artefact.bytes()?)?,
        };
        if kind.is_native() && !self.settings.allow_native {
            return Err(Refusal::Off(
                "it is native code, which needs --allow-native".to_owned(),
            ));
        }
        let manifest = found.manifest.as_ref();
        let wants = manifest
            .map(|manifest| manifest.grants.clone())
            .unwrap_or_default();
        let name = manifest.map_or_else(
            || name_of(&found.path),
            |manifest| format!("{}/{}", manifest.vendor, manifest.name),
        );
        let granted = self.settings.grants.get(&name);
        let has = granted
            .map(|granted| wants.intersect(granted))
            .unwrap_or_default();
        let (has, withheld) = given(has, !kind.is_native());
        let limits = manifest.map_or(Limits::DEFAULT, |manifest| manifest.limits());
        let digest = artefact.digest.clone();
        let about = About {
            qualified: &name,
            wants: &wants,
            has: &has,
            limits,
        };
        let (kind, runner, described) = self.runner(kind, found, &mut artefact, &about)?;
        let described = self.checked(found, described)?;
        let vendor = name.split('/').next().unwrap_or_default().to_owned();
        let modules = described.iter().map(|one| {
            let travels = one.sender && kind == ModuleKind::Wasm;
            let origin = Origin {
                kind: kind.name(),
                travelling: travels.then(|| digest.clone()),
            };
            let users = self.settings.users.clone();
            let module = External::new(&vendor, one, Arc::clone(&runner), limits, origin, users);
            (vendor.clone(), Arc::new(module))
        });
        let common = Listed {
            qualified: name.clone(),
            version: String::new(),
            kind: Some(kind),
            halves: (false, false),
            source: found.path.clone(),
            state: State::Ready,
            digest: digest.clone(),
            summary: String::new(),
            wants,
            has,
            withheld,
            signed_by,
        };
        Ok(Entry::ready(modules.collect(), &common, &described))
    }

    /// The trusted key that has signed the module.
    fn signer(&self, found: &Found) -> Result<Option<String>, Refusal> {
        let keys = &self.settings.trusted_keys;
        let folder = found.folder.as_deref();
        let signed = folder.filter(|folder| folder.join(SIGNATURE).exists());
        match signed {
            Some(folder) if !keys.is_empty() || self.settings.require_signature => {
                let verified = signature::verify(folder, keys);
                verified
                    .map(Some)
                    .map_err(|error| Refusal::Broken(error.to_string()))
            }
            _ if self.settings.require_signature => Err(Refusal::Off(
                "it is not signed, and the configuration asks for signatures".to_owned(),
            )),
            _ => Ok(None),
        }
    }

    /// What runs the artefact, and what it tells about itself.
    fn runner(
        &self,
        kind: ModuleKind,
        found: &Found,
        artefact: &mut Artefact<'_>,
        about: &About<'_>,
    ) -> Result<Loaded, Refusal> {
        if !kind.is_native() {
            return self.wasm(found, artefact, about);
        }
        let copy = match self.cache.copied(&artefact.digest) {
            Some(copy) => copy,
            None => {
                let digest = artefact.digest.clone();
                self.cache.copy(&digest, artefact.bytes()?)?
            }
        };
        let form = match kind {
            ModuleKind::Executable => Form::Executable,
            _ => Form::Library,
        };
        let child = self.child(form, copy, found, about);
        let known = self.cache.description(&artefact.digest, kind.name());
        let described = match known {
            Some(known) => known,
            None => {
                let described = in_runtime(child.describe())?;
                self.cache
                    .put_description(&artefact.digest, kind.name(), &described)?;
                described
            }
        };
        Ok((kind, Arc::new(child), described))
    }

    #[cfg(feature = "wasm")]
    fn wasm(
        &self,
        found: &Found,
        artefact: &mut Artefact<'_>,
        about: &About<'_>,
    ) -> Result<Loaded, Refusal> {
        let mut module = WasmModule::new(
            Arc::clone(&self.engines),
            Arc::clone(&self.cache),
            artefact.digest.clone(),
            artefact.path.to_owned(),
        );
        module.limits = about.limits;
        module.grants = about.has.clone();
        module.denied = about.denied();
        module.environment.clone_from(&self.settings.environment);
        let key = ModuleKind::Wasm.name();
        // A plain command has no description of its own, which is kept as an empty one.
        let known = self.cache.description(&artefact.digest, key);
        let described = match known {
            Some(known) => known,
            None => {
                module.prepare(artefact.bytes()?)?;
                let described = match module.world()? {
                    World::Contract => in_runtime(module.describe())?,
                    World::Command => Vec::new(),
                };
                self.cache
                    .put_description(&artefact.digest, key, &described)?;
                described
            }
        };
        let (kind, described) = if described.is_empty() {
            let plain = || plain(&found.path);
            let told = found.manifest.as_ref().map(Manifest::description);
            (ModuleKind::Command, vec![told.unwrap_or_else(plain)])
        } else {
            (ModuleKind::Wasm, described)
        };
        if !about.has.has_files() || !self.settings.users.are_others() {
            return Ok((kind, Arc::new(module), described));
        }
        // Files are touched in the rights of the user that the call runs as.
        module.component()?;
        let compiled = module.compiled();
        let elsewhere = self.child(Form::Component, compiled, found, about);
        let runner = AsUser {
            elsewhere,
            here: module,
        };
        Ok((kind, Arc::new(runner), described))
    }

    fn child(
        &self,
        form: Form,
        artefact: PathBuf,
        found: &Found,
        about: &About<'_>,
    ) -> ChildModule {
        ChildModule {
            settings: ChildSettings {
                fork_server: Arc::clone(&self.fork_server),
                qualified: about.qualified.to_owned(),
                form,
                artefact,
                folder: found.folder.clone(),
                limits: about.limits,
                grants: about.has.clone(),
                denied: about.denied(),
                environment: self.settings.environment.clone(),
                users: self.settings.users.clone(),
            },
        }
    }

    #[cfg(not(feature = "wasm"))]
    #[expect(clippy::unused_self, reason = "the same with WebAssembly")]
    fn wasm(
        &self,
        _found: &Found,
        _artefact: &mut Artefact<'_>,
        _about: &About<'_>,
    ) -> Result<Loaded, Refusal> {
        Err(Refusal::Off(
            "this program was built without WebAssembly".to_owned(),
        ))
    }

    /// Holds what an artefact tells against its manifest.
    fn checked(
        &self,
        found: &Found,
        described: Vec<Description>,
    ) -> Result<Vec<Description>, Refusal> {
        for one in &described {
            let checked = one.check();
            checked.map_err(|error| Refusal::Broken(format!("its description: {error}")))?;
        }
        let Some(manifest) = &found.manifest else {
            return Ok(described);
        };
        let Some(own) = described.iter().find(|one| one.name == manifest.name) else {
            let names: Vec<_> = described.iter().map(|one| one.name.as_str()).collect();
            return Err(Refusal::Broken(format!(
                "the manifest names it `{}`, it describes `{}`",
                manifest.name,
                names.join("`, `")
            )));
        };
        if own.version != manifest.version {
            return Err(Refusal::Broken(format!(
                "the manifest says version {}, it describes version {}",
                manifest.version, own.version
            )));
        }
        for half in manifest.halves.iter().flatten() {
            let (has, name) = match half {
                HalfName::Commander => (own.commander, "server"),
                HalfName::Sender => (own.sender, "client"),
            };
            if !has {
                return Err(Refusal::Broken(format!(
                    "the manifest tells of a {name} half, which it does not have"
                )));
            }
        }
        Ok(described)
    }
}

/// What a file without a manifest is, judged by its first bytes.
fn bare_kind(bytes: &[u8]) -> Result<ModuleKind, Refusal> {
    match bytes {
        [0, b'a', b's', b'm', ..] => Ok(ModuleKind::Wasm),
        [0x7f, b'E', b'L', b'F', ..] => Ok(ModuleKind::Native),
        _ => Err(Refusal::Broken(
            "it is neither WebAssembly nor a library".to_owned(),
        )),
    }
}

/// What a plain command without a manifest is said to be.
#[cfg(feature = "wasm")]
fn plain(path: &std::path::Path) -> Description {
    let name = name_of(path);
    let name = name.split('/').next_back().unwrap_or_default();
    let fits = is_name(name);
    Description {
        name: if fits { name.to_owned() } else { String::new() },
        version: "0".to_owned(),
        summary: "A plain command".to_owned(),
        arguments: vec![Described {
            name: "arguments".to_owned(),
            short: None,
            kind: Kind::Trailing,
            value: Value::Text,
            value_name: "ARG".to_owned(),
            help: "Arguments of the command".to_owned(),
            required: false,
            repeated: true,
        }],
        commander: true,
        ..Description::default()
    }
}
