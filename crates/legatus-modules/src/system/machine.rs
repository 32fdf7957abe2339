//! What this machine is and how it is.

use std::fs::File;
use std::io::{self, Read};
use std::thread::available_parallelism;

use super::messages::Info;

/// Everything but the server.
pub(super) fn info() -> Info {
    let name = rustix::system::uname();
    let facts = rustix::system::sysinfo();
    // A fixed point number with 16 binary places, see sysinfo(2).
    let load = facts.loads.map(|load| {
        #[expect(clippy::cast_precision_loss, reason = "two decimals are shown")]
        let load = load as f64 / 65536.0;
        load
    });
    let memory = read_start("/proc/meminfo").unwrap_or_default();
    Info {
        name: name.nodename().to_string_lossy().into_owned(),
        system: system(),
        kernel: format!(
            "{} {}",
            name.sysname().to_string_lossy(),
            name.release().to_string_lossy()
        ),
        architecture: name.machine().to_string_lossy().into_owned(),
        processors: available_parallelism().map_or(0, |count| count.get().try_into().unwrap_or(0)),
        memory_bytes: memory_field(&memory, "MemTotal:").unwrap_or_default(),
        memory_available_bytes: memory_field(&memory, "MemAvailable:").unwrap_or_default(),
        load: load.to_vec(),
        uptime_seconds: facts.uptime.try_into().unwrap_or_default(),
        server: None,
    }
}

/// The operating system's name for itself, from where os-release(5) says.
fn system() -> String {
    ["/etc/os-release", "/usr/lib/os-release"]
        .iter()
        .filter_map(|path| pretty_name(&read_start(path).ok()?))
        .next()
        .unwrap_or_else(|| "Linux".to_owned())
}

/// A file's first 64 KiB, far more than such files have.
fn read_start(path: &str) -> io::Result<String> {
    let mut bytes = Vec::new();
    File::open(path)?.take(64 << 10).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// `PRETTY_NAME` of an os-release(5) file: the shell's quoting, without its substitutions.
fn pretty_name(text: &str) -> Option<String> {
    let value = text
        .lines()
        .rev()
        .find_map(|line| line.trim().strip_prefix("PRETTY_NAME="))?;
    let quoted = |quote| value.strip_prefix(quote)?.strip_suffix(quote);
    let name = match (quoted('"'), quoted('\'')) {
        (Some(value), _) => unescaped(value),
        (None, Some(value)) => value.to_owned(),
        (None, None) => unescaped(value),
    };
    (!name.is_empty()).then_some(name)
}

fn unescaped(value: &str) -> String {
    let mut name = String::new();
    let mut characters = value.chars();
    while let Some(character) = characters.next() {
        match character {
            '\\' => name.extend(characters.next()),
            other => name.push(other),
        }
    }
    name
}

/// A field of `/proc/meminfo`, in bytes.
fn memory_field(text: &str, name: &str) -> Option<u64> {
    let value = text.lines().find_map(|line| line.strip_prefix(name))?;
    let kibibytes: u64 = value.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kibibytes.checked_mul(1 << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_that_say_nothing_useful_yield_nothing() {
        for text in [
            "",
            "NAME=x",
            "PRETTY_NAME=",
            "PRETTY_NAME=\"\"",
            "XPRETTY_NAME=x",
        ] {
            assert_eq!(pretty_name(text), None, "{text:?}");
        }
        for text in ["", "MemAvailable:", "MemAvailable: x kB", "MemAvailable: 5"] {
            assert_eq!(memory_field(text, "MemAvailable:"), None, "{text:?}");
        }
        assert_eq!(
            memory_field(&format!("MemAvailable: {} kB", u64::MAX), "MemAvailable:"),
            None
        );
    }

    #[test]
    fn names_are_unquoted() {
        for (text, name) in [
            (
                "ID=a\nPRETTY_NAME=\"Debian GNU/Linux 12\"\n",
                "Debian GNU/Linux 12",
            ),
            ("PRETTY_NAME='A \\ B'", "A \\ B"),
            (r#"PRETTY_NAME="A \"B\" \$C""#, r#"A "B" $C"#),
            ("PRETTY_NAME=Arch", "Arch"),
            ("PRETTY_NAME=old\nPRETTY_NAME=new", "new"),
            ("PRETTY_NAME=\"", "\""),
        ] {
            assert_eq!(pretty_name(text).as_deref(), Some(name), "{text:?}");
        }
    }

    #[test]
    fn available_memory_is_in_bytes() {
        let text = "MemTotal:       8000 kB\nMemAvailable:   4000 kB\n";
        assert_eq!(memory_field(text, "MemAvailable:"), Some(4_096_000));
    }

    #[test]
    fn this_machine_has_a_kernel_a_processor_and_memory() {
        let info = info();
        assert!(info.kernel.starts_with("Linux "), "{info:?}");
        assert!(info.processors >= 1 && info.load.len() == 3);
        assert!(info.memory_bytes > info.memory_available_bytes);
        assert!(info.uptime_seconds > 0);
    }
}
