//! Resolves names to modules: built-in ones, and external ones beside them.
//!
//! `builtin:NAME` and `VENDOR/NAME` name a module exactly. A plain name means what the operator
//! prefers, else the built-in module, else the one external module of that name.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use thiserror::Error;

use crate::{Alias, Fault, Module};

/// The modules that a program knows, by name. Names are looked up in any case, as the Go original
/// did.
#[derive(Clone, Default)]
pub struct Registry {
    modules: Vec<Arc<dyn Module>>,
    names: BTreeMap<String, Entry>,
    /// External modules by their qualified names.
    external: BTreeMap<String, Entry>,
    /// Plain names and the qualified ones that the operator prefers for them.
    preferred: BTreeMap<String, String>,
}

/// What stands before the name of a built-in module that is meant exactly.
const BUILTIN: &str = "builtin:";

#[derive(Clone)]
struct Entry {
    module: Arc<dyn Module>,
    alias: Option<Alias>,
}

/// A module could not be added.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum RegistryError {
    /// A name is not made of `[a-z0-9-]`, or is empty, or longer than 64.
    #[error("`{0}` cannot be a module's name: names have 1 to 64 characters of [a-z0-9-]")]
    InvalidName(String),
    /// Two modules have one name.
    #[error("the modules `{0}` and `{1}` both have the name `{2}`")]
    NameTaken(String, String, String),
    /// An external module's vendor is malformed.
    #[error("`{0}` cannot be a module's vendor: vendors have 1 to 64 characters of [a-z0-9-]")]
    InvalidVendor(String),
}

/// A name that no module has.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub struct UnknownModule {
    /// The name that was looked up.
    pub name: String,
    /// The known name nearest to it, if one is near.
    pub nearest: Option<String>,
    /// The qualified names of the modules that could be meant, if they are several.
    pub claimants: Vec<String>,
}

impl fmt::Display for UnknownModule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.claimants.is_empty() {
            return write!(f, "there is no module `{}`", self.name);
        }
        let claimants = self.claimants.join("` and `");
        write!(f, "`{}` could be `{claimants}`", self.name)
    }
}

impl From<UnknownModule> for Fault {
    fn from(unknown: UnknownModule) -> Self {
        let fault = Self::new(unknown.to_string());
        match unknown.nearest {
            _ if !unknown.claimants.is_empty() => {
                fault.with_hint("name one of them in full, or let the configuration prefer one")
            }
            Some(nearest) => fault.with_hint(format!("did you mean `{nearest}`?")),
            None => fault.with_hint("`legatus modules list HOST` shows the modules there"),
        }
    }
}

impl Registry {
    /// A registry without modules.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a module under its name and its aliases.
    ///
    /// # Errors
    /// When a name is malformed or taken; nothing is added then.
    pub fn add(&mut self, module: impl Module + 'static) -> Result<(), RegistryError> {
        self.add_shared(Arc::new(module))
    }

    /// Adds a module that is shared already; see [`Registry::add`].
    ///
    /// # Errors
    /// When a name is malformed or taken; nothing is added then.
    pub fn add_shared(&mut self, module: Arc<dyn Module>) -> Result<(), RegistryError> {
        let spec = module.spec();
        let own = (spec.name.to_string(), None);
        let aliases = spec
            .aliases
            .iter()
            .map(|alias| (alias.name.to_string(), Some(alias.clone())));
        let names: Vec<_> = std::iter::once(own).chain(aliases).collect();
        for (name, _) in &names {
            self.check_name(name, &spec.name)?;
        }
        for (name, alias) in names {
            let module = Arc::clone(&module);
            self.names.insert(name, Entry { module, alias });
        }
        self.modules.push(module);
        Ok(())
    }

    /// Adds an external module. Its plain name may be that of a built-in module, which then hides
    /// it, or that of another external one.
    ///
    /// # Errors
    /// When a name is malformed, or the vendor has a module of that name already.
    pub fn add_external(
        &mut self,
        vendor: &str,
        module: Arc<dyn Module>,
    ) -> Result<(), RegistryError> {
        let name = module.spec().name.to_string();
        if !is_name(&name) {
            return Err(RegistryError::InvalidName(name));
        }
        if !is_name(vendor) {
            return Err(RegistryError::InvalidVendor(vendor.to_owned()));
        }
        let qualified = format!("{vendor}/{name}");
        if self.external.contains_key(&qualified) {
            return Err(RegistryError::NameTaken(
                qualified.clone(),
                qualified.clone(),
                qualified,
            ));
        }
        let alias = None;
        self.external.insert(qualified, Entry { module, alias });
        Ok(())
    }

    /// A plain name means the module of this qualified name from now on.
    pub fn prefer(&mut self, name: impl Into<String>, qualified: impl Into<String>) {
        self.preferred.insert(name.into(), qualified.into());
    }

