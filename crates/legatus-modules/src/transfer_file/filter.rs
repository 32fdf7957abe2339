//! What is copied and what is not: patterns as in a .gitignore file, and sizes.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use ignore::gitignore::{Gitignore, GitignoreBuilder};
use legatus_core::Fault;

use super::messages::Options;
use super::names;

/// Longest line of a filter in bytes: longer than any path.
const LINE_BYTES: usize = 8192;
/// Most lines of all filters.
const LINES: usize = 10_000;

/// What is copied and what is not.
#[derive(Debug)]
pub(super) struct Filter {
    patterns: Option<Gitignore>,
    min_size: u64,
    max_size: u64,
}

impl Filter {
    /// Compiles the patterns.
    ///
    /// # Errors
    /// When one is none.
    pub(super) fn new(options: &Options) -> Result<Self, Fault> {
        Ok(Self {
            patterns: patterns(&options.filters)?,
            min_size: options.min_size.unwrap_or(0),
            max_size: options.max_size.unwrap_or(u64::MAX),
        })
    }

    /// Whether the patterns leave out the entry with this name, in the folder that these names lead
    /// to from the root of the copy.
    pub(super) fn excludes<'a>(
        &self,
        folders: impl IntoIterator<Item = &'a [u8]>,
        name: &'a [u8],
        is_folder: bool,
    ) -> bool {
        let Some(patterns) = &self.patterns else {
            return false;
        };
        let path = names::join(b"", folders.into_iter().chain([name]));
        let path = Path::new(OsStr::from_bytes(&path));
        patterns.matched(path, is_folder).is_ignore()
    }

    /// Whether a file of that size is left out.
    pub(super) fn excludes_size(&self, size: u64) -> bool {
        size < self.min_size || size > self.max_size
    }
}

fn patterns(lines: &[bytes::Bytes]) -> Result<Option<Gitignore>, Fault> {
    if lines.is_empty() {
        return Ok(None);
    }
    if lines.len() > LINES {
        return Err(Fault::new(format!("there are more than {LINES} patterns")));
    }
    let mut builder = GitignoreBuilder::new("");
    for line in lines {
        let wrong =
            |why: String| Fault::new(format!("{} is no pattern: {why}", names::shown(line)));
        if line.len() > LINE_BYTES {
            return Err(wrong(format!("it is longer than {LINE_BYTES} bytes")));
        }
        let text = str::from_utf8(line).map_err(|_| wrong("it is not UTF-8".to_owned()))?;
        let added = builder.add_line(None, text);
        added.map_err(|error| wrong(error.to_string()))?;
    }
    let built = builder.build();
    Ok(Some(built.map_err(|error| {
        Fault::new(format!("cannot use the patterns: {error}"))
    })?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(lines: &[&'static str]) -> Filter {
        let filters = lines.iter().map(|line| line.as_bytes().into()).collect();
        Filter::new(&Options {
            filters,
            ..Options::default()
        })
        .unwrap()
    }

    #[test]
    fn patterns_mean_what_they_mean_to_git() {
        let filter = filter(&[
            "*.o",
            "/build/",
            "!keep.o",
            "# nothing",
            "docs/**/draft",
            "",
        ]);
        let cases: [(&[&str], &str, bool, bool); 9] = [
            (&[], "a.o", false, true),
            (&["x", "y"], "a.o", false, true),
            (&["x"], "keep.o", false, false),
            (&[], "build", true, true),
            (&[], "build", false, false),
            (&["x"], "build", true, false),
            (&["docs", "a", "b"], "draft", false, true),
            (&[], "draft", false, false),
            (&[], "# nothing", false, false),
        ];
        for (folders, name, is_folder, expected) in cases {
            let folders = folders.iter().map(|name| name.as_bytes());
            let told = filter.excludes(folders, name.as_bytes(), is_folder);
            assert_eq!(told, expected, "{name}");
        }
        let odd = b"\xff.o";
        assert!(filter.excludes([&b"\xfe"[..]], odd, false));
    }

    #[test]
    fn patterns_that_are_none_are_refused() {
        for bad in [&b"\xff"[..], b"[z-a]", &[b'x'; LINE_BYTES + 1]] {
            let filters = vec![bytes::Bytes::copy_from_slice(bad)];
            let options = Options {
                filters,
                ..Options::default()
            };
            assert!(Filter::new(&options).is_err(), "{bad:?}");
        }
    }
}
