//! The folder itself: its parts, its locks, and what an object is in it.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags, fchmod, flock, fsync, openat, unlinkat};
use rustix::io::{Errno, Result};

use super::read::{self, Reader};
use super::sums::{self, Sum, Sums, Which};
use super::temp::TempFolder;
use super::{folder, unavailable};
use crate::ports::{BlobError, BlobName};

/// Number of lock files: enough that two objects seldom wait for each other.
const LOCKS: u8 = 64;

/// The opened folder.
pub(super) struct Vault {
    path: PathBuf,
    root: OwnedFd,
    sums: OwnedFd,
    locks: OwnedFd,
    pub(super) temp: TempFolder,
}

/// An object that is locked: nobody else changes it.
pub(super) struct Locked<'a> {
    pub(super) name: &'a BlobName,
    pub(super) sums: Sums,
    pub(super) key: String,
    _lock: OwnedFd,
}

impl Vault {
    pub(super) fn open(dir: &Path) -> Result<Self> {
        let mode = folder::FOLDER_MODE;
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(mode.bits())
            .create(dir)
            .map_err(folder::errno)?;
        let path = dir.canonicalize().map_err(folder::errno)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(&path, flags, Mode::empty())?;
        fchmod(&root, mode)?;
        Ok(Self {
            path,
            sums: folder::open_or_make(&root, ".sums")?,
            locks: folder::open_or_make(&root, ".locks")?,
            temp: TempFolder::new(folder::open_or_make(&root, ".tmp")?),
            root,
        })
    }

    /// Opens an object for reading.
    pub(super) fn read(&self, name: &BlobName) -> std::result::Result<Reader, BlobError> {
        let opened = || {
            let mut locked = self.lock(name, FlockOperation::LockShared)?;
            if locked.sums.has(&locked.key, Which::Next)? {
                drop(locked);
                locked = self.lock(name, FlockOperation::LockExclusive)?;
                self.settle(&locked)?;
            }
            let file = self.open_object(name)?;
            Ok((file, locked.sums.read(&locked.key, Which::Current)?))
        };
        match opened() {
            Ok((file, Some(sum))) => {
                Reader::new(name.clone(), file, sum.sha256).map_err(|error| unavailable(&error))
            }
            Ok((_, None)) => Err(BlobError::Damaged(name.clone())),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {
                Err(BlobError::NotFound(name.clone()))
            }
            Err(error) => Err(unavailable(&error)),
        }
    }

    pub(super) fn delete(&self, name: &BlobName) -> std::result::Result<(), BlobError> {
        let deleted = || {
            let locked = self.lock(name, FlockOperation::LockExclusive)?;
            let (parents, leaf) = split(name);
            let parent = folder::descend(&self.root, parents, |at, part| folder::open(at, part))?;
            unlinkat(&parent, leaf, AtFlags::empty())?;
            // The content goes for good before its checksum: one without the other would count as damaged.
            fsync(&parent)?;
            locked.sums.remove(&locked.key, Which::Current)?;
            locked.sums.remove(&locked.key, Which::Next)?;
            self.remove_empty_parents(name);
            Ok(())
        };
        match deleted() {
            Ok(()) | Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::ISDIR) => Ok(()),
            Err(error) => Err(unavailable(&error)),
        }
    }

    /// `file://` and the absolute path, percent-encoded.
    pub(super) fn uri(&self, name: &BlobName) -> String {
        let plain = |byte: u8| {
            byte.is_ascii_alphanumeric() || matches!(byte, b'/' | b'-' | b'.' | b'_' | b'~')
        };
        let path = self.path.join(name.bucket()).join(name.object());
        let mut uri = "file://".to_owned();
        for &byte in path.as_os_str().as_bytes() {
            if plain(byte) {
                uri.push(char::from(byte));
            } else {
                uri.push_str(&format!("%{byte:02X}"));
            }
        }
        uri
    }

    /// Locks an object against changes, by this process or another.
    pub(super) fn lock<'a>(&self, name: &'a BlobName, how: FlockOperation) -> Result<Locked<'a>> {
        let key = sums::key(name);
        Ok(Locked {
            name,
            sums: self.sums_of(name.bucket())?,
            _lock: self.lock_key(&key, how)?,
            key,
        })
    }

    /// Takes the lock of the objects whose names have hashes like this one.
    pub(super) fn lock_key(&self, key: &str, how: FlockOperation) -> Result<OwnedFd> {
        let number = u8::from_str_radix(&key[..2], 16).unwrap_or_default() % LOCKS;
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = openat(
            &self.locks,
            format!("{number:02}"),
            flags,
            folder::FILE_MODE,
        )?;
        flock(&file, how)?;
        Ok(file)
    }

    /// The checksums of a bucket, if it has any.
    pub(super) fn sums_of(&self, bucket: &str) -> Result<Sums> {
        folder::open(&self.sums, bucket).map(Sums::new)
    }

    /// Makes room for the checksums of a bucket.
    pub(super) fn make_sums(&self, bucket: &str) -> Result<()> {
        folder::open_or_make(&self.sums, bucket).map(drop)
    }

    /// Ends what a crash interrupted: keeps the checksum that fits the content.
    pub(super) fn settle(&self, locked: &Locked<'_>) -> Result<()> {
        let (sums, key) = (&locked.sums, locked.key.as_str());
        if !sums.has(key, Which::Next)? {
            return Ok(());
        }
        let fits = match (sums.read(key, Which::Next)?, self.open_object(locked.name)) {
            (Some(Sum { sha256, .. }), Ok(file)) => read::sha256_of(file)? == sha256,
            (None, _) | (_, Err(Errno::NOENT | Errno::NOTDIR)) => false,
            (_, Err(error)) => return Err(error),
        };
        if fits {
            sums.promote(key)
        } else {
            sums.remove(key, Which::Next)
        }
    }

    /// The folder of an object's name, with every folder on the way, and the name in it.
    pub(super) fn parent<'a>(
        &self,
        name: &'a BlobName,
        step: fn(BorrowedFd<'_>, &str) -> Result<OwnedFd>,
    ) -> Result<(OwnedFd, &'a str)> {
        let (parents, leaf) = split(name);
        Ok((folder::descend(&self.root, parents, step)?, leaf))
    }

    pub(super) fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    fn open_object(&self, name: &BlobName) -> Result<File> {
        let (parent, leaf) = self.parent(name, |at, part| folder::open(at, part))?;
        folder::open_file(parent, leaf).map(File::from)
    }

    /// Removes the folders that an object was the last one in; the bucket stays. Whoever is about to write into one of
    /// them makes it again.
    fn remove_empty_parents(&self, name: &BlobName) {
        let (parents, _) = split(name);
        for depth in (1..parents.len()).rev() {
            let above = parents[..depth].iter().copied();
            let removed = folder::descend(&self.root, above, |at, part| folder::open(at, part))
                .and_then(|above| unlinkat(above, parents[depth], AtFlags::REMOVEDIR));
            if removed.is_err() {
                return;
            }
        }
    }
}

/// The folders of an object, its bucket first, and its own name in the last one.
fn split(name: &BlobName) -> (Vec<&str>, &str) {
    let (folders, leaf) = match name.object().rsplit_once('/') {
        Some((folders, leaf)) => (Some(folders), leaf),
        None => (None, name.object()),
    };
    let parents =
        std::iter::once(name.bucket()).chain(folders.into_iter().flat_map(|f| f.split('/')));
    (parents.collect(), leaf)
}