    fn check_name(&self, name: &str, owner: &str) -> Result<(), RegistryError> {
        if !is_name(name) {
            return Err(RegistryError::InvalidName(name.to_owned()));
        }
        match self.names.get(name) {
            Some(entry) => Err(RegistryError::NameTaken(
                entry.module.spec().name.to_string(),
                owner.to_owned(),
                name.to_owned(),
            )),
            None => Ok(()),
        }
    }

    /// The module of that name or alias, in any case.
    ///
    /// # Errors
    /// When there is none, with the nearest name.
    pub fn resolve(&self, name: &str) -> Result<&Arc<dyn Module>, UnknownModule> {
        self.entry(name).map(|entry| &entry.module)
    }

    /// The module of that name with the alias by which it was found, if it was one.
    ///
    /// # Errors
    /// When there is none, with the nearest name.
    pub fn resolve_alias(
        &self,
        name: &str,
    ) -> Result<(&Arc<dyn Module>, Option<&Alias>), UnknownModule> {
        let entry = self.entry(name)?;
        Ok((&entry.module, entry.alias.as_ref()))
    }

    fn entry(&self, name: &str) -> Result<&Entry, UnknownModule> {
        let wanted = name.to_ascii_lowercase();
        let unknown = |nearest, claimants| UnknownModule {
            name: name.chars().take(64).collect(),
            nearest,
            claimants,
        };
        let target = self.preferred.get(&wanted).unwrap_or(&wanted);
        if let Some(entry) = self.exact(target) {
            return Ok(entry);
        }
        if target.contains(['/', ':']) {
            return Err(unknown(None, Vec::new()));
        }
        if let Some(entry) = self.names.get(target) {
            return Ok(entry);
        }
        let claimants = self.claimants(target);
        match claimants.as_slice() {
            [] => Err(unknown(self.nearest(&wanted), Vec::new())),
            [(_, entry)] => Ok(*entry),
            several => {
                let names = several.iter().map(|(name, _)| (*name).clone());
                Err(unknown(None, names.collect()))
            }
        }
    }

    /// The module that is named exactly.
    fn exact(&self, name: &str) -> Option<&Entry> {
        match name.strip_prefix(BUILTIN) {
            Some(builtin) => self.names.get(builtin),
            None => self.external.get(name),
        }
    }

    /// The external modules of a plain name.
    fn claimants(&self, name: &str) -> Vec<(&String, &Entry)> {
        let external = self.external.iter();
        external
            .filter(|(_, entry)| entry.module.spec().name == name)
            .collect()
    }

    /// A name at most a third of its letters away.
    fn nearest(&self, wanted: &str) -> Option<String> {
        if wanted.len() > 64 {
            return None;
        }
        let external = self
            .external
            .values()
            .map(|entry| &*entry.module.spec().name);
        self.names
            .keys()
            .map(String::as_str)
            .chain(external)
            .map(|known| (strsim::damerau_levenshtein(known, wanted), known))
            .filter(|(distance, known)| *distance <= known.len().div_ceil(3))
            .min()
            .map(|(_, known)| known.to_owned())
    }

    /// The modules that their plain names mean: built-in ones in the order of their adding, then
    /// external ones.
    pub fn modules(&self) -> impl Iterator<Item = &Arc<dyn Module>> {
        let all = self
            .modules
            .iter()
            .chain(self.external.values().map(|entry| &entry.module));
        all.filter(|module| {
            let meant = self.resolve(&module.spec().name);
            meant.is_ok_and(|meant| Arc::ptr_eq(meant, module))
        })
    }

    /// The built-in modules, in the order of their adding.
    pub fn builtin(&self) -> impl Iterator<Item = &Arc<dyn Module>> {
        self.modules.iter()
    }

    /// All modules by their exact names: `builtin:NAME` and `VENDOR/NAME`.
    pub fn qualified(&self) -> impl Iterator<Item = (String, &Arc<dyn Module>)> {
        let builtin = self.modules.iter();
        let builtin = builtin.map(|module| (format!("{BUILTIN}{}", module.spec().name), module));
        let external = self.external.iter();
        builtin.chain(external.map(|(name, entry)| (name.clone(), &entry.module)))
    }

    /// The same external modules and preferences, beside the modules of another registry.
    #[must_use]
    pub fn with_builtin(&self, builtin: &Self) -> Self {
        Self {
            modules: builtin.modules.clone(),
            names: builtin.names.clone(),
            external: self.external.clone(),
            preferred: self.preferred.clone(),
        }
    }

    /// All names and aliases, sorted.
    pub fn names(&self) -> impl Iterator<Item = (&str, &Arc<dyn Module>, Option<&Alias>)> {
        self.names
            .iter()
            .map(|(name, entry)| (name.as_str(), &entry.module, entry.alias.as_ref()))
    }
}

