//! `legatus modules new NAME --lang LANGUAGE`: a project that builds and passes its own test.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use legatus_core::Fault;

use crate::console;

/// The flags of `legatus modules new`.
#[derive(clap::Args, Clone, Debug)]
pub(super) struct New {
    /// The module's name: [a-z0-9-]
    name: String,
    /// The language
    #[arg(long, value_enum, value_name = "LANGUAGE")]
    lang: Language,
    /// The folder to make [default: NAME]
    #[arg(long, value_name = "DIR", value_hint = clap::ValueHint::DirPath)]
    dir: Option<PathBuf>,
}

#[derive(clap::ValueEnum, Clone, Copy, Debug)]
enum Language {
    /// A library
    Rust,
    /// A library
    C,
    /// An executable
    Python,
    /// An executable for Node.js
    Javascript,
}

/// A file of a project; `NAME` in it is the module's.
struct Template {
    path: &'static str,
    text: &'static str,
    executable: bool,
}

const fn template(path: &'static str, text: &'static str) -> Template {
    Template {
        path,
        text,
        executable: false,
    }
}

const HEADER: &str = include_str!("../../../../../include/legatus_module.h");

impl Language {
    fn files(self) -> Vec<Template> {
        match self {
            Self::Rust => vec![
                template("Cargo.toml", include_str!("templates/rust/Cargo.toml.in")),
                template("src/lib.rs", include_str!("templates/rust/lib.rs.in")),
                template("sdk/Cargo.toml", include_str!("templates/rust/sdk.toml.in")),
                template(
                    "sdk/src/lib.rs",
                    include_str!("../../../../legatus-sdk/src/lib.rs"),
                ),
                template("module.toml", include_str!("templates/rust/module.toml")),
                template("Makefile", include_str!("templates/rust/Makefile")),
            ],
            Self::C => vec![
                template("NAME.c", include_str!("templates/c/NAME.c")),
                template("legatus_module.h", HEADER),
                template("module.toml", include_str!("templates/c/module.toml")),
                template("Makefile", include_str!("templates/c/Makefile")),
            ],
            Self::Python => vec![
                Template {
                    executable: true,
                    ..template("NAME", include_str!("templates/python/NAME"))
                },
                template("module.toml", include_str!("templates/python/module.toml")),
                template("Makefile", include_str!("templates/Makefile")),
            ],
            Self::Javascript => vec![
                Template {
                    executable: true,
                    ..template("NAME", include_str!("templates/javascript/NAME"))
                },
                template("module.toml", include_str!("templates/python/module.toml")),
                template("Makefile", include_str!("templates/Makefile")),
            ],
        }
    }
}

impl New {
    pub(super) fn run(&self) -> Result<ExitCode> {
        let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if !(1..=64).contains(&self.name.len()) || !self.name.bytes().all(fits) {
            bail!(
                "`{}` is no name: names have 1 to 64 characters of [a-z0-9-]",
                self.name
            );
        }
        let folder = self
            .dir
            .clone()
            .unwrap_or_else(|| PathBuf::from(&self.name));
        if folder.exists() {
            let exists = Fault::new(format!("`{}` exists already", folder.display()));
            bail!(exists.with_hint("name another folder with --dir"));
        }
        for file in self.lang.files() {
            let path = folder.join(file.path.replace("NAME", &self.name));
            if let Some(parent) = path.parent() {
                fs::create_dir_all(parent)?;
            }
            let snake = self.name.replace('-', "_");
            let text = file
                .text
                .replace("NAME_SNAKE", &snake)
                .replace("NAME", &self.name);
            fs::write(&path, text).with_context(|| format!("cannot write `{}`", path.display()))?;
            let mode = if file.executable { 0o755 } else { 0o644 };
            fs::set_permissions(&path, fs::Permissions::from_mode(mode))?;
        }
        let next = format!(
            "made {0}/\nbuild and test it:  make -C {0} && make -C {0} test\n",
            folder.display()
        );
        console::print(next.as_bytes())?;
        Ok(ExitCode::SUCCESS)
    }
}
