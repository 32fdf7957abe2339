//! What an external module tells about itself, and how that becomes a [`Spec`].

use legatus_core::{Argument, Effect, Effects, Example, Placement, Spec, Target, ValueKind, wire};
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Bytes of any one text of a description: long enough for a page of help.
const TEXT_BYTES: usize = 16 << 10;

/// Modules that one artefact may describe.
pub(crate) const MODULES: usize = 64;

/// Arguments of one module, and examples of one module.
const PARTS: usize = 64;

/// What an artefact tells about one of its modules. In JSON this is the answer of an executable.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Description {
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) summary: String,
    #[serde(default)]
    pub(crate) details: String,
    #[serde(default)]
    pub(crate) effects: Vec<EffectName>,
    #[serde(default)]
    pub(crate) arguments: Vec<Described>,
    #[serde(default)]
    pub(crate) examples: Vec<ExampleLine>,
    #[serde(default)]
    pub(crate) commander: bool,
    #[serde(default)]
    pub(crate) sender: bool,
}

/// One effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum EffectName {
    Read,
    Write,
    Exec,
}

/// One argument.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Described {
    pub(crate) name: String,
    #[serde(default)]
    pub(crate) short: Option<char>,
    pub(crate) kind: Kind,
    #[serde(default)]
    pub(crate) value: Value,
    #[serde(default)]
    pub(crate) value_name: String,
    #[serde(default)]
    pub(crate) help: String,
    #[serde(default)]
    pub(crate) required: bool,
    #[serde(default)]
    pub(crate) repeated: bool,
}

/// How an argument is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Kind {
    Positional,
    Option,
    Flag,
    Trailing,
}

/// What an argument's value is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Value {
    #[default]
    Text,
    Number,
    Path,
    Location,
    Mode,
    Duration,
}

/// A command line that works.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ExampleLine {
    pub(crate) command: String,
    pub(crate) explanation: String,
}

/// A description that is of no use.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub(crate) enum InvalidDescription {
    #[error("`{0}` cannot be a module's name: names have 1 to 64 characters of [a-z0-9-]")]
    Name(String),
    #[error("`{0}` describes more than {PARTS} arguments or examples")]
    TooMany(String),
    #[error("`{0}` has a text of more than {TEXT_BYTES} bytes")]
    TooLong(String),
    #[error("a text of `{0}` has characters that steer terminals")]
    Steers(String),
    #[error("`{0}` has neither a server half nor a client half")]
    NoHalves(String),
}

impl Description {
    /// Looks whether a description is within its limits.
    pub(crate) fn check(&self) -> Result<(), InvalidDescription> {
        if !is_name(&self.name) {
            return Err(InvalidDescription::Name(
                self.name.chars().take(80).collect(),
            ));
        }
        if self.arguments.len() > PARTS || self.examples.len() > PARTS {
            return Err(InvalidDescription::TooMany(self.name.clone()));
        }
        if self.texts().any(|text| text.len() > TEXT_BYTES) {
            return Err(InvalidDescription::TooLong(self.name.clone()));
        }
        let steers = |character: char| character.is_control() && !"\r\n\t".contains(character);
        if self.texts().any(|text| text.contains(steers)) {
            return Err(InvalidDescription::Steers(self.name.clone()));
        }
        if !self.commander && !self.sender {
            return Err(InvalidDescription::NoHalves(self.name.clone()));
        }
        Ok(())
    }

    fn texts(&self) -> impl Iterator<Item = &String> {
        let own = [&self.version, &self.summary, &self.details];
        let arguments = self.arguments.iter();
        let arguments = arguments.flat_map(|one| [&one.name, &one.value_name, &one.help]);
        let examples = self.examples.iter();
        let examples = examples.flat_map(|one| [&one.command, &one.explanation]);
        own.into_iter().chain(arguments).chain(examples)
    }

    /// All effects of the module's calls.
    pub(crate) fn effects(&self) -> Effects {
        let effects = self.effects.iter().map(|effect| match effect {
            EffectName::Read => Effect::Read,
            EffectName::Write => Effect::Write,
            EffectName::Exec => Effect::Exec,
        });
        effects.collect()
    }

    /// The spec of the module. Where its Commander runs is the affair of its host, so that for the
    /// server it is one of those that need no holder.
    pub(crate) fn spec(&self) -> Spec {
        Spec {
            name: self.name.clone().into(),
            aliases: Vec::new(),
            version: self.version.clone().into(),
            summary: self.summary.clone().into(),
            description: self.details.clone().into(),
            effects: self.effects(),
            target: Target::First,
            placement: Placement::Server,
            arguments: self.arguments.iter().map(Described::argument).collect(),
            examples: self
                .examples
                .iter()
                .map(|one| Example::new(one.command.clone(), one.explanation.clone()))
                .collect(),
        }
    }
}

