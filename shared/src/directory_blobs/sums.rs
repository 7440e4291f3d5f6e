//! The checksums beside the objects: one line each, as `sha256sum -c` reads it from the blobs' folder.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, OFlags, fsync, openat, renameat, unlinkat};
use rustix::io::{Errno, Result};
use sha2::{Digest as _, Sha256};

use super::folder;
use crate::ports::BlobName;

/// Length of a SHA-256 in hexadecimal.
const HEX_LENGTH: usize = 64;

/// More than the longest line.
const LINE_LIMIT: u64 = 4096;

/// The ending of a checksum whose object is not in its place for certain.
const NEXT: &str = ".next";

/// The checksums of a bucket.
pub(super) struct Sums(OwnedFd);

/// Which of an object's two checksums.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Which {
    /// That of the object in its place.
    Current,
    /// That of the object about to take it.
    Next,
}

/// A checksum and whose it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Sum {
    /// In hexadecimal.
    pub(super) sha256: String,
    /// `bucket/object`.
    pub(super) name: String,
}

impl Sums {
    pub(super) fn new(folder: OwnedFd) -> Self {
        Self(folder)
    }

    /// Reads one; none if it is not there or cannot be read, as after a crash in the middle of its writing.
    pub(super) fn read(&self, key: &str, which: Which) -> Result<Option<Sum>> {
        let file = match folder::open_file(&self.0, &file_name(key, which)) {
            Err(Errno::NOENT) => return Ok(None),
            opened => opened?,
        };
        let mut line = Vec::new();
        File::from(file)
            .take(LINE_LIMIT)
            .read_to_end(&mut line)
            .map_err(folder::errno)?;
        Ok(Sum::parse(&line))
    }

    /// Whether there is one, readable or not.
    pub(super) fn has(&self, key: &str, which: Which) -> Result<bool> {
        match folder::open_file(&self.0, &file_name(key, which)) {
            Ok(_) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Writes the checksum of an object about to take its place, durably.
    pub(super) fn write_next(&self, key: &str, sum: &Sum) -> Result<()> {
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let name = file_name(key, Which::Next);
        let mut file = File::from(openat(&self.0, name, flags, folder::FILE_MODE)?);
        file.write_all(sum.line().as_bytes())
            .map_err(folder::errno)?;
        fsync(&file)?;
        fsync(&self.0)
    }

    /// The object is in its place: its checksum is the current one.
    pub(super) fn promote(&self, key: &str) -> Result<()> {
        let (next, current) = (file_name(key, Which::Next), file_name(key, Which::Current));
        renameat(&self.0, next, &self.0, current)
    }

    pub(super) fn remove(&self, key: &str, which: Which) -> Result<()> {
        match unlinkat(&self.0, file_name(key, which), AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// The keys of all checksums, some of them twice.
    pub(super) fn keys(&self) -> Result<Vec<String>> {
        let is_key =
            |key: &str| key.len() == HEX_LENGTH && key.bytes().all(|b| b.is_ascii_hexdigit());
        Ok(folder::names(&self.0)?
            .into_iter()
            .map(|(name, _)| name.strip_suffix(NEXT).unwrap_or(&name).to_owned())
            .filter(|key| is_key(key))
            .collect())
    }
}

impl Sum {
    pub(super) fn of(name: &BlobName, sha256: String) -> Self {
        Self {
            sha256,
            name: name.to_string(),
        }
    }

    /// A name with a backslash is escaped, and the line begins with one.
    fn line(&self) -> String {
        if self.name.contains('\\') {
            format!("\\{}  {}\n", self.sha256, self.name.replace('\\', "\\\\"))
        } else {
            format!("{}  {}\n", self.sha256, self.name)
        }
    }

    fn parse(line: &[u8]) -> Option<Self> {
        let line = std::str::from_utf8(line).ok()?.strip_suffix('\n')?;
        let (line, escaped) = match line.strip_prefix('\\') {
            Some(rest) => (rest, true),
            None => (line, false),
        };
        let (sha256, name) = line.split_once("  ")?;
        if sha256.len() != HEX_LENGTH || !sha256.bytes().all(|b| b.is_ascii_hexdigit()) {
            return None;
        }
        let name = if escaped {
            name.replace("\\\\", "\\")
        } else {
            name.to_owned()
        };
        Some(Self {
            sha256: sha256.to_owned(),
            name,
        })
    }
}

/// What an object's checksum is filed under: the hash of its name, since a name may be longer than a file's.
pub(super) fn key(name: &BlobName) -> String {
    hex(&Sha256::digest(name.object()))
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn file_name(key: &str, which: Which) -> String {
    match which {
        Which::Current => key.to_owned(),
        Which::Next => format!("{key}{NEXT}"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_line_reads_back_and_a_torn_one_does_not(object in "[a-z\\\\ ä]{1,20}", cut in 0usize..300) {
            let name = BlobName::new("bucket", object).expect("a name");
            let sum = Sum::of(&name, hex(&Sha256::digest(b"content")));
            let line = sum.line();
            prop_assert_eq!(Sum::parse(line.as_bytes()), Some(sum));
            let torn = &line.as_bytes()[..cut.min(line.len() - 1)];
            prop_assert_eq!(Sum::parse(torn), None);
        }
    }
}
