//! What is in a bucket, and what does not belong there.

use std::collections::HashSet;

use rustix::fs::{FileType, FlockOperation, fstat};
use rustix::io::{Errno, Result};

use super::folder;
use super::sums::{self, Sums, Which};
use super::vault::Vault;
use crate::ports::{BlobEntry, BlobName};

impl Vault {
    /// The objects whose names begin with the prefix, in no order. `now` is in Unix seconds.
    pub(super) fn list(&self, bucket: &str, prefix: &str, now: i64) -> Result<Vec<BlobEntry>> {
        self.temp.sweep()?;
        let mut entries = Vec::new();
        let mut folders = vec![String::new()];
        while let Some(path) = folders.pop() {
            let inside = match self.names_in(bucket, &path) {
                // It went while the list was made.
                Err(Errno::NOENT | Errno::NOTDIR) => continue,
                names => names?,
            };
            for (name, kind) in inside {
                let path = format!("{path}{name}");
                match kind {
                    FileType::Directory if may_lead_to(&path, prefix) => {
                        folders.push(format!("{path}/"));
                    }
                    FileType::RegularFile if path.starts_with(prefix) => {
                        entries.extend(self.entry(bucket, path, now)?);
                    }
                    _ => {}
                }
            }
        }
        if prefix.is_empty() {
            self.drop_orphans(bucket, &entries)?;
        }
        Ok(entries)
    }

    fn names_in(&self, bucket: &str, path: &str) -> Result<Vec<(String, FileType)>> {
        let parts = std::iter::once(bucket).chain(path.split_terminator('/'));
        folder::names(folder::descend(self.root(), parts, |at, part| {
            folder::open(at, part)
        })?)
    }

    /// None if it went meanwhile, or is no object's name.
    fn entry(&self, bucket: &str, object: String, now: i64) -> Result<Option<BlobEntry>> {
        let Ok(name) = BlobName::new(bucket, object) else {
            return Ok(None);
        };
        let opened = self
            .parent(&name, |at, part| folder::open(at, part))
            .and_then(|(parent, leaf)| folder::open_file(parent, leaf));
        let written = match opened {
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
            opened => fstat(opened?)?.st_mtime,
        };
        Ok(Some(BlobEntry {
            name,
            age_seconds: u64::try_from(now.saturating_sub(written)).unwrap_or_default(),
        }))
    }

    /// Removes the checksums of objects that are gone: what a crash in the middle of a delete leaves.
    fn drop_orphans(&self, bucket: &str, entries: &[BlobEntry]) -> Result<()> {
        let present: HashSet<_> = entries.iter().map(|entry| sums::key(&entry.name)).collect();
        let sums = match self.sums_of(bucket) {
            Err(Errno::NOENT) => return Ok(()),
            sums => sums?,
        };
        for key in sums.keys()? {
            if present.contains(&key) {
                continue;
            }
            let _lock = self.lock_key(&key, FlockOperation::LockExclusive)?;
            if !self.has_object(&sums, &key)? {
                sums.remove(&key, Which::Current)?;
                sums.remove(&key, Which::Next)?;
            }
        }
        Ok(())
    }

    /// Whether the object is there by now that a checksum speaks of. One that cannot be read speaks of none.
    fn has_object(&self, sums: &Sums, key: &str) -> Result<bool> {
        for which in [Which::Current, Which::Next] {
            let named = sums.read(key, which)?.and_then(|sum| {
                let (bucket, object) = sum.name.split_once('/')?;
                BlobName::new(bucket, object).ok()
            });
            let Some(name) = named else { continue };
            let there = self
                .parent(&name, |at, part| folder::open(at, part))
                .and_then(|(parent, leaf)| folder::open_file(parent, leaf));
            match there {
                Err(Errno::NOENT | Errno::NOTDIR) => {}
                there => return there.map(|_| true),
            }
        }
        Ok(false)
    }
}

/// Whether names that begin with the prefix may be in the folder.
fn may_lead_to(folder: &str, prefix: &str) -> bool {
    let folder = format!("{folder}/");
    folder.starts_with(prefix) || prefix.starts_with(&folder)
}
