//! Data about a module: it feeds help, completion, policy, audit and documentation.

use std::borrow::Cow;
use std::fmt;

/// What a call may do to the server's machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Effect {
    /// It reads.
    Read,
    /// It changes files or state.
    Write,
    /// It runs programs, or ends them.
    Exec,
}

impl Effect {
    /// All effects.
    pub const ALL: [Self; 3] = [Self::Read, Self::Write, Self::Exec];

    /// The effect's name in policies, help and the audit.
    pub fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Exec => "exec",
        }
    }

    const fn bit(self) -> u8 {
        match self {
            Self::Read => 1,
            Self::Write => 2,
            Self::Exec => 4,
        }
    }
}

impl fmt::Display for Effect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A set of [`Effect`]s.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Effects(u8);

impl Effects {
    /// No effect at all.
    pub const NONE: Self = Self(0);
    /// Reading only.
    pub const READ: Self = Self(Effect::Read.bit());
    /// Writing only.
    pub const WRITE: Self = Self(Effect::Write.bit());
    /// Running programs only.
    pub const EXEC: Self = Self(Effect::Exec.bit());
    /// Everything.
    pub const ALL: Self = Self(7);

    /// This set with those of another.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether this set has that effect.
    pub const fn contains(self, effect: Effect) -> bool {
        self.0 & effect.bit() != 0
    }

    /// Whether this set has all effects of another.
    pub const fn covers(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether this set shares an effect with another.
    pub const fn intersects(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// The effects of this set.
    pub fn iter(self) -> impl Iterator<Item = Effect> {
        Effect::ALL
            .into_iter()
            .filter(move |effect| self.contains(*effect))
    }
}

impl FromIterator<Effect> for Effects {
    fn from_iter<I: IntoIterator<Item = Effect>>(effects: I) -> Self {
        effects
            .into_iter()
            .fold(Self::NONE, |set, effect| Self(set.0 | effect.bit()))
    }
}

impl fmt::Debug for Effects {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

impl fmt::Display for Effects {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.iter().map(Effect::name).collect();
        f.write_str(&names.join("+"))
    }
}

/// How a user names the host to call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Target {
    /// As the first argument: `legatus MODULE HOST ...`.
    #[default]
    First,
    /// Inside arguments of the kind [`ValueKind::Location`]: `legatus MODULE a HOST:b`.
    InLocations,
}

/// Where a Commander runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Placement {
    /// In a child process of its own, which takes the caller's rights before it does anything.
    /// Whatever touches files or processes runs there.
    #[default]
    Child,
    /// Inside the server, for Commanders that need no rights of their own.
    Server,
}

/// How an argument is written on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArgumentKind {
    /// By its place.
    Positional,
    /// `--name VALUE`.
    Option,
    /// `--name`.
    Flag,
    /// Everything after `--`, exactly as it stands.
    Trailing,
}

/// What an argument's value is; for help, completion and early errors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ValueKind {
    /// Any bytes.
    #[default]
    Text,
    /// A whole number, 0 or more.
    Number,
    /// A path on the client's machine.
    Path,
    /// `PATH` or `HOST:PATH`, see [`Location`](crate::Location).
    Location,
    /// An octal file mode such as `0755`.
    Mode,
    /// A number of bytes such as `4096`, `10M` or `1.5G`.
    Size,
    /// A length of time such as `90`, `1.5s`, `2m`, `1h` or `500ms`.
    Duration,
}

/// Text of a [`Spec`]: part of the program for built-in modules, owned for external ones.
pub type Text = Cow<'static, str>;

/// One argument of a module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Argument {
    /// Its name; for options and flags what follows `--`.
    pub name: Text,
    /// A one-letter form, without the dash.
    pub short: Option<char>,
    /// How it is written.
    pub kind: ArgumentKind,
    /// What its value is.
    pub value: ValueKind,
    /// How help names the value, in capitals.
    pub value_name: Text,
    /// What it does, in one line.
    pub help: Text,
    /// Whether it must be given.
    pub required: bool,
    /// Whether it may be given more than once.
    pub repeated: bool,
    /// Names of arguments that it excludes.
    pub conflicts: Vec<Text>,
}

impl Argument {
    fn of(
        kind: ArgumentKind,
        name: impl Into<Text>,
        value_name: impl Into<Text>,
        help: impl Into<Text>,
    ) -> Self {
        Self {
            name: name.into(),
            short: None,
            kind,
            value: ValueKind::Text,
            value_name: value_name.into(),
            help: help.into(),
            required: false,
            repeated: false,
            conflicts: Vec::new(),
        }
    }

