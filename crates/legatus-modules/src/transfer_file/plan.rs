//! What a user's arguments ask for.

use std::ffi::OsString;
use std::io::Read;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use legatus_core::{Arguments, Fault, Host, Local, Location};

use super::compression::Compressor;
use super::filter::Filter;
use super::messages::compression::Method;
use super::messages::{Compression, Options};
use super::report::reason;
use super::sharing::JOBS;
use super::source::NAMED_BYTES;
use crate::away::PATIENCE;

/// What the user asked for.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) host: Host,
    pub(super) direction: Direction,
    pub(super) options: Options,
    /// Only these paths below each source.
    pub(super) named: Option<Vec<Bytes>>,
    /// How long a lost connection is looked for.
    pub(super) patience: Duration,
    /// Programs want to know how far it is.
    pub(super) tells_progress: bool,
    /// Connections to copy over.
    pub(super) jobs: u32,
}

#[derive(Debug)]
pub(super) enum Direction {
    Upload {
        sources: Vec<OsString>,
        target: OsString,
    },
    Download {
        sources: Vec<OsString>,
        target: OsString,
    },
    MakeFolders {
        paths: Vec<OsString>,
    },
}

impl Plan {
    pub(super) fn new(arguments: &Arguments, local: &dyn Local) -> Result<Self, Fault> {
        let named = match arguments.last("files-from") {
            Some(path) => Some(named(arguments, local, Path::new(path))?),
            None => None,
        };
        let mut options = options(arguments, local)?;
        options.names_follow = named.is_some();
        let jobs = jobs(arguments, &options)?;
        let mut locations = Vec::new();
        for value in arguments.all("paths") {
            let location = Location::parse(value);
            let mut location = location.map_err(|error| Fault::new(error.to_string()))?;
            if location.host.is_some() && location.path == "~" {
                location.path.push("/");
            }
            locations.push(location);
        }
        if options.atomic && locations.len() > 2 {
            return Err(
                Fault::new("--atomic swaps in one folder, and there are several sources")
                    .with_hint("copy each with a command of its own"),
            );
        }
        let (host, direction) = if arguments.is_given("mkdir") {
            let (host, paths) = on_one_host(locations)?.ok_or_else(|| {
                Fault::new("--mkdir makes folders on a host").with_hint("name them as HOST:PATH")
            })?;
            (host, Direction::MakeFolders { paths })
        } else {
            Self::copy(locations)?
        };
        Ok(Self {
            host,
            direction,
            options,
            named,
            jobs,
            tells_progress: arguments.is_given("progress"),
            patience: arguments.duration("reconnect")?.unwrap_or(PATIENCE),
        })
    }

    fn copy(mut locations: Vec<Location>) -> Result<(Host, Direction), Fault> {
        let hint = "write SRC... DST, of which one side is HOST:PATH";
        let Some(target) = locations.pop().filter(|_| !locations.is_empty()) else {
            return Err(Fault::new("a copy needs a source and a target").with_hint(hint));
        };
        let paths = |locations: Vec<Location>| locations.into_iter().map(|one| one.path).collect();
        match target.host {
            Some(host) if locations.iter().all(|source| source.host.is_none()) => Ok((
                host,
                Direction::Upload {
                    sources: paths(locations),
                    target: target.path,
                },
            )),
            Some(_) => Err(Fault::new("cannot copy from a host to a host")
                .with_hint("copy to this machine first, then to the other host")),
            None => match on_one_host(locations)? {
                Some((host, sources)) => Ok((
                    host,
                    Direction::Download {
                        sources,
                        target: target.path,
                    },
                )),
                None => Err(Fault::new("neither source nor target is on a host").with_hint(hint)),
            },
        }
    }
}

/// The host that all locations are on; `None` if they are on none.
fn on_one_host(locations: Vec<Location>) -> Result<Option<(Host, Vec<OsString>)>, Fault> {
    let mut hosts = locations.iter().map(|location| &location.host);
    let first = hosts.next().cloned().flatten();
    if hosts.any(|host| *host != first) {
        let fault = Fault::new("the paths are on more than one host");
        return Err(fault.with_hint("one copy has one host; run one for each"));
    }
    let paths = locations.into_iter().map(|location| location.path);
    Ok(first.map(|host| (host, paths.collect())))
}

