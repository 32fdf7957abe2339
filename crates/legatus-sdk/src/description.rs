//! What a module tells about itself.

/// What a module tells about itself.
#[derive(Clone, Debug, Default)]
pub struct Description {
    /// Lower case, `[a-z0-9-]`.
    pub name: &'static str,
    /// Its version.
    pub version: &'static str,
    /// What it does, in one line.
    pub summary: &'static str,
    /// What it does, at length.
    pub details: &'static str,
    /// All that any of its calls may do.
    pub effects: Effects,
    /// Its arguments.
    pub arguments: Vec<Argument>,
    /// Command lines that work, beginning with `legatus`, and what they do.
    pub examples: Vec<(&'static str, &'static str)>,
}

impl Description {
    /// A module without arguments and effects.
    pub fn new(name: &'static str, version: &'static str, summary: &'static str) -> Self {
        Self {
            name,
            version,
            summary,
            ..Self::default()
        }
    }
}

/// What calls may do to the machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct Effects {
    /// They read.
    pub read: bool,
    /// They change files or state.
    pub write: bool,
    /// They run programs.
    pub exec: bool,
}

impl Effects {
    /// As both contracts write them.
    pub(crate) fn bits(self) -> u8 {
        u8::from(self.read) | u8::from(self.write) << 1 | u8::from(self.exec) << 2
    }
}

/// How an argument is written.
#[derive(Clone, Copy, Debug, Default)]
pub enum Kind {
    /// By its place.
    #[default]
    Positional,
    /// `--name VALUE`.
    Option,
    /// `--name`.
    Flag,
    /// Everything after `--`.
    Trailing,
}

/// What an argument's value is.
#[derive(Clone, Copy, Debug, Default)]
pub enum Value {
    /// Any bytes.
    #[default]
    Text,
    /// A whole number.
    Number,
    /// A path on the client's machine.
    Path,
    /// `PATH` or `HOST:PATH`.
    Location,
    /// An octal file mode.
    Mode,
    /// A length of time.
    Duration,
}

/// One argument.
#[derive(Clone, Debug, Default)]
pub struct Argument {
    /// For options and flags what follows `--`.
    pub name: &'static str,
    /// How it is written.
    pub kind: Kind,
    /// What its value is.
    pub value: Value,
    /// How help names the value.
    pub value_name: &'static str,
    /// What it does.
    pub help: &'static str,
    /// A one-letter form.
    pub short: Option<char>,
    /// Whether it must be given.
    pub required: bool,
    /// Whether it may be given more than once.
    pub repeated: bool,
}
