//! Every environment variable that Legatus reads, declared once.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fmt::Write;

/// An environment variable that Legatus reads.
#[derive(Clone, Copy, Debug)]
pub struct Variable {
    /// Its name.
    pub name: &'static str,
    /// What it is for, in one line.
    pub purpose: &'static str,
}

/// The certificate that this program shows.
pub const CERT: Variable = variable("LEGATUS_CERT", "Certificate to show (PEM file)");
/// The certificate's private key.
pub const KEY: Variable = variable("LEGATUS_KEY", "Private key of the certificate (PEM file)");
/// The certificates of the authorities to trust.
pub const CA: Variable = variable("LEGATUS_CA", "Authorities to trust (PEM file)");
/// The configuration file.
pub const CONFIG: Variable = variable("LEGATUS_CONFIG", "Configuration file");
/// What to log.
pub const LOG: Variable = variable(
    "LEGATUS_LOG",
    "What to log: error, warn, info, debug, trace, or filter directives",
);
/// Switches colours off.
pub const NO_COLOR: Variable = variable("NO_COLOR", "No colours if set (https://no-color.org)");
/// Keeps an interactive session from showing what has not come back.
pub const NO_PREDICTION: Variable = variable(
    legatus_modules::shell::NO_PREDICTION,
    "As --no-prediction always, if set: typed characters are shown when they have come back",
);
/// The user's home directory.
pub const HOME: Variable = variable("HOME", "The user's home directory");
/// Where the user's configuration lies.
pub const XDG_CONFIG_HOME: Variable = variable(
    "XDG_CONFIG_HOME",
    "Holds the folder `legatus` with the configuration; ~/.config without it",
);

/// All of them, in the order of help.
pub const ALL: [Variable; 9] = [
    CERT,
    KEY,
    CA,
    CONFIG,
    LOG,
    NO_PREDICTION,
    NO_COLOR,
    XDG_CONFIG_HOME,
    HOME,
];

const fn variable(name: &'static str, purpose: &'static str) -> Variable {
    Variable { name, purpose }
}

impl Variable {
    /// The purpose, with the variable's name, for the help of a flag that does the same.
    pub(crate) fn flag_help(self) -> String {
        format!("{} [env: {}]", self.purpose, self.name)
    }
}

/// The variables as a section of help.
pub(crate) fn help_section() -> String {
    let width = ALL.iter().map(|one| one.name.len()).max().unwrap_or(0);
    let mut text = String::from("Environment:");
    for Variable { name, purpose } in ALL {
        // Writing to a String cannot fail.
        write!(text, "\n  {name:width$}  {purpose}").ok();
    }
    text
}

/// The values of environment variables: those of the process, or given ones.
#[derive(Clone, Debug, Default)]
pub enum Environment {
    /// Those of the process.
    #[default]
    Process,
    /// These only.
    Fixed(HashMap<String, OsString>),
}

impl Environment {
    /// An environment of these variables only.
    pub fn fixed<const N: usize>(variables: [(Variable, &str); N]) -> Self {
        let pairs = variables.map(|(variable, value)| (variable.name.to_owned(), value.into()));
        Self::Fixed(HashMap::from(pairs))
    }

    /// A variable's value; an empty one counts as none.
    pub fn value(&self, variable: Variable) -> Option<OsString> {
        let value = match self {
            Self::Process => std::env::var_os(variable.name),
            Self::Fixed(variables) => variables.get(variable.name).cloned(),
        };
        value.filter(|value| !value.is_empty())
    }
}