fn is_name(name: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=64).contains(&name.len()) && name.bytes().all(fits)
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.names.keys()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Spec;

    struct Named(Spec);

    impl Module for Named {
        fn spec(&self) -> &Spec {
            &self.0
        }
    }

    fn named(name: &'static str, aliases: &[&'static str]) -> Named {
        Named(Spec {
            name: name.into(),
            aliases: aliases.iter().map(|alias| Alias::name(*alias)).collect(),
            ..Spec::default()
        })
    }

    #[test]
    fn malformed_names_are_refused() {
        for bad in ["", "Shell", "a b", "a/b", "../x", "\u{e9}"] {
            let mut registry = Registry::new();
            let module = Named(Spec {
                name: bad.to_owned().into(),
                ..Spec::default()
            });
            assert_eq!(
                registry.add(module),
                Err(RegistryError::InvalidName(bad.into()))
            );
        }
    }

    #[test]
    fn a_taken_name_adds_nothing_and_names_both() {
        let mut registry = Registry::new();
        registry.add(named("transfer-file", &["cp"])).unwrap();
        let error = registry.add(named("copy", &["cp"])).unwrap_err();
        assert_eq!(
            error,
            RegistryError::NameTaken("transfer-file".into(), "copy".into(), "cp".into())
        );
        assert!(registry.resolve("copy").is_err());
    }

    #[test]
    fn names_and_aliases_resolve_in_any_case() {
        let mut registry = Registry::new();
        registry.add(named("transfer-file", &["cp"])).unwrap();
        for name in ["transfer-file", "Transfer-File", "CP"] {
            assert_eq!(registry.resolve(name).unwrap().spec().name, "transfer-file");
        }
    }

    fn external(registry: &mut Registry, vendor: &str, name: &'static str) {
        registry
            .add_external(vendor, Arc::new(named(name, &[])))
            .unwrap();
    }

    /// The exact name of what a name means.
    fn meaning(registry: &Registry, name: &str) -> String {
        let meant = registry.resolve(name).unwrap();
        let mut all = registry.qualified();
        all.find(|(_, module)| Arc::ptr_eq(module, meant))
            .unwrap()
            .0
    }

    #[test]
    fn two_external_modules_of_one_name_are_an_error_that_names_both() {
        let mut registry = Registry::new();
        external(&mut registry, "acme", "thumbs");
        external(&mut registry, "zeta", "thumbs");
        let error = registry.resolve("thumbs").map(|_| ()).unwrap_err();
        assert_eq!(
            error.to_string(),
            "`thumbs` could be `acme/thumbs` and `zeta/thumbs`"
        );
        assert_eq!(meaning(&registry, "zeta/thumbs"), "zeta/thumbs");
        assert_eq!(
            registry.modules().count(),
            0,
            "neither is what the name means"
        );
        registry.prefer("thumbs", "acme/thumbs");
        assert_eq!(meaning(&registry, "thumbs"), "acme/thumbs");
    }

    #[test]
    fn a_builtin_module_hides_an_external_one_unless_the_operator_prefers_it() {
        let mut registry = Registry::new();
        registry.add(named("shell", &[])).unwrap();
        external(&mut registry, "acme", "shell");
        assert_eq!(meaning(&registry, "shell"), "builtin:shell");
        assert_eq!(meaning(&registry, "acme/shell"), "acme/shell");
        registry.prefer("shell", "acme/shell");
        assert_eq!(meaning(&registry, "Shell"), "acme/shell");
        assert_eq!(meaning(&registry, "builtin:shell"), "builtin:shell");
        assert_eq!(registry.modules().count(), 1);
        registry.prefer("shell", "gone/shell");
        assert!(
            registry.resolve("shell").is_err(),
            "what is preferred is not there"
        );
    }

    #[test]
    fn malformed_names_of_external_modules_are_refused() {
        let mut registry = Registry::new();
        for (vendor, name) in [
            ("", "a"),
            ("a/b", "a"),
            ("A", "a"),
            ("a", "a/b"),
            ("a", ".."),
        ] {
            let module = Arc::new(named(name, &[]));
            assert!(
                registry.add_external(vendor, module).is_err(),
                "{vendor} {name}"
            );
        }
        external(&mut registry, "a", "b");
        let again = registry.add_external("a", Arc::new(named("b", &[])));
        assert!(matches!(again, Err(RegistryError::NameTaken(..))));
    }

    #[test]
    fn an_unknown_name_tells_the_nearest() {
        let mut registry = Registry::new();
        registry.add(named("shell", &[])).unwrap();
        let nearest = |name: &str| registry.resolve(name).map(|_| ()).unwrap_err().nearest;
        assert_eq!(nearest("shel"), Some("shell".into()));
        assert_eq!(nearest("hsell"), Some("shell".into()));
        assert_eq!(nearest("database"), None);
        assert_eq!(nearest(&"x".repeat(1_000_000)), None);
    }
}
