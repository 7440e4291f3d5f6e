//! Moving what was unpacked into a folder that is there already: looked at first, then moved entry by entry.

use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use rustix::fs::{AtFlags, Dir, FileType};
use rustix::io::Errno;

use super::super::fault::Fault;
use super::tree::{enter, open_to_read};
use crate::proto::FileErrorCode;

/// The entries of a folder.
fn entries(folder: &OwnedFd) -> Result<Vec<OsString>, Errno> {
    let mut names = Vec::new();
    for entry in Dir::read_from(open_to_read(folder)?)? {
        let name = entry?.file_name().to_bytes().to_vec();
        if name != b"." && name != b".." {
            names.push(OsString::from_vec(name));
        }
    }
    Ok(names)
}

/// What a name in a folder is, if it is there; links are not followed.
fn kind(folder: &OwnedFd, name: &OsStr) -> Result<Option<FileType>, Errno> {
    match rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(FileType::from_raw_mode(stat.st_mode))),
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// Refuses what would take the place of a folder, or need one where something else is.
pub(super) fn find_conflict(from: &OwnedFd, to: &OwnedFd, path: &[u8]) -> Result<(), Fault> {
    for name in entries(from)? {
        let new = kind(from, &name)?;
        let Some(old) = kind(to, &name)? else {
            continue;
        };
        let path = [path, b"/", name.as_bytes()].concat();
        let shown = String::from_utf8_lossy(path.get(1..).unwrap_or_default()).into_owned();
        match (new == Some(FileType::Directory), old == FileType::Directory) {
            (true, true) => find_conflict(&enter(from, &name)?, &enter(to, &name)?, &path)?,
            (true, false) => {
                let message = format!("{shown:?} is there and is no folder");
                return Err(Fault::new(FileErrorCode::NotADirectory, message));
            }
            (false, true) => {
                let message = format!("{shown:?} is there and is a folder");
                return Err(Fault::new(FileErrorCode::IsADirectory, message));
            }
            (false, false) => {}
        }
    }
    Ok(())
}

/// Moves all entries; those of folders that are there one by one, each by a rename.
pub(super) fn merge(from: &OwnedFd, to: &OwnedFd) -> Result<(), Fault> {
    for name in entries(from)? {
        let both = kind(from, &name)? == Some(FileType::Directory)
            && kind(to, &name)? == Some(FileType::Directory);
        if both {
            merge(&enter(from, &name)?, &enter(to, &name)?)?;
        } else {
            rustix::fs::renameat(from, &name, to, &name)?;
        }
    }
    Ok(())
}
