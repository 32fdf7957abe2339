//! `module.toml`: what lies in a module's folder.

use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use legatus_core::line_of;
use serde::Deserialize;
use thiserror::Error;

#[cfg(feature = "wasm")]
use super::description::Description;
use super::description::{Described, EffectName, ExampleLine, is_name};
use super::grants::Grants;

/// The file's name.
pub const MANIFEST: &str = "module.toml";

/// Bytes of a manifest, at most.
pub(crate) const MANIFEST_BYTES: u64 = 64 << 10;

/// What runs a module.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ModuleKind {
    /// A WebAssembly component of the contract's world.
    Wasm,
    /// A WebAssembly component of `wasi:cli/command`: standard input and output are the channel.
    Command,
    /// A library of the C contract, loaded in a process of its own.
    Native,
    /// An executable that speaks the contract's protocol on standard input and output.
    Executable,
}

impl ModuleKind {
    /// How it is called in manifests and lists.
    pub fn name(self) -> &'static str {
        match self {
            Self::Wasm => "wasm",
            Self::Command => "command",
            Self::Native => "native",
            Self::Executable => "executable",
        }
    }

    /// Whether it is machine code, which no sandbox keeps from lying.
    pub fn is_native(self) -> bool {
        matches!(self, Self::Native | Self::Executable)
    }
}

/// How much a call of a module may take. What a manifest asks for is cut to [`Limits::MOST`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of memory of one call.
    pub memory: u64,
    /// Time of the processor of one call.
    pub cpu: Duration,
    /// Lines in the log of one call.
    pub log_lines: u32,
    /// Calls at the same time.
    pub calls: u32,
}

impl Limits {
    /// What a module gets that asks for nothing: enough for a Python interpreter in WebAssembly
    /// (which starts with 40 MiB), and for a minute of computing.
    pub const DEFAULT: Self = Self {
        memory: 64 << 20,
        cpu: Duration::from_secs(60),
        log_lines: 1000,
        calls: 256,
    };

    /// What a module may get.
    pub const MOST: Self = Self {
        memory: 1 << 30,
        cpu: Duration::from_secs(24 * 3600),
        log_lines: 100_000,
        calls: 4096,
    };
}

/// A module's manifest.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
#[cfg_attr(
    not(feature = "wasm"),
    expect(
        dead_code,
        reason = "what plain commands tell is read with WebAssembly only"
    )
)]
pub(crate) struct Manifest {
    pub(crate) name: String,
    #[serde(default = "default_vendor")]
    pub(crate) vendor: String,
    pub(crate) version: String,
    pub(crate) kind: ModuleKind,
    /// The file that holds the code, within the folder.
    pub(crate) artefact: PathBuf,
    /// SHA-256 of the artefact, in hexadecimal.
    #[serde(default)]
    pub(crate) digest: Option<String>,
    /// The halves that it must have.
    #[serde(default)]
    pub(crate) halves: Option<Vec<HalfName>>,
    /// For modules that cannot describe themselves (kind `command`).
    #[serde(default)]
    pub(crate) summary: Option<String>,
    #[serde(default)]
    pub(crate) effects: Option<Vec<EffectName>>,
    #[serde(default, rename = "argument")]
    pub(crate) arguments: Vec<Described>,
    #[serde(default, rename = "example")]
    pub(crate) examples: Vec<ExampleLine>,
    #[serde(default)]
    pub(crate) grants: Grants,
    #[serde(default)]
    limits: WantedLimits,
}

/// One half of a module.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum HalfName {
    Commander,
    Sender,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
struct WantedLimits {
    /// MiB.
    memory: Option<u64>,
    /// Seconds.
    cpu: Option<f64>,
    log_lines: Option<u32>,
    calls: Option<u32>,
}

fn default_vendor() -> String {
    "local".to_owned()
}

/// A manifest that is of no use.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub(crate) enum InvalidManifest {
    #[error("{MANIFEST}, line {line}: {message}")]
    Syntax { line: usize, message: String },
    #[error("{MANIFEST}: `{0}` cannot be a name: names have 1 to 64 characters of [a-z0-9-]")]
    Name(String),
    #[error("{MANIFEST}: the artefact `{0}` does not lie in the module's folder")]
    Outside(String),
    #[error("{MANIFEST}: the digest is not 64 hexadecimal digits")]
    Digest,
    #[error("{MANIFEST}: an address in `connect` is not HOST:PORT")]
    Address,
}

impl Manifest {
    /// Reads a manifest.
    pub(crate) fn parse(text: &str) -> Result<Self, InvalidManifest> {
        let manifest: Self = toml::from_str(text).map_err(|error| {
            let start = error.span().map_or(0, |span| span.start);
            InvalidManifest::Syntax {
                line: line_of(text, start),
                message: error.message().trim_end().replace('\n', ": "),
            }
        })?;
        manifest.check()?;
        Ok(manifest)
    }

