//! One operation at a time on one life, also between the processes that share the folder.
//!
//! A lock is a `flock` on a file of `.locks`. It ends with the last descriptor of it, so a killed worker holds none; the
//! OCI runtime that it had started holds its own copy and keeps the lock until it is done, so that nobody acts on a
//! container that is just being made. One that was given to nobody ends at once when it is dropped, though a program that
//! this process is just starting may still have a copy: it has one of everything until it runs.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use super::files;

/// Held until it is dropped.
#[derive(Debug)]
pub(super) struct Lock {
    file: File,
    path: PathBuf,
    is_shared: AtomicBool,
}

impl Lock {
    /// Waits until nobody else holds the lock `name` of this folder.
    pub(super) fn take(folder: &Path, name: &str) -> io::Result<Self> {
        let path = folder.join(name);
        loop {
            let file = open(&path)?;
            flock(&file, FlockOperation::LockExclusive)?;
            if is_at(&file, &path)? {
                return Ok(Self::of(file, path));
            }
        }
    }

    /// The lock `name` of this folder, if nobody else holds it now.
    pub(super) fn try_take(folder: &Path, name: &str) -> io::Result<Option<Self>> {
        let path = folder.join(name);
        let file = open(&path)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(is_at(&file, &path)?.then(|| Self::of(file, path))),
            Err(Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn of(file: File, path: PathBuf) -> Self {
        Self {
            file,
            path,
            is_shared: AtomicBool::new(false),
        }
    }

    /// Another descriptor of the same lock, for a process that goes on by itself: the lock lasts as long as either.
    pub(super) fn share(&self) -> io::Result<OwnedFd> {
        self.is_shared.store(true, Ordering::Relaxed);
        Ok(self.file.try_clone()?.into())
    }

    /// Removes the lock's file, for a life that is gone. Who waits for it notices, and makes a new one.
    pub(super) fn retire(self) -> io::Result<()> {
        files::absent(fs::remove_file(&self.path))
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        if !self.is_shared.load(Ordering::Relaxed) {
            // Closing it does the same, once every copy is closed.
            let _ = flock(&self.file, FlockOperation::Unlock);
        }
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(path)
}

/// Whether the open file is still the one of that name: the holder before may have removed it.
fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    let held = file.metadata()?;
    match fs::metadata(path) {
        Ok(named) => Ok((held.dev(), held.ino()) == (named.dev(), named.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[test]
    fn a_lock_is_held_by_one_even_while_its_file_is_removed() {
        let folder = tempfile::tempdir().expect("a folder");
        let inside = AtomicU32::new(0);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for turn in 0..50 {
                        let lock = Lock::take(folder.path(), "a").expect("the lock");
                        assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                        inside.fetch_sub(1, Ordering::SeqCst);
                        if turn % 3 == 0 {
                            lock.retire().expect("removed");
                        }
                    }
                });
            }
        });
    }

    #[test]
    fn one_that_was_given_to_nobody_ends_whoever_has_a_copy() {
        let folder = tempfile::tempdir().expect("a folder");
        let lock = Lock::take(folder.path(), "a").expect("the lock");
        let _copy = lock.file.try_clone().expect("another descriptor");
        assert!(Lock::try_take(folder.path(), "a").expect("asked").is_none());
        drop(lock);
        assert!(Lock::try_take(folder.path(), "a").expect("asked").is_some());
    }

    #[test]
    fn a_shared_lock_outlives_its_first_holder() {
        let folder = tempfile::tempdir().expect("a folder");
        let lock = Lock::take(folder.path(), "a").expect("the lock");
        let shared = lock.share().expect("another descriptor");
        drop(lock);
        let other = File::open(folder.path().join("a")).expect("the file");
        assert!(flock(&other, FlockOperation::NonBlockingLockExclusive).is_err());
        drop(shared);
        assert!(flock(&other, FlockOperation::NonBlockingLockExclusive).is_ok());
    }
}