impl Described {
    fn argument(&self) -> Argument {
        let (name, help) = (self.name.clone(), self.help.clone());
        let value_name = self.value_name.clone();
        let mut argument = match self.kind {
            Kind::Positional => Argument::positional(name, value_name, help),
            Kind::Option => Argument::option(name, value_name, help),
            Kind::Flag => Argument::flag(name, help),
            Kind::Trailing => Argument::trailing(name, value_name, help),
        };
        argument.short = self.short;
        argument.required = self.required;
        argument.repeated |= self.repeated;
        argument.value = match self.value {
            Value::Text => ValueKind::Text,
            Value::Number => ValueKind::Number,
            Value::Path => ValueKind::Path,
            Value::Location => ValueKind::Location,
            Value::Mode => ValueKind::Mode,
            Value::Duration => ValueKind::Duration,
        };
        argument
    }
}

/// Whether a text can be a module's name, or a vendor's.
pub(crate) fn is_name(text: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=64).contains(&text.len()) && text.bytes().all(fits)
}

/// A one-letter form.
fn letter(text: &str) -> Option<char> {
    let mut letters = text.chars();
    let first = letters.next().filter(char::is_ascii_alphanumeric);
    first.filter(|_| letters.next().is_none())
}

/// The spec that a server tells of one of its modules. What the wire does not carry (kinds of
/// values) is left out, as is a one-letter form that is none. `None` if it cannot be a module's.
pub fn spec_from_wire(told: &wire::Spec) -> Option<Spec> {
    let arguments = told.arguments.iter().map(|told| {
        Some(Described {
            name: told.name.clone(),
            short: letter(&told.short),
            kind: match told.kind.as_str() {
                "positional" => Kind::Positional,
                "option" => Kind::Option,
                "flag" => Kind::Flag,
                "trailing" => Kind::Trailing,
                _ => return None,
            },
            value: Value::Text,
            value_name: told.value_name.clone(),
            help: told.help.clone(),
            required: told.required,
            repeated: told.repeated,
        })
    });
    let effects = told.effects().filter_map(|effect| match effect {
        wire::Effect::Read => Some(EffectName::Read),
        wire::Effect::Write => Some(EffectName::Write),
        wire::Effect::Exec => Some(EffectName::Exec),
        wire::Effect::Unspecified => None,
    });
    let description = Description {
        name: told.name.clone(),
        version: told.version.clone(),
        summary: told.summary.clone(),
        details: told.description.clone(),
        effects: effects.collect(),
        arguments: arguments.collect::<Option<_>>()?,
        examples: Vec::new(),
        commander: told.has_commander,
        sender: told.has_sender,
    };
    description.check().ok()?;
    Some(description.spec())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn description() -> Description {
        Description {
            name: "thumbs".into(),
            version: "1.0.0".into(),
            commander: true,
            ..Description::default()
        }
    }

    #[test]
    fn descriptions_beyond_their_limits_are_refused() {
        let long = "x".repeat(TEXT_BYTES + 1);
        let example = ExampleLine {
            command: String::new(),
            explanation: String::new(),
        };
        let bad = [
            Description {
                name: "../x".into(),
                ..description()
            },
            Description {
                name: "a/b".into(),
                ..description()
            },
            Description {
                summary: long,
                ..description()
            },
            Description {
                examples: vec![example; PARTS + 1],
                ..description()
            },
            Description {
                commander: false,
                ..description()
            },
            Description {
                details: "a title\x1b]2;x\x07".into(),
                ..description()
            },
        ];
        for one in bad {
            assert!(one.check().is_err(), "{one:?}");
        }
        assert_eq!(description().check(), Ok(()));
    }

    fn with_short(short: &str) -> Option<Spec> {
        let argument = wire::Argument {
            name: "follow".into(),
            kind: "flag".into(),
            short: short.into(),
            ..wire::Argument::default()
        };
        spec_from_wire(&wire::Spec {
            name: "tail".into(),
            version: "1".into(),
            has_commander: true,
            arguments: vec![argument],
            ..wire::Spec::default()
        })
    }

    #[test]
    fn a_one_letter_form_survives_the_wire_and_what_is_none_is_left_out() {
        let spec = with_short("f").unwrap();
        assert_eq!(spec.arguments[0].short, Some('f'));
        let again = wire::Spec {
            arguments: spec.arguments.iter().map(wire::Argument::from).collect(),
            ..wire::Spec::default()
        };
        assert_eq!(again.arguments[0].short, "f");
        for none in ["", "ff", "-", " ", "\u{e9}", "\n"] {
            let spec = with_short(none).unwrap();
            assert_eq!(spec.arguments[0].short, None, "{none:?}");
        }
    }

    #[test]
    fn an_unknown_key_in_a_description_is_an_error() {
        let text = r#"{"name":"a","version":"1","summary":"","colour":"red"}"#;
        let error = serde_json::from_str::<Description>(text).unwrap_err();
        assert!(error.to_string().contains("colour"), "{error}");
    }
}
