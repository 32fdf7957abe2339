//! A module's subcommands, made from its [`Spec`].

use std::ffi::OsString;
use std::fmt::Write;

use clap::builder::{OsStringValueParser, TypedValueParser};
use clap::{Arg, ArgAction, Command, ValueHint};
use legatus_core::{
    Alias, Argument, ArgumentError, ArgumentKind, Arguments, Host, Spec, Target, ValueKind,
};

/// The id of the argument that names the host. Ids of a module's own arguments have a prefix, so
/// that they cannot meet this one or those of global flags.
pub(crate) const HOST: &str = "host";

/// The id of a module's argument.
pub(crate) fn id(argument: &Argument) -> String {
    format!("module.{}", argument.name)
}

/// The subcommands of a module: one of its own name, and one for each alias that stands for
/// arguments.
pub(crate) fn commands(spec: &Spec) -> impl Iterator<Item = Command> {
    let plain = spec.aliases.iter().filter(|alias| is_plain(alias));
    let own = command(spec, &spec.name, &[])
        .about(spec.summary.to_string())
        .visible_aliases(plain.map(|alias| alias.name.to_string()));
    let others = spec.aliases.iter().filter(|alias| !is_plain(alias));
    let others = others.map(|alias| {
        let preset = Preset::of(spec, alias);
        command(spec, &alias.name, &preset.filled).about(alias.summary.to_string())
    });
    std::iter::once(own).chain(others)
}

/// The subcommand of a module's exact name.
pub(crate) fn exact(spec: &Spec, name: &str) -> Command {
    let command = command(spec, name, &[]).about(spec.summary.to_string());
    command.hide(true)
}

fn is_plain(alias: &Alias) -> bool {
    alias.arguments.is_empty()
}

/// What an alias says of a module's positional arguments.
pub(crate) struct Preset<'a> {
    /// The values by argument.
    pub(crate) values: Vec<(&'a Argument, OsString)>,
    /// The arguments that the alias fills, so that the user cannot give them (more of) himself.
    filled: Vec<&'a Argument>,
}

impl<'a> Preset<'a> {
    /// Hands the alias's values to the positional arguments, in their order; a repeated argument
    /// takes all that are left, and the user may add to it.
    pub(crate) fn of(spec: &'a Spec, alias: &Alias) -> Self {
        let mut preset = Self {
            values: Vec::new(),
            filled: Vec::new(),
        };
        let mut values = alias
            .arguments
            .iter()
            .map(|text| OsString::from(text.as_ref()));
        for argument in positional(spec) {
            if argument.repeated {
                preset
                    .values
                    .extend(values.by_ref().map(|value| (argument, value)));
            } else if let Some(value) = values.next() {
                preset.values.push((argument, value));
                preset.filled.push(argument);
            }
        }
        preset
    }
}

fn positional(spec: &Spec) -> impl Iterator<Item = &Argument> {
    let all = spec.arguments.iter();
    all.filter(|argument| argument.kind == ArgumentKind::Positional)
}

fn command(spec: &Spec, name: &str, without: &[&Argument]) -> Command {
    let mut command = Command::new(name.to_owned())
        .version(spec.version.to_string())
        .disable_version_flag(true);
    if !spec.description.is_empty() {
        command = command.long_about(format!("{}\n\n{}", spec.summary, spec.description));
    }
    if !spec.examples.is_empty() {
        command = command.after_help(examples(spec));
    }
    if spec.target == Target::First {
        command = command.arg(host());
    }
    let is_open = |argument: &&Argument| !without.contains(argument);
    let open: Vec<_> = spec.arguments.iter().filter(is_open).collect();
    command.args(
        open.iter()
            .map(|one| argument(one).conflicts_with_all(conflicts(one, &open))),
    )
}

/// The ids of those of `open` that an argument excludes.
fn conflicts<'a>(argument: &'a Argument, open: &'a [&Argument]) -> impl Iterator<Item = String> {
    let is_excluded = |other: &&&Argument| argument.conflicts.contains(&other.name);
    open.iter().filter(is_excluded).map(|other| id(other))
}

fn host() -> Arg {
    Arg::new(HOST)
        .value_name("HOST")
        .help("The host to call: NAME, NAME:PORT, [IPV6]:PORT, or `local`")
        .required(true)
        .value_hint(ValueHint::Hostname)
        .value_parser(|text: &str| text.parse::<Host>())
}

fn argument(argument: &Argument) -> Arg {
    let arg = Arg::new(id(argument))
        .help(argument.help.to_string())
        .required(argument.required);
    let arg = match argument.kind {
        ArgumentKind::Flag => return named(arg, argument).action(ArgAction::SetTrue),
        // Whatever follows an option is its value, as getopt(3) has it: `-c -x` passes `-x`.
        ArgumentKind::Option => named(arg, argument).allow_hyphen_values(true),
        ArgumentKind::Positional if argument.repeated => arg.num_args(1..),
        ArgumentKind::Positional => arg,
        ArgumentKind::Trailing => arg.last(true).num_args(1..),
    };
    let repeated = argument.repeated || argument.kind == ArgumentKind::Trailing;
    arg.action(if repeated {
        ArgAction::Append
    } else {
        ArgAction::Set
    })
    .value_name(value_name(argument))
    .value_hint(hint(argument))
    .value_parser(value_parser(argument.value))
}

fn named(arg: Arg, argument: &Argument) -> Arg {
    let arg = arg.long(argument.name.to_string());
    match argument.short {
        Some(letter) => arg.short(letter),
        None => arg,
    }
}

fn value_name(argument: &Argument) -> String {
    if argument.value_name.is_empty() {
        argument.name.to_uppercase()
    } else {
        argument.value_name.to_string()
    }
}

fn hint(argument: &Argument) -> ValueHint {
    match (argument.value, argument.kind) {
        (ValueKind::Path | ValueKind::Location, _) => ValueHint::AnyPath,
        (ValueKind::Text, ArgumentKind::Trailing) => ValueHint::CommandWithArguments,
        (ValueKind::Text | ValueKind::Number | ValueKind::Mode | ValueKind::Duration, _) => {
            ValueHint::Unknown
        }
    }
}

/// Values stay bytes; those of a kind that can be wrong are refused at once.
fn value_parser(kind: ValueKind) -> impl TypedValueParser<Value = OsString> {
    OsStringValueParser::new().try_map(move |value| match check(kind, value.clone()) {
        Ok(()) => Ok(value),
        Err(error) => Err(error.expected),
    })
}

fn check(kind: ValueKind, value: OsString) -> Result<(), ArgumentError> {
    let arguments = Arguments::new().with("", value);
    match kind {
        ValueKind::Number => arguments.number("").map(drop),
        ValueKind::Mode => arguments.mode("").map(drop),
        ValueKind::Duration => arguments.duration("").map(drop),
        ValueKind::Text | ValueKind::Path | ValueKind::Location => Ok(()),
    }
}

fn examples(spec: &Spec) -> String {
    let mut text = String::from("Examples:");
    for example in &spec.examples {
        // Writing to a String cannot fail.
        write!(
            text,
            "\n  {}\n      {}",
            example.command, example.explanation
        )
        .ok();
    }
    text
}
