//! The data folder has one owner process.
//!
//! The owner holds an exclusive lock on `<data-dir>/lock`, in which its process id stands. The kernel drops the lock with
//! the process, however it ends, so that a stale file never keeps anybody out.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Why the data folder is not this process's.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    /// Another process owns it.
    #[error(
        "the data folder {folder} is in use by process {owner}: stop that one, or choose another folder with --data-dir"
    )]
    Held {
        /// The folder.
        folder: PathBuf,
        /// The owner's process id as far as it can be read.
        owner: String,
    },
    /// The folder or its lock file cannot be made or opened.
    #[error("the data folder {folder} cannot be used: {source}")]
    Io {
        /// The folder.
        folder: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

/// The ownership of a data folder; it ends when this is dropped.
#[derive(Debug)]
pub struct DataLock {
    _file: File,
}

/// Makes the folder, for its owner alone (0700), if it is not there, and takes its lock.
pub fn data_lock(folder: &Path) -> Result<DataLock, DataDirError> {
    let io = |source| DataDirError::Io {
        folder: folder.to_owned(),
        source,
    };
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .map_err(io)?;
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(folder.join("lock"))
        .map_err(io)?;
    match file.try_lock() {
        Ok(()) => write_owner(&mut file).map_err(io)?,
        Err(TryLockError::WouldBlock) => {
            return Err(DataDirError::Held {
                folder: folder.to_owned(),
                owner: read_owner(&mut file),
            });
        }
        Err(TryLockError::Error(source)) => return Err(io(source)),
    }
    Ok(DataLock { _file: file })
}

fn write_owner(file: &mut File) -> io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    writeln!(file, "{}", std::process::id())
}

fn read_owner(file: &mut File) -> String {
    let mut text = String::new();
    let read = file.take(20).read_to_string(&mut text);
    match text.trim().parse::<u32>() {
        Ok(pid) if read.is_ok() => pid.to_string(),
        _ => "(unknown)".to_owned(),
    }
}
