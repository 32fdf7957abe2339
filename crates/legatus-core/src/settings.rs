//! What a server's configuration says to a module.

use std::collections::BTreeMap;

use crate::Fault;

/// What a server's configuration says to a module: lists of texts by name. The name of a value in a
/// table within the module's table has the table's name and a dot before it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings(BTreeMap<String, Vec<String>>);

impl Settings {
    /// No settings.
    pub fn new() -> Self {
        Self::default()
    }

    /// The same with one more.
    #[must_use]
    pub fn with(
        mut self,
        name: impl Into<String>,
        values: impl IntoIterator<Item = impl Into<String>>,
    ) -> Self {
        let values = values.into_iter().map(Into::into).collect();
        self.0.insert(name.into(), values);
        self
    }

    /// The values of a setting; `None` if it is not set, which is not the same as an empty list.
    pub fn list(&self, name: &str) -> Option<&[String]> {
        self.0.get(name).map(Vec::as_slice)
    }

    /// The settings of a table within the module's table, by their names in it.
    pub fn table(&self, name: &str) -> impl Iterator<Item = (&str, &[String])> {
        self.0.iter().filter_map(move |(known, values)| {
            let rest = known.strip_prefix(name)?.strip_prefix('.')?;
            Some((rest, values.as_slice()))
        })
    }

    /// Refuses settings that a module does not know. A known name with a dot at its end stands for
    /// all of a table.
    ///
    /// # Errors
    /// When there is one, with the nearest known name.
    pub fn check_names(&self, known: &[&str]) -> Result<(), Fault> {
        let is_known = |name: &str| {
            known.iter().any(|known| match known.strip_suffix('.') {
                Some(_) => name.starts_with(known),
                None => name == *known,
            })
        };
        let Some(unknown) = self.0.keys().find(|name| !is_known(name)) else {
            return Ok(());
        };
        let fault = Fault::new(format!("there is no setting `{unknown}`"));
        let distances = known
            .iter()
            .map(|known| (strsim::damerau_levenshtein(known, unknown), known));
        let near = distances.filter(|(distance, known)| *distance <= known.len().div_ceil(3));
        Err(match near.min() {
            Some((_, nearest)) => fault.with_hint(format!("did you mean `{nearest}`?")),
            None => fault,
        })
    }
}

/// The line, counted from 1, in which this byte of a text stands: for messages about what is written
/// there.
pub fn line_of(text: &str, byte: usize) -> usize {
    let before = text.as_bytes().get(..byte).unwrap_or_default();
    1 + before.iter().filter(|byte| **byte == b'\n').count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_setting_tells_the_nearest() {
        let settings = Settings::new().with("conect", ["a"]);
        let fault = settings.check_names(&["connect", "listen"]).unwrap_err();
        assert_eq!(fault.hint(), Some("did you mean `connect`?"));
        assert!(settings.check_names(&["conect."]).is_err());
    }

    #[test]
    fn a_table_has_the_rest_of_each_name() {
        let settings = Settings::new().with("a.b", ["1", "2"]).with("ab", ["3"]);
        let found: Vec<_> = settings.table("a").collect();
        assert_eq!(found, [("b", ["1".to_owned(), "2".to_owned()].as_slice())]);
        assert!(settings.check_names(&["a.", "ab"]).is_ok());
        assert_eq!(settings.list("b"), None);
    }
}
