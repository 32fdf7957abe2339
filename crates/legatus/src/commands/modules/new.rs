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
    /// A WebAssembly component, in the place of a library or an executable
    #[arg(long)]
    wasm: bool,
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

/// A file of a project; `NAME` in a template is the module's.
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

/// A file of a template's folder.
macro_rules! from {
    ($path:literal <- $file:literal) => {
        template($path, include_str!(concat!("templates/", $file)))
    };
}

/// A file of the SDK, of which a project gets a copy.
macro_rules! sdk {
    ($($file:literal),+ $(,)?) => {
        [$(template(
            concat!("sdk/src/", $file),
            include_str!(concat!("../../../../legatus-sdk/src/", $file)),
        )),+]
    };
}

const HEADER: &str = include_str!("../../../../../include/legatus_module.h");
const WIT: &str = include_str!("../../../../../wit/v1/module.wit");

const RUST: [Template; 3] = [
    from!("Cargo.toml" <- "rust/Cargo.toml.in"),
    from!("src/lib.rs" <- "rust/lib.rs.in"),
    from!("sdk/Cargo.toml" <- "rust/sdk.toml.in"),
];

const SDK: [Template; 10] = sdk![
    "description.rs",
    "entries.rs",
    "host.rs",
    "lib.rs",
    "native/mod.rs",
    "native/tables.rs",
    "panics.rs",
    "wasm/imports.rs",
    "wasm/mod.rs",
    "wasm/records.rs",
];

impl Language {
    /// The files of a project that makes a library or an executable.
    fn files(self) -> Vec<Template> {
        let executable = |template| Template {
            executable: true,
            ..template
        };
        match self {
            Self::Rust => {
                let own = [
                    from!("module.toml" <- "rust/module.toml"),
                    from!("Makefile" <- "rust/Makefile"),
                ];
                rust(own).collect()
            }
            Self::C => vec![
                from!("NAME.c" <- "c/NAME.c"),
                template("legatus_module.h", HEADER),
                from!("module.toml" <- "c/module.toml"),
                from!("Makefile" <- "c/Makefile"),
            ],
            Self::Python => vec![
                executable(from!("NAME" <- "python/NAME")),
                from!("module.toml" <- "python/module.toml"),
                from!("Makefile" <- "Makefile"),
            ],
            Self::Javascript => vec![
                executable(from!("NAME" <- "javascript/NAME")),
                from!("module.toml" <- "python/module.toml"),
                from!("Makefile" <- "Makefile"),
            ],
        }
    }

    /// The files of a project that makes a WebAssembly component.
    fn wasm_files(self) -> Result<Vec<Template>> {
        let manifest = from!("module.toml" <- "wasm/module.toml");
        let wit = template("wit/module.wit", WIT);
        Ok(match self {
            Self::Rust => rust([manifest, from!("Makefile" <- "wasm/rust.mk")]).collect(),
            Self::Python => vec![
                from!("app.py" <- "wasm/app.py"),
                from!("Makefile" <- "wasm/python.mk"),
                manifest,
                wit,
            ],
            Self::Javascript => vec![
                from!("app.js" <- "wasm/app.js"),
                from!("Makefile" <- "wasm/javascript.mk"),
                manifest,
                wit,
            ],
            Self::C => bail!(
                Fault::new("there is no template of a WebAssembly module in C")
                    .with_hint("leave out --wasm, or take wit-bindgen and wit/v1/module.wit")
            ),
        })
    }
}

/// The files of a project in Rust.
fn rust(own: [Template; 2]) -> impl Iterator<Item = Template> {
    let worlds = sdk!["wasm/worlds.rs"];
    own.into_iter().chain(RUST).chain(SDK).chain(worlds)
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
        let files = if self.wasm {
            self.lang.wasm_files()?
        } else {
            self.lang.files()
        };
        for file in files {
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
