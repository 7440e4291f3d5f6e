//! Removing a file, or a folder with all that is in it, without following a link.
//!
//! A tree is walked with one open folder at a time and a list of the names above it, so its depth costs no descriptors
//! and no stack. Going up again is checked: the folder must be the one that was left.

use std::ffi::{CString, OsStr};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::Files;
use super::fault::{Fault, Refused};
use super::mutation::Check;
use super::place::{absolute, named_entry, open_folder};
use crate::proto::{FileErrorCode, RemoveFileReply, RemoveFileRequest};

/// How often a folder is emptied again because somebody puts files into it meanwhile.
const MAX_ROUNDS: usize = 16;

impl Files {
    /// Removes what is at a path, at most once per job id.
    pub(crate) async fn remove(
        &self,
        request: RemoveFileRequest,
    ) -> Result<RemoveFileReply, Refused> {
        let RemoveFileRequest {
            permit,
            path,
            recursive,
        } = request;
        self.once(permit, move |volume, check| {
            remove(volume, &path, recursive, check)
        })
        .await
    }
}

/// Removes a folder with all that is in it, without following a link; how many names.
pub(super) fn remove_tree(
    parent: &OwnedFd,
    name: &OsStr,
    check: Check<'_>,
) -> Result<u64, Refused> {
    let mut removal = Removal { check, removed: 0 };
    removal.remove_tree(parent, name)?;
    Ok(removal.removed)
}

fn remove(
    volume: &Path,
    path: &[u8],
    recursive: bool,
    check: Check<'_>,
) -> Result<RemoveFileReply, Refused> {
    let asked = absolute(volume, path)?;
    let (Some(parent), Some(name)) = (asked.parent(), asked.file_name()) else {
        return Err(protected().into());
    };
    let parent_folder = open_folder(parent).map_err(Fault::from)?;
    let is_folder = is_folder(&parent_folder, name)?;
    if is_folder {
        check_unprotected(volume, &parent_folder, name)?;
    }
    let removed = if is_folder && recursive {
        remove_tree(&parent_folder, name, check)?
    } else {
        let flags = if is_folder {
            AtFlags::REMOVEDIR
        } else {
            AtFlags::empty()
        };
        rustix::fs::unlinkat(&parent_folder, name, flags).map_err(Fault::from)?;
        1
    };
    Ok(RemoveFileReply {
        path: named_entry(&asked, &parent_folder, name).into(),
        removed,
    })
}

pub(super) fn protected() -> Fault {
    Fault::new(
        FileErrorCode::InvalidPath,
        "the root and the volume itself cannot be removed or moved",
    )
}

pub(super) fn is_folder(parent: &OwnedFd, name: &OsStr) -> Result<bool, Fault> {
    let stat = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(FileType::from_raw_mode(stat.st_mode) == FileType::Directory)
}

/// Refuses the root, the volume, and whatever holds the volume.
pub(super) fn check_unprotected(
    volume: &Path,
    parent: &OwnedFd,
    name: &OsStr,
) -> Result<(), Fault> {
    let stat = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
    for path in volume.ancestors() {
        // What the user may not look at, the user cannot remove either.
        let kept = rustix::fs::stat(path).map(|kept| (kept.st_dev, kept.st_ino));
        if kept == Ok((stat.st_dev, stat.st_ino)) {
            return Err(protected());
        }
    }
    Ok(())
}

struct Removal<'a> {
    check: Check<'a>,
    removed: u64,
}

/// A folder on the way down.
struct Level {
    /// Its name in the folder above.
    name: CString,
    /// What the folder above is.
    above: (u64, u64),
    /// Folders in it that are still to be emptied.
    folders: Vec<CString>,
    rounds: usize,
}

impl Removal<'_> {
    fn remove_tree(&mut self, parent: &OwnedFd, name: &OsStr) -> Result<(), Refused> {
        let name = CString::new(name.as_bytes()).map_err(|_| Fault::from(Errno::INVAL))?;
        let mut current = enter(parent, &name).map_err(Fault::from)?;
        let folders = self.empty(&current)?;
        let above = identity(parent)?;
        let mut levels = vec![Level {
            name,
            above,
            folders,
            rounds: 0,
        }];
        while let Some(level) = levels.last_mut() {
            if let Some(name) = level.folders.pop() {
                match enter(&current, &name) {
                    Ok(below) => {
                        let folders = self.empty(&below)?;
                        let above = identity(&current)?;
                        levels.push(Level {
                            name,
                            above,
                            folders,
                            rounds: 0,
                        });
                        current = below;
                    }
                    Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
                    Err(errno) => return Err(Fault::from(errno).into()),
                }
                continue;
            }
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let above =
                rustix::fs::openat(&current, "..", flags, Mode::empty()).map_err(Fault::from)?;
            if identity(&above)? != level.above {
                return Err(Fault::new(
                    FileErrorCode::FileIo,
                    "the tree was moved while it was removed",
                )
                .into());
            }
            (self.check)()?;
            match rustix::fs::unlinkat(&above, &level.name, AtFlags::REMOVEDIR) {
                Err(Errno::NOTEMPTY | Errno::EXIST) if level.rounds < MAX_ROUNDS => {
                    level.rounds += 1;
                    level.folders = self.empty(&current)?;
                    continue;
                }
                Ok(()) => self.removed += 1,
                Err(Errno::NOENT) => {}
                Err(errno) => return Err(Fault::from(errno).into()),
            }
            current = reopen(above)?;
            levels.pop();
        }
        Ok(())
    }

    /// Removes what is no folder from a folder; answers the folders in it.
    fn empty(&mut self, folder: &OwnedFd) -> Result<Vec<CString>, Refused> {
        let mut folders = Vec::new();
        for entry in Dir::read_from(folder).map_err(Fault::from)? {
            let entry = entry.map_err(Fault::from)?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            (self.check)()?;
            match rustix::fs::unlinkat(folder, name, AtFlags::empty()) {
                Ok(()) => self.removed += 1,
                Err(Errno::NOENT) => {}
                Err(Errno::ISDIR | Errno::PERM) if entry_is_folder(folder, name)? => {
                    folders.push(name.to_owned());
                }
                Err(errno) => return Err(Fault::from(errno).into()),
            }
        }
        Ok(folders)
    }
}

fn entry_is_folder(folder: &OwnedFd, name: &std::ffi::CStr) -> Result<bool, Fault> {
    is_folder(folder, OsStr::from_bytes(name.to_bytes()))
}

fn enter(folder: &OwnedFd, name: &CString) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(folder, name, flags, Mode::empty())
}

/// Makes a folder that was opened only as a place readable, if the user may read it; it is only walked through if not.
fn reopen(place: OwnedFd) -> Result<OwnedFd, Fault> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    match rustix::fs::openat(&place, ".", flags, Mode::empty()) {
        Ok(folder) => Ok(folder),
        Err(Errno::ACCESS) => Ok(place),
        Err(errno) => Err(errno.into()),
    }
}

fn identity(folder: &OwnedFd) -> Result<(u64, u64), Fault> {
    let stat = rustix::fs::fstat(folder)?;
    Ok((stat.st_dev, stat.st_ino))
}
