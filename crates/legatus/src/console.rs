//! Text for people on standard error, and lines for machines on standard output.

use std::borrow::Cow;
use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;

use clap::builder::styling::{AnsiColor, Style};

use crate::environment::{self, Environment};
use crate::local::descriptor;

/// Marks what went wrong.
pub(crate) const ALARM: Style = AnsiColor::Red.on_default().bold();
/// Marks what the user could do next.
pub(crate) const ADVICE: Style = AnsiColor::Cyan.on_default();

/// Whether text on standard error may have colours.
pub(crate) fn stderr_has_colours() -> bool {
    io::stderr().is_terminal() && Environment::Process.value(environment::NO_COLOR).is_none()
}

/// A word in a style, if there are colours.
pub(crate) fn styled(word: &str, style: Style, colours: bool) -> String {
    if colours {
        format!("{style}{word}{style:#}")
    } else {
        word.to_owned()
    }
}

/// A text in one line, with nothing in it that could steer a terminal: what servers and file names
/// say is shown, never obeyed.
pub(crate) fn printable(text: &str) -> Cow<'_, str> {
    if !text.contains(char::is_control) {
        return Cow::Borrowed(text);
    }
    let escape = |character: char| {
        let escaped = character.is_control().then(|| character.escape_default());
        let plain = (!character.is_control()).then_some(character);
        escaped.into_iter().flatten().chain(plain)
    };
    Cow::Owned(text.chars().flat_map(escape).collect())
}

/// Writes to standard error. There is nobody to tell if that fails. A terminal that shows nothing
/// any more cannot hold the program.
pub(crate) fn complain(text: &str) {
    let mut stderr = io::stderr().lock();
    if stderr.is_terminal()
        && let Some(terminal) = descriptor::reopen_unblocked(stderr.as_fd())
    {
        descriptor::write_patiently(terminal.as_fd(), text);
        return;
    }
    stderr.write_all(text.as_bytes()).ok();
}

/// Writes to standard output.
///
/// # Errors
/// Those of `write(2)`; a closed pipe among them.
pub(crate) fn print(text: &[u8]) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text)?;
    stdout.flush()
}

/// Writes text with styles to standard output, without them where there should be no colours.
///
/// # Errors
/// Those of `write(2)`; a closed pipe among them.
pub(crate) fn print_styled(text: &clap::builder::StyledStr) -> io::Result<()> {
    let no_colour = Environment::Process.value(environment::NO_COLOR).is_some();
    let colours = io::stdout().is_terminal() && !no_colour;
    let text = if colours {
        text.ansi().to_string()
    } else {
        text.to_string()
    };
    print(text.as_bytes())
}