fn options(arguments: &Arguments, local: &dyn Local) -> Result<Options, Fault> {
    let dry_run = arguments.is_given("dry-run");
    let suffix = arguments.last("backup").unwrap_or_default().as_bytes();
    if suffix.contains(&b'/') || suffix.len() > 64 {
        return Err(Fault::new(
            "the suffix of backups has at most 64 bytes and no `/`",
        ));
    }
    let options = Options {
        mode: arguments.mode("mode")?,
        no_parents: arguments.is_given("no-parents"),
        no_fsync: arguments.is_given("no-fsync"),
        verify_disk: arguments.is_given("verify-disk"),
        filters: filters(arguments, local)?,
        min_size: arguments.size("min-size")?,
        max_size: arguments.size("max-size")?,
        names_follow: false,
        checksum: arguments.is_given("checksum"),
        archive: arguments.is_given("archive"),
        numeric_ids: arguments.is_given("numeric-ids"),
        delete: arguments.is_given("delete"),
        dry_run,
        itemize: dry_run || arguments.is_given("itemize"),
        backup: Bytes::copy_from_slice(suffix),
        whole_file: arguments.is_given("whole-file"),
        partial_ttl: arguments
            .duration("partial-ttl")?
            .map(|time| time.as_secs()),
        compression: compression(arguments)?,
        bandwidth: arguments.size("bandwidth")?.unwrap_or(0),
        atomic: arguments.is_given("atomic"),
        share: None,
    };
    // Told here, where it was typed.
    Filter::new(&options)?;
    Ok(options)
}

/// How many connections there are to be.
fn jobs(arguments: &Arguments, options: &Options) -> Result<u32, Fault> {
    let Some(text) = arguments.last("jobs") else {
        return Ok(1);
    };
    let jobs = text.to_str().and_then(|text| text.parse().ok());
    let Some(jobs) = jobs.filter(|jobs| (1..=JOBS).contains(jobs)) else {
        return Err(Fault::new(format!("--jobs takes a number of 1 to {JOBS}")));
    };
    if jobs > 1 && options.atomic {
        return Err(Fault::new("--jobs and --atomic do not go together"));
    }
    // Where only is told what would be done there is nothing to share.
    Ok(if options.dry_run { 1 } else { jobs })
}

fn compression(arguments: &Arguments) -> Result<Option<Compression>, Fault> {
    let Some(text) = arguments.last("compress") else {
        return Ok(None);
    };
    let text = text.to_string_lossy();
    let (name, level) = text.split_once(':').unwrap_or((&text, "0"));
    let method = match name {
        "auto" => Some(Method::Auto),
        "none" => Some(Method::None),
        "zstd" => Some(Method::Zstd),
        _ => None,
    };
    let (Some(method), Ok(level)) = (method, level.parse()) else {
        let fault = Fault::new(format!("`{text}` is no way to compress"));
        return Err(
            fault.with_hint("`auto`, `none`, `zstd`, or `zstd:LEVEL` with a level of 1 to 19")
        );
    };
    let mut compression = Compression {
        level,
        ..Compression::default()
    };
    compression.set_method(method);
    Compressor::new(Some(compression))?;
    Ok(Some(compression))
}

/// The lines of all filters: those of files, then what is excluded, then what is included all the
/// same. The last that matches decides.
fn filters(arguments: &Arguments, local: &dyn Local) -> Result<Vec<Bytes>, Fault> {
    let mut lines = Vec::new();
    for path in arguments.all("exclude-from") {
        let text = read(local, Path::new(path), 1 << 20)?;
        lines.extend(
            text.split(|byte| *byte == b'\n')
                .map(Bytes::copy_from_slice),
        );
    }
    for pattern in arguments.all("exclude") {
        lines.push(Bytes::copy_from_slice(pattern.as_bytes()));
    }
    for pattern in arguments.all("include") {
        lines.push([b"!", pattern.as_bytes()].concat().into());
    }
    lines.retain(|line| !line.is_empty());
    Ok(lines)
}

/// The paths of a file, one a line, or each ended by a 0.
fn named(arguments: &Arguments, local: &dyn Local, path: &Path) -> Result<Vec<Bytes>, Fault> {
    let text = Bytes::from(read(local, path, NAMED_BYTES)?);
    let end = if arguments.is_given("from0") {
        0
    } else {
        b'\n'
    };
    let paths = text
        .split(|byte| *byte == end)
        .filter(|path| !path.is_empty());
    let mut paths: Vec<_> = paths.map(|path| text.slice_ref(path)).collect();
    paths.sort();
    paths.dedup();
    Ok(paths)
}

fn read(local: &dyn Local, path: &Path, limit: usize) -> Result<Vec<u8>, Fault> {
    let shown = path.display();
    let from = if path == Path::new("-") {
        Path::new("/dev/stdin")
    } else {
        path
    };
    let mut text = Vec::new();
    let opened = local.open(from, false);
    let read = opened.and_then(|file| file.take(limit as u64 + 1).read_to_end(&mut text));
    read.map_err(|error| Fault::new(format!("cannot read `{shown}`: {}", reason(&error))))?;
    if text.len() > limit {
        return Err(Fault::new(format!(
            "`{shown}` is longer than {limit} bytes"
        )));
    }
    Ok(text)
}

/// A path as its bytes.
pub(super) fn bytes_of(path: &std::ffi::OsStr) -> Bytes {
    Bytes::from(path.to_os_string().into_vec())
}
