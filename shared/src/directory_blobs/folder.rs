//! Folders by descriptor, one part of a path at a time, so that no symbolic link leads out.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Dir, FileType, Mode, OFlags, fstat, fsync, mkdirat, openat};
use rustix::io::{Errno, Result};

/// Permissions of folders.
pub(super) const FOLDER_MODE: Mode = Mode::RWXU;

/// Permissions of files.
pub(super) const FILE_MODE: Mode = Mode::RUSR.union(Mode::WUSR);

const FOLDER: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// Opens a folder in a folder. `NOTDIR` if it is anything else, a symbolic link too.
pub(super) fn open(at: impl AsFd, part: &str) -> Result<OwnedFd> {
    openat(at, part, FOLDER, Mode::empty())
}

/// Opens a folder in a folder; makes it, durably, if it is not there.
pub(super) fn open_or_make(at: impl AsFd, part: &str) -> Result<OwnedFd> {
    let at = at.as_fd();
    match open(at, part) {
        Err(Errno::NOENT) => {}
        opened => return opened,
    }
    match mkdirat(at, part, FOLDER_MODE) {
        Ok(()) => fsync(at)?,
        Err(Errno::EXIST) => {}
        Err(error) => return Err(error),
    }
    open(at, part)
}

/// Opens what the parts lead to, one after the other.
pub(super) fn descend<'a>(
    from: impl AsFd,
    parts: impl IntoIterator<Item = &'a str>,
    step: fn(std::os::fd::BorrowedFd<'_>, &str) -> Result<OwnedFd>,
) -> Result<OwnedFd> {
    let mut at = from.as_fd().try_clone_to_owned().map_err(errno)?;
    for part in parts {
        at = step(at.as_fd(), part)?;
    }
    Ok(at)
}

/// Opens a regular file for reading; `NOENT` if it is anything else, a symbolic link too.
pub(super) fn open_file(at: impl AsFd, name: &str) -> Result<OwnedFd> {
    // A FIFO would block without NONBLOCK; on a regular file the flag means nothing.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = match openat(at, name, flags, Mode::empty()) {
        Err(Errno::LOOP | Errno::NXIO) => return Err(Errno::NOENT),
        opened => opened?,
    };
    if FileType::from_raw_mode(fstat(&file)?.st_mode) == FileType::RegularFile {
        Ok(file)
    } else {
        Err(Errno::NOENT)
    }
}

/// The names in a folder that are text, with what they are.
pub(super) fn names(folder: impl AsFd) -> Result<Vec<(String, FileType)>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(folder)? {
        let entry = entry?;
        match entry.file_name().to_str() {
            Ok("." | "..") | Err(_) => {}
            Ok(name) => names.push((name.to_owned(), entry.file_type())),
        }
    }
    Ok(names)
}

/// The error number of a standard error.
#[allow(
    clippy::needless_pass_by_value,
    reason = "it stands in `map_err`, which gives the error away"
)]
pub(super) fn errno(error: std::io::Error) -> Errno {
    Errno::from_io_error(&error).unwrap_or(Errno::IO)
}
