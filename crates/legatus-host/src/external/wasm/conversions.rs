//! The contract's records in the component model, and ours.

use bytes::Bytes;
use legatus_core::Call;

use super::bindings::exports::legatus::module::commander;
use super::bindings::legatus::module::types;
use crate::external::description::{Described, Description, EffectName, ExampleLine, Kind, Value};
use crate::external::runner::milliseconds_left;

pub(super) fn told_call(call: Call) -> commander::Call {
    commander::Call {
        id: call.id().to_string(),
        peer: call.peer().identity().to_owned(),
        milliseconds: milliseconds_left(&call),
        arguments: call
            .request
            .arguments
            .iter()
            .map(|one| one.to_vec())
            .collect(),
    }
}

pub(super) fn given((name, values): (String, Vec<Bytes>)) -> types::Given {
    types::Given {
        name,
        values: values.into_iter().map(Vec::from).collect(),
    }
}

impl From<types::Description> for Description {
    fn from(told: types::Description) -> Self {
        let effects = [
            (types::Effects::READ, EffectName::Read),
            (types::Effects::WRITE, EffectName::Write),
            (types::Effects::EXEC, EffectName::Exec),
        ];
        let effects = effects.into_iter();
        Self {
            name: told.name,
            version: told.version,
            summary: told.summary,
            details: told.details,
            effects: effects
                .filter_map(|(flag, name)| told.effects.contains(flag).then_some(name))
                .collect(),
            arguments: told.arguments.into_iter().map(Described::from).collect(),
            examples: told
                .examples
                .into_iter()
                .map(|one| ExampleLine {
                    command: one.command,
                    explanation: one.explanation,
                })
                .collect(),
            commander: told.commander,
            sender: told.sender,
        }
    }
}

impl From<types::Argument> for Described {
    fn from(told: types::Argument) -> Self {
        Self {
            name: told.name,
            short: told.short,
            kind: match told.kind {
                types::ArgumentKind::Positional => Kind::Positional,
                types::ArgumentKind::Option => Kind::Option,
                types::ArgumentKind::Flag => Kind::Flag,
                types::ArgumentKind::Trailing => Kind::Trailing,
            },
            value: match told.value {
                types::ValueKind::Text => Value::Text,
                types::ValueKind::Number => Value::Number,
                types::ValueKind::Path => Value::Path,
                types::ValueKind::Location => Value::Location,
                types::ValueKind::Mode => Value::Mode,
                types::ValueKind::Duration => Value::Duration,
            },
            value_name: told.value_name,
            help: told.help,
            required: told.required,
            repeated: told.repeated,
        }
    }
}
