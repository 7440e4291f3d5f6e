//! Content that has no name yet.
//!
//! Each file is locked by its writer for as long as he lives, so that what a killed writer left is told from what is
//! being written, without a clock.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags, flock, fstat, openat, renameat, unlinkat};
use rustix::io::{Errno, Result};

use super::folder;

/// The folder of content that is being written.
pub(super) struct TempFolder(Arc<OwnedFd>);

/// One file of it: removed when it is dropped.
pub(super) struct TempFile {
    pub(super) file: File,
    folder: Arc<OwnedFd>,
    /// Its name, while it is in the folder.
    name: Option<String>,
}

impl TempFolder {
    pub(super) fn new(folder: OwnedFd) -> Self {
        Self(Arc::new(folder))
    }

    /// A new, empty file.
    pub(super) fn create(&self) -> Result<TempFile> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        loop {
            let name = format!("{:032x}", rand::random::<u128>());
            let file = openat(&*self.0, &name, flags, folder::FILE_MODE)?;
            flock(&file, FlockOperation::LockExclusive)?;
            // A sweep between the two calls has taken it for a leftover.
            if fstat(&file)?.st_nlink > 0 {
                return Ok(TempFile {
                    file: File::from(file),
                    folder: Arc::clone(&self.0),
                    name: Some(name),
                });
            }
        }
    }

    /// Removes what no living writer has locked.
    pub(super) fn sweep(&self) -> Result<()> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        for (name, _) in folder::names(&*self.0)? {
            let Ok(file) = openat(&*self.0, &name, flags, Mode::empty()) else {
                continue;
            };
            if flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok() {
                remove(&self.0, &name)?;
            }
        }
        Ok(())
    }
}

impl TempFile {
    /// Gives the file its place. It is removed if that fails and it is dropped.
    pub(super) fn rename_to(&mut self, to: impl AsFd, name: &str) -> Result<()> {
        if let Some(own) = &self.name {
            renameat(&*self.folder, own, to, name)?;
            self.name = None;
        }
        Ok(())
    }
}

impl Drop for TempFile {
    fn drop(&mut self) {
        let Some(name) = self.name.take() else { return };
        let folder = Arc::clone(&self.folder);
        // What cannot be removed now is removed by the next sweep.
        let remove = move || {
            let _ = remove(&folder, &name);
        };
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(remove)),
            Err(_) => remove(),
        }
    }
}

fn remove(folder: &OwnedFd, name: &str) -> Result<()> {
    match unlinkat(folder, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(error),
    }
}
