//! Resolves names to modules.

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
}

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
}

/// A name that no module has.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("there is no module `{name}`")]
pub struct UnknownModule {
    /// The name that was looked up.
    pub name: String,
    /// The known name nearest to it, if one is near.
    pub nearest: Option<String>,
}

impl From<UnknownModule> for Fault {
    fn from(unknown: UnknownModule) -> Self {
        let fault = Self::new(unknown.to_string());
        match unknown.nearest {
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

    fn check_name(&self, name: &str, owner: &str) -> Result<(), RegistryError> {
        let fits = (1..=64).contains(&name.len())
            && name
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
        if !fits {
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
        self.names.get(&wanted).ok_or_else(|| UnknownModule {
            name: name.chars().take(64).collect(),
            nearest: self.nearest(&wanted),
        })
    }

    /// A name at most a third of its letters away.
    fn nearest(&self, wanted: &str) -> Option<String> {
        if wanted.len() > 64 {
            return None;
        }
        self.names
            .keys()
            .map(|known| (strsim::damerau_levenshtein(known, wanted), known))
            .filter(|(distance, known)| *distance <= known.len().div_ceil(3))
            .min()
            .map(|(_, known)| known.clone())
    }

    /// The modules in the order of their adding.
    pub fn modules(&self) -> impl Iterator<Item = &Arc<dyn Module>> {
        self.modules.iter()
    }

    /// All names and aliases, sorted.
    pub fn names(&self) -> impl Iterator<Item = (&str, &Arc<dyn Module>, Option<&Alias>)> {
        self.names
            .iter()
            .map(|(name, entry)| (name.as_str(), &entry.module, entry.alias.as_ref()))
    }
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
