//! Digests of files and folders of the server, as sha256sum(1) prints them.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use legatus_sdk::{
    Argument, Call, Commander, Description, Effects, Fault, Host, Kind, Level, Module, module,
};
use sha2::{Digest, Sha256, Sha512};

/// Bytes that are read at once.
const CHUNK: usize = 256 << 10;

/// Folders within one another, at most.
const DEPTH: usize = 64;

struct Hash;

impl Module for Hash {
    fn describe() -> Description {
        Description {
            details: "Folders are hashed with all files below them, in the order of their names. \
                      Symbolic links in folders are left out. A file that cannot be read does not \
                      stop the others; the exit status tells of it.",
            effects: Effects {
                read: true,
                ..Effects::default()
            },
            arguments: vec![
                Argument {
                    name: "path",
                    value_name: "PATH",
                    help: "Files and folders of the server, below those that it grants",
                    required: true,
                    repeated: true,
                    ..Argument::default()
                },
                Argument {
                    name: "algorithm",
                    kind: Kind::Option,
                    value_name: "NAME",
                    help: "sha256 or sha512 [default: sha256]",
                    short: Some('a'),
                    ..Argument::default()
                },
            ],
            examples: vec![
                ("legatus hash web1 /srv/images", "Digests of all files there"),
                (
                    "legatus hash web1 -a sha512 /srv/images/a.iso",
                    "A longer digest of one file",
                ),
            ],
            ..Description::new("hash", "1.0.0", "Print digests of files of the server")
        }
    }
}

impl Commander for Hash {
    fn execute(call: &Call, host: &mut Host) -> Result<u8, Fault> {
        let asked = Asked::parse(&call.arguments)?;
        let mut run = Run {
            algorithm: asked.algorithm,
            host,
            failed: Vec::new(),
        };
        for path in &asked.paths {
            run.path(path, DEPTH, true)?;
        }
        match run.failed.as_slice() {
            [] => Ok(0),
            [first, rest @ ..] => {
                let others = match rest.len() {
                    0 => String::new(),
                    count => format!(", and {count} more"),
                };
                Err(Fault::new(format!("{first}{others}"))
                    .with_hint("the configuration of the server grants what may be read"))
            }
        }
    }
}

module!(commander: Hash);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Algorithm {
    Sha256,
    Sha512,
}

impl Algorithm {
    /// A file's digest in hexadecimal.
    fn digest(self, path: &Path) -> io::Result<String> {
        match self {
            Self::Sha256 => digest::<Sha256>(path),
            Self::Sha512 => digest::<Sha512>(path),
        }
    }
}

fn digest<D: Digest>(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let mut hasher = D::new();
    let mut chunk = vec![0; CHUNK];
    loop {
        match file.read(&mut chunk) {
            Ok(0) => break,
            Ok(length) => hasher.update(&chunk[..length]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    let digest = hasher.finalize();
    Ok(digest.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// What the arguments say.
#[derive(Debug, PartialEq, Eq)]
struct Asked {
    algorithm: Algorithm,
    paths: Vec<PathBuf>,
}

impl Asked {
    fn parse(arguments: &[Vec<u8>]) -> Result<Self, Fault> {
        let mut asked = Self {
            algorithm: Algorithm::Sha256,
            paths: Vec::new(),
        };
        let mut words = arguments.iter();
        while let Some(word) = words.next() {
            match word.as_slice() {
                b"--algorithm" => {
                    asked.algorithm = match words.next().map(Vec::as_slice) {
                        Some(b"sha256") => Algorithm::Sha256,
                        Some(b"sha512") => Algorithm::Sha512,
                        other => {
                            let name = String::from_utf8_lossy(other.unwrap_or_default());
                            return Err(Fault::new(format!("there is no algorithm `{name}`"))
                                .with_hint("sha256 and sha512 are there"));
                        }
                    }
                }
                path => asked.paths.push(PathBuf::from(text(path)?)),
            }
        }
        Ok(asked)
    }
}

/// Names reach WebAssembly as UTF-8 only.
fn text(bytes: &[u8]) -> Result<&str, Fault> {
    str::from_utf8(bytes).map_err(|_| {
        let name = String::from_utf8_lossy(bytes);
        Fault::new(format!("`{name}` is not UTF-8"))
    })
}

struct Run<'a> {
    algorithm: Algorithm,
    host: &'a mut Host,
    /// Why files could not be read.
    failed: Vec<String>,
}

impl Run<'_> {
    /// Hashes a file, or what is below a folder. Ends early when nobody listens any more.
    fn path(&mut self, path: &Path, depth: usize, named: bool) -> Result<(), Fault> {
        // A link that was named is followed, as sha256sum does; those in folders could lead anywhere.
        let about = if named {
            fs::metadata(path)
        } else {
            fs::symlink_metadata(path)
        };
        match about {
            Ok(about) if about.is_dir() && depth > 0 => self.folder(path, depth),
            Ok(about) if about.is_dir() => {
                self.note(path, "too many folders within one another");
                Ok(())
            }
            Ok(about) if about.is_file() => self.file(path),
            Ok(_) if named => {
                self.note(path, "it is neither a file nor a folder");
                Ok(())
            }
            Ok(_) => Ok(()),
            Err(error) => {
                self.note(path, error);
                Ok(())
            }
        }
    }

    fn folder(&mut self, path: &Path, depth: usize) -> Result<(), Fault> {
        let entries = fs::read_dir(path).and_then(|entries| {
            let names = entries.map(|entry| entry.map(|entry| entry.path()));
            names.collect::<io::Result<Vec<_>>>()
        });
        match entries {
            Ok(mut names) => {
                names.sort();
                for name in &names {
                    self.path(name, depth - 1, false)?;
                }
            }
            Err(error) => self.note(path, error),
        }
        Ok(())
    }

    fn file(&mut self, path: &Path) -> Result<(), Fault> {
        match self.algorithm.digest(path) {
            Ok(digest) => {
                let line = format!("{digest}  {}\n", path.display());
                self.host.send(line.as_bytes())?;
            }
            Err(error) => self.note(path, error),
        }
        Ok(())
    }

    fn note(&mut self, path: &Path, why: impl std::fmt::Display) {
        let line = format!("cannot read `{}`: {why}", path.display());
        self.host.log(Level::Info, &line);
        self.failed.push(line);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(words: &[&str]) -> Result<Asked, Fault> {
        let words: Vec<_> = words.iter().map(|word| word.as_bytes().to_vec()).collect();
        Asked::parse(&words)
    }

    #[test]
    fn arguments_name_paths_and_an_algorithm() {
        let parsed = asked(&["--algorithm", "sha512", "/a", "/b"]).unwrap();
        assert_eq!(parsed.algorithm, Algorithm::Sha512);
        assert_eq!(parsed.paths, [Path::new("/a"), Path::new("/b")]);
        assert!(asked(&["--algorithm", "md5", "/a"]).is_err());
        assert!(Asked::parse(&[vec![0xff]]).is_err());
    }

    #[test]
    fn a_digest_is_the_one_that_everybody_knows() {
        let path = std::env::temp_dir().join(format!("hash-test-{}", std::process::id()));
        fs::write(&path, "abc").unwrap();
        let digest = Algorithm::Sha256.digest(&path).unwrap();
        fs::remove_file(&path).unwrap();
        let known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(digest, known);
    }
}
