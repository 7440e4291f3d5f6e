//! Pages of a folder's entries, to a depth, in the byte order of their relative paths.
//!
//! That order is not the order of a walk: `a-b` comes before `a/x`. So each folder is cut into keys, one `name` for an
//! entry and one `name/` for what is below it; in the order of these keys a walk is in byte order.
//! Memory is bounded by the page, not by the folder: of each folder only as many keys are kept as the page can use.

use std::collections::BinaryHeap;
use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use prost::Message as _;
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};

use super::fault::Fault;
use super::place::{absolute, modified_ns, named, open, permissions};
use crate::proto::{self, Entry, ListFilesReply, ListFilesRequest};

/// Bytes of names and targets in one page, so that it fits into one message.
const MAX_PAGE_BYTES: usize = 1024 * 1024;

/// Lists one page. Blocks on the disk.
pub(crate) fn list(volume: &Path, request: &ListFilesRequest) -> Result<ListFilesReply, Fault> {
    let path = absolute(volume, &request.path)?;
    let folder = open(&path, OFlags::RDONLY | OFlags::DIRECTORY)?;
    let reply_path = named(&path, &folder);
    let mut page = Page {
        after: &request.after,
        limit: request.limit as usize,
        bytes: 0,
        entries: Vec::new(),
        more: false,
    };
    page.visit(&folder, &[], request.depth)?;
    Ok(ListFilesReply {
        path: reply_path.into(),
        entries: page
            .entries
            .iter()
            .map(|entry| entry.encode_to_vec().into())
            .collect(),
        more: page.more,
    })
}

struct Page<'a> {
    after: &'a [u8],
    limit: usize,
    bytes: usize,
    entries: Vec<Entry>,
    more: bool,
}

impl Page<'_> {
    /// Adds what is in a folder and below it; `prefix` is its path relative to the listed one, with a slash.
    fn visit(&mut self, folder: &OwnedFd, prefix: &[u8], depth: u32) -> Result<(), Fault> {
        let (keys, cut) = self.keys(folder, prefix, depth)?;
        for key in keys {
            if self.more {
                return Ok(());
            }
            let name = key.get(prefix.len()..).unwrap_or_default();
            match name.strip_suffix(b"/") {
                Some(name) => self.descend(folder, name, &key, depth),
                None => self.add(folder, name, &key),
            }
        }
        // Some that were kept may have vanished meanwhile; those cut off come with the next page.
        self.more |= cut;
        Ok(())
    }

    /// The smallest keys of a folder that this page can use, in order, and whether there are more.
    fn keys(
        &self,
        folder: &OwnedFd,
        prefix: &[u8],
        depth: u32,
    ) -> Result<(Vec<Vec<u8>>, bool), Fault> {
        // Each entry has at most two keys; one more entry shows that there are more.
        let most = (self.limit.saturating_sub(self.entries.len()) + 1) * 2;
        let mut smallest: BinaryHeap<Vec<u8>> = BinaryHeap::new();
        let mut cut = false;
        let mut keep = |key: Vec<u8>| {
            if smallest.len() < most {
                smallest.push(key);
            } else {
                cut = true;
                if let Some(mut largest) = smallest.peek_mut().filter(|largest| key < **largest) {
                    *largest = key;
                }
            }
        };
        for entry in Dir::read_from(folder)? {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name == b"." || name == b".." {
                continue;
            }
            let path = [prefix, name].concat();
            if depth > 1 && matches!(entry.file_type(), FileType::Directory | FileType::Unknown) {
                let below = [&path, b"/".as_slice()].concat();
                if self.after < below.as_slice() || self.after.starts_with(&below) {
                    keep(below);
                }
            }
            if path.as_slice() > self.after {
                keep(path);
            }
        }
        Ok((smallest.into_sorted_vec(), cut))
    }

    fn descend(&mut self, folder: &OwnedFd, name: &[u8], prefix: &[u8], depth: u32) {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        // What the user may not read, or what is gone, is passed over: its own entry is in the list.
        if let Ok(below) = rustix::fs::openat(folder, OsStr::from_bytes(name), flags, Mode::empty())
        {
            let _ = self.visit(&below, prefix, depth - 1);
        }
    }

    fn add(&mut self, folder: &OwnedFd, name: &[u8], path: &[u8]) {
        let name = OsStr::from_bytes(name);
        let Ok(stat) = rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) else {
            return;
        };
        let kind = match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => proto::FileType::File,
            FileType::Directory => proto::FileType::Directory,
            FileType::Symlink => proto::FileType::Symlink,
            _ => proto::FileType::OtherFile,
        };
        let target = match kind {
            proto::FileType::Symlink => {
                rustix::fs::readlinkat(folder, name, Vec::new()).unwrap_or_default()
            }
            _ => std::ffi::CString::default(),
        };
        self.bytes += path.len() + target.as_bytes().len();
        if self.entries.len() >= self.limit || self.bytes > MAX_PAGE_BYTES {
            self.more = true;
            return;
        }
        self.entries.push(Entry {
            name: path.to_vec().into(),
            r#type: kind.into(),
            size: u64::try_from(stat.st_size).unwrap_or(0),
            mode: permissions(stat.st_mode),
            modified_ns: modified_ns(&stat),
            target: target.into_bytes().into(),
        });
    }
}