    /// `--name VALUE`.
    pub fn option(
        name: impl Into<Text>,
        value_name: impl Into<Text>,
        help: impl Into<Text>,
    ) -> Self {
        Self::of(ArgumentKind::Option, name, value_name, help)
    }

    /// `--name`.
    pub fn flag(name: impl Into<Text>, help: impl Into<Text>) -> Self {
        Self::of(ArgumentKind::Flag, name, "", help)
    }

    /// An argument known by its place.
    pub fn positional(
        name: impl Into<Text>,
        value_name: impl Into<Text>,
        help: impl Into<Text>,
    ) -> Self {
        Self::of(ArgumentKind::Positional, name, value_name, help)
    }

    /// Everything after `--`.
    pub fn trailing(
        name: impl Into<Text>,
        value_name: impl Into<Text>,
        help: impl Into<Text>,
    ) -> Self {
        Self::of(ArgumentKind::Trailing, name, value_name, help).repeated()
    }

    /// Gives it a one-letter form.
    #[must_use]
    pub fn short(mut self, letter: char) -> Self {
        self.short = Some(letter);
        self
    }

    /// Says what its value is.
    #[must_use]
    pub fn value(mut self, value: ValueKind) -> Self {
        self.value = value;
        self
    }

    /// It must be given.
    #[must_use]
    pub fn required(mut self) -> Self {
        self.required = true;
        self
    }

    /// It may be given more than once.
    #[must_use]
    pub fn repeated(mut self) -> Self {
        self.repeated = true;
        self
    }

    /// It excludes these arguments.
    #[must_use]
    pub fn conflicts(mut self, names: &[&'static str]) -> Self {
        self.conflicts = names.iter().map(|name| Text::from(*name)).collect();
        self
    }
}

/// A command line that works, and what it does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Example {
    /// The command line, as typed, beginning with `legatus`.
    pub command: Text,
    /// What it does.
    pub explanation: Text,
}

impl Example {
    /// A command line that works, and what it does.
    pub fn new(command: impl Into<Text>, explanation: impl Into<Text>) -> Self {
        Self {
            command: command.into(),
            explanation: explanation.into(),
        }
    }
}

/// A further name of a module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alias {
    /// The name.
    pub name: Text,
    /// What it does; empty if it is only another name.
    pub summary: Text,
    /// Positional arguments that the name stands for: they are put before what the user typed.
    pub arguments: Vec<Text>,
}

impl Alias {
    /// Only another name.
    pub fn name(name: impl Into<Text>) -> Self {
        Self {
            name: name.into(),
            summary: Text::default(),
            arguments: Vec::new(),
        }
    }

    /// A name that stands for the module with these positional arguments.
    pub fn with_arguments(
        name: impl Into<Text>,
        summary: impl Into<Text>,
        arguments: &[&'static str],
    ) -> Self {
        Self {
            name: name.into(),
            summary: summary.into(),
            arguments: arguments.iter().map(|value| Text::from(*value)).collect(),
        }
    }
}

/// Data about a module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Spec {
    /// Its name: lower case, `[a-z0-9-]`.
    pub name: Text,
    /// Further names.
    pub aliases: Vec<Alias>,
    /// Its version.
    pub version: Text,
    /// What it does, in one line.
    pub summary: Text,
    /// What it does, at length.
    pub description: Text,
    /// All that any of its calls may do; a single call may do less
    /// ([`Commander::inspect`](crate::Commander::inspect)).
    pub effects: Effects,
    /// How a user names the host.
    pub target: Target,
    /// Where its Commander runs.
    pub placement: Placement,
    /// Its arguments, in the order of help; positional ones in the order of typing.
    pub arguments: Vec<Argument>,
    /// Command lines that work.
    pub examples: Vec<Example>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn effects_behave_as_sets() {
        let both = Effects::READ.union(Effects::EXEC);
        assert!(both.contains(Effect::Read) && both.contains(Effect::Exec));
        assert!(!both.contains(Effect::Write));
        assert!(both.covers(Effects::READ) && !both.covers(Effects::ALL));
        assert!(both.intersects(Effects::EXEC) && !both.intersects(Effects::WRITE));
        assert_eq!(both.iter().collect::<Effects>(), both);
        assert_eq!(both.to_string(), "read+exec");
    }
}
