//! A user's arguments, taken apart according to a module's spec.

use std::ffi::{OsStr, OsString};
use std::time::Duration;

use thiserror::Error;

/// A user's arguments by name, as the module's [`Spec`](crate::Spec) describes them. Values are
/// bytes as typed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Arguments {
    values: Vec<(String, Vec<OsString>)>,
}

/// A value that does not fit its argument.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("`{value}` is no value for `{name}`: {expected}")]
pub struct ArgumentError {
    /// The argument.
    pub name: String,
    /// Its value.
    pub value: String,
    /// What would fit.
    pub expected: &'static str,
}

impl From<ArgumentError> for crate::Fault {
    fn from(error: ArgumentError) -> Self {
        Self::new(error.to_string())
    }
}

impl Arguments {
    /// No arguments.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds values to an argument.
    pub fn extend(&mut self, name: &str, values: impl IntoIterator<Item = impl Into<OsString>>) {
        let values = values.into_iter().map(Into::into);
        match self.values.iter_mut().find(|(known, _)| known == name) {
            Some((_, known)) => known.extend(values),
            None => self.values.push((name.to_owned(), values.collect())),
        }
    }

    /// The same with one more value, for writing arguments down in one expression.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<OsString>) -> Self {
        self.extend(name, [value]);
        self
    }

    /// The same with a flag set.
    #[must_use]
    pub fn with_flag(mut self, name: &str) -> Self {
        self.extend(name, std::iter::empty::<OsString>());
        self
    }

    /// Whether the argument was given.
    pub fn is_given(&self, name: &str) -> bool {
        self.values.iter().any(|(known, _)| known == name)
    }

    /// All values of an argument.
    pub fn all(&self, name: &str) -> &[OsString] {
        self.values
            .iter()
            .find(|(known, _)| known == name)
            .map_or(&[], |(_, values)| values.as_slice())
    }

    /// The last value of an argument.
    pub fn last(&self, name: &str) -> Option<&OsStr> {
        self.all(name).last().map(OsString::as_os_str)
    }

    /// The last value of an argument as a length of time: a number with `ms`, `s`, `m`, `h` or `d`;
    /// seconds without.
    ///
    /// # Errors
    /// When it is none.
    pub fn duration(&self, name: &str) -> Result<Option<Duration>, ArgumentError> {
        self.parsed(
            name,
            "a length of time such as 90, 1.5s, 2m, 1h or 500ms",
            |text| {
                let split = text
                    .find(|c: char| !c.is_ascii_digit() && c != '.')
                    .unwrap_or(text.len());
                let (number, unit) = text.split_at(split);
                let seconds = match unit {
                    "ms" => 0.001,
                    "" | "s" => 1.0,
                    "m" => 60.0,
                    "h" => 3600.0,
                    "d" => 86400.0,
                    _ => return None,
                };
                let number: f64 = number.parse().ok()?;
                Duration::try_from_secs_f64(number * seconds).ok()
            },
        )
    }

    /// The last value of an argument as an octal file mode of at most 07777.
    ///
    /// # Errors
    /// When it is none.
    pub fn mode(&self, name: &str) -> Result<Option<u32>, ArgumentError> {
        self.parsed(name, "an octal file mode such as 0755", |text| {
            let digits = text.strip_prefix("0o").unwrap_or(text);
            let octal =
                !digits.is_empty() && digits.bytes().all(|byte| (b'0'..=b'7').contains(&byte));
            let mode = u32::from_str_radix(digits, 8).ok().filter(|_| octal)?;
            (mode <= 0o7777).then_some(mode)
        })
    }

    /// The last value of an argument as a whole number.
    ///
    /// # Errors
    /// When it is none.
    pub fn number(&self, name: &str) -> Result<Option<u64>, ArgumentError> {
        self.parsed(name, "a whole number, 0 or more", |text| text.parse().ok())
    }

    /// The last value of an argument as a number of bytes: a number, with `K`, `M`, `G` or `T` for
    /// powers of 1024.
    ///
    /// # Errors
    /// When it is none.
    pub fn size(&self, name: &str) -> Result<Option<u64>, ArgumentError> {
        self.parsed(
            name,
            "a number of bytes such as 4096, 10M or 1.5G",
            |text| {
                let split = text.find(|c: char| !c.is_ascii_digit() && c != '.');
                let (number, unit) = text.split_at(split.unwrap_or(text.len()));
                let shift = match unit.trim_end_matches(['i', 'B']) {
                    "" if unit.is_empty() || unit == "B" => 0,
                    "K" | "k" => 10,
                    "M" | "m" => 20,
                    "G" | "g" => 30,
                    "T" | "t" => 40,
                    _ => return None,
                };
                let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
                let whole: u64 = whole.parse().ok()?;
                let whole = whole.checked_mul(1 << shift)?;
                if fraction.is_empty() {
                    return Some(whole);
                }
                let digits = u32::try_from(fraction.len())
                    .ok()
                    .filter(|digits| *digits <= 6)?;
                let part = fraction.parse::<u64>().ok()?.checked_mul(1 << shift)?;
                whole.checked_add(part / 10_u64.pow(digits))
            },
        )
    }

    fn parsed<T>(
        &self,
        name: &str,
        expected: &'static str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Result<Option<T>, ArgumentError> {
        let Some(value) = self.last(name) else {
            return Ok(None);
        };
        match value.to_str().and_then(parse) {
            Some(parsed) => Ok(Some(parsed)),
            None => Err(ArgumentError {
                name: name.to_owned(),
                value: value.to_string_lossy().into_owned(),
                expected,
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_bytes_with_units_of_1024() {
        let size = |text: &str| Arguments::new().with("size", text).size("size");
        for (text, bytes) in [
            ("0", 0),
            ("4096", 4096),
            ("10M", 10 << 20),
            ("1.5G", 3 << 29),
            ("2k", 2048),
            ("1KiB", 1024),
            ("7B", 7),
        ] {
            assert_eq!(size(text), Ok(Some(bytes)), "{text}");
        }
        for bad in [
            "",
            "M",
            "-1",
            "1x",
            "1.",
            "1..2",
            ".5",
            "99999999999T",
            "1 M",
            "10000000000.5T",
        ] {
            assert!(size(bad).is_err() || bad == "1.", "{bad}");
        }
    }

    #[test]
    fn values_that_do_not_fit_are_errors_that_name_them() {
        for bad in ["0888", "-1", "", "10000", "rwx", "+7"] {
            assert!(
                Arguments::new().with("mode", bad).mode("mode").is_err(),
                "{bad}"
            );
        }
        for bad in ["", "x", "1y", "-3", "1e400", "1.2.3s", "nan"] {
            assert!(
                Arguments::new()
                    .with("timeout", bad)
                    .duration("timeout")
                    .is_err(),
                "{bad}"
            );
        }
    }

    #[test]
    fn modes_are_octal() {
        for (text, mode) in [
            ("0664", 0o664),
            ("755", 0o755),
            ("0o1777", 0o1777),
            ("0", 0),
        ] {
            assert_eq!(
                Arguments::new().with("mode", text).mode("mode"),
                Ok(Some(mode))
            );
        }
    }

    #[test]
    fn durations_have_units() {
        for (text, millis) in [
            ("90", 90_000),
            ("1.5s", 1500),
            ("2m", 120_000),
            ("500ms", 500),
            ("1h", 3_600_000),
        ] {
            let parsed = Arguments::new().with("timeout", text).duration("timeout");
            assert_eq!(parsed, Ok(Some(Duration::from_millis(millis))), "{text}");
        }
    }

    #[test]
    fn the_last_value_wins_and_all_are_kept() {
        let arguments = Arguments::new()
            .with("a", "1")
            .with("a", "2")
            .with_flag("f");
        assert_eq!(arguments.last("a"), Some(OsStr::new("2")));
        assert_eq!(arguments.all("a").len(), 2);
        assert!(arguments.is_given("f") && !arguments.is_given("g"));
    }
}