    fn check(&self) -> Result<(), InvalidManifest> {
        for name in [&self.name, &self.vendor] {
            if !is_name(name) {
                return Err(InvalidManifest::Name(name.chars().take(80).collect()));
            }
        }
        if !is_inside(&self.artefact) {
            return Err(InvalidManifest::Outside(
                self.artefact.display().to_string(),
            ));
        }
        let is_digest = |digest: &String| {
            digest.len() == 64 && digest.bytes().all(|byte| byte.is_ascii_hexdigit())
        };
        if !self.digest.as_ref().is_none_or(is_digest) {
            return Err(InvalidManifest::Digest);
        }
        if self.grants.addresses().any(|address| address.is_none()) {
            return Err(InvalidManifest::Address);
        }
        Ok(())
    }

    /// The limits that the module gets.
    pub(crate) fn limits(&self) -> Limits {
        let (wanted, most) = (self.limits, Limits::MOST);
        let base = Limits::DEFAULT;
        let memory = wanted
            .memory
            .map(|mebibytes| mebibytes.saturating_mul(1 << 20));
        let cpu = wanted
            .cpu
            .map(|seconds| Duration::try_from_secs_f64(seconds).unwrap_or(base.cpu));
        Limits {
            memory: memory.unwrap_or(base.memory).min(most.memory),
            cpu: cpu.unwrap_or(base.cpu).min(most.cpu),
            log_lines: wanted
                .log_lines
                .unwrap_or(base.log_lines)
                .min(most.log_lines),
            calls: wanted.calls.unwrap_or(base.calls).clamp(1, most.calls),
        }
    }

    /// What a module is said to be that cannot say it itself.
    #[cfg(feature = "wasm")]
    pub(crate) fn description(&self) -> Description {
        Description {
            name: self.name.clone(),
            version: self.version.clone(),
            summary: self.summary.clone().unwrap_or_default(),
            details: String::new(),
            effects: self.effects.clone().unwrap_or_default(),
            arguments: self.arguments.clone(),
            examples: self.examples.clone(),
            commander: true,
            sender: false,
        }
    }
}

/// Whether a path stays within its folder, as far as its text tells.
fn is_inside(path: &Path) -> bool {
    let mut parts = path.components();
    !path.as_os_str().is_empty() && parts.all(|part| matches!(part, Component::Normal(_)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: &str =
        "name = 'thumbs'\nversion = '1.0.0'\nkind = 'wasm'\nartefact = 'thumbs.wasm'\n";

    fn refused(extra: &str) -> String {
        Manifest::parse(&format!("{SMALL}{extra}"))
            .map(|_| ())
            .unwrap_err()
            .to_string()
    }

    #[test]
    fn an_unknown_key_is_an_error_with_its_line() {
        let error = refused("colour = 'red'\n");
        assert!(
            error.contains("line 5") && error.contains("colour"),
            "{error}"
        );
        let error = refused("[grants]\nnet = true\n");
        assert!(error.contains("line 6") && error.contains("net"), "{error}");
    }

    #[test]
    fn what_leads_out_of_the_folder_is_refused() {
        for artefact in ["../x.wasm", "/etc/passwd", "a/../../b", "", "."] {
            let text = SMALL.replace("thumbs.wasm", artefact);
            let error = Manifest::parse(&text).map(|_| ()).unwrap_err();
            assert!(matches!(error, InvalidManifest::Outside(_)), "{artefact}");
        }
    }

    #[test]
    fn malformed_values_are_refused() {
        assert!(refused("digest = 'abc'\n").contains("64"));
        assert!(refused("vendor = 'a/b'\n").contains("a/b"));
        let error = refused("[grants]\nread = ['srv']\n");
        assert!(
            error.contains("line 6") && error.contains("`srv` cannot be granted"),
            "{error}"
        );
        assert!(refused("[grants]\nconnect = ['nowhere']\n").contains("HOST:PORT"));
        let name = SMALL.replace("thumbs'", "a/b'");
        assert!(Manifest::parse(&name).is_err());
    }

    #[test]
    fn limits_have_defaults_and_ends() {
        let limits = |text: &str| Manifest::parse(&format!("{SMALL}{text}")).unwrap().limits();
        assert_eq!(limits(""), Limits::DEFAULT);
        let much = limits("[limits]\nmemory = 99999999\ncpu = 1e300\ncalls = 0\n");
        assert_eq!(much.memory, Limits::MOST.memory);
        assert_eq!((much.cpu, much.calls), (Limits::DEFAULT.cpu, 1));
        assert_eq!(
            limits("[limits]\ncpu = 0.2\n").cpu,
            Duration::from_millis(200)
        );
    }
}
