//! Paths as they come in, and opening them.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

use super::fault::Fault;
use crate::proto::FileErrorCode;

/// The absolute path that a request means, without `.` and repeated slashes. `..` stays: only the kernel knows where
/// it leads.
pub(crate) fn absolute(volume: &Path, path: &[u8]) -> Result<PathBuf, Fault> {
    if path.contains(&0) {
        return Err(Fault::new(
            FileErrorCode::InvalidPath,
            "the path has a NUL byte",
        ));
    }
    Ok(volume.join(OsStr::from_bytes(path)).components().collect())
}

/// The path that a reply names: as asked for, unless only the kernel knows it.
pub(crate) fn named(asked: &Path, opened: &OwnedFd) -> Vec<u8> {
    let is_plain = !asked
        .components()
        .any(|component| component == Component::ParentDir);
    let named = if is_plain {
        Ok(asked.to_owned())
    } else {
        real(opened)
    };
    named
        .unwrap_or_else(|_| asked.to_owned())
        .into_os_string()
        .into_vec()
}

/// The path that a reply names for an entry of an open folder; `asked` is the entry's path.
pub(crate) fn named_entry(asked: &Path, folder: &OwnedFd, name: &OsStr) -> Vec<u8> {
    let folder = OsString::from_vec(named(asked.parent().unwrap_or(asked), folder));
    PathBuf::from(folder).join(name).into_os_string().into_vec()
}

/// Where an open file is, with all links resolved.
pub(crate) fn real(opened: &OwnedFd) -> io::Result<PathBuf> {
    std::fs::read_link(format!("/proc/self/fd/{}", opened.as_raw_fd()))
}

/// Opens a path without waiting for anybody, and without following the links in `/proc` that lead to this process' own
/// descriptors.
pub(crate) fn open(path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
    let flags = flags | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    match rustix::fs::openat2(CWD, path, flags, Mode::empty(), ResolveFlags::NO_MAGICLINKS) {
        // Old kernels, and sandboxes that do not know the call.
        Err(Errno::NOSYS | Errno::PERM | Errno::INVAL) => {
            rustix::fs::openat(CWD, path, flags, Mode::empty())
        }
        opened => opened,
    }
}

/// Opens a folder to work in; it need not be readable.
pub(crate) fn open_folder(path: &Path) -> Result<OwnedFd, Errno> {
    open(path, OFlags::PATH | OFlags::DIRECTORY)
}

/// Refuses what is not a regular file.
pub(crate) fn check_regular(stat: &Stat) -> Result<(), Fault> {
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => Ok(()),
        FileType::Directory => Err(Fault::new(FileErrorCode::IsADirectory, "it is a directory")),
        _ => Err(Fault::new(
            FileErrorCode::NotARegularFile,
            "it is not a regular file",
        )),
    }
}

/// The modification time in nanoseconds since 1970.
pub(crate) fn modified_ns(stat: &Stat) -> i64 {
    let nanos = i64::try_from(stat.st_mtime_nsec).unwrap_or(0);
    stat.st_mtime
        .saturating_mul(1_000_000_000)
        .saturating_add(nanos)
}

/// The permission bits of a mode.
pub(crate) fn permissions(mode: u32) -> u32 {
    mode & 0o7777
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relative_paths_start_at_the_volume() {
        let absolute = |path: &[u8]| {
            absolute(Path::new("/app"), path)
                .unwrap()
                .into_os_string()
                .into_vec()
        };
        assert_eq!(absolute(b""), b"/app");
        assert_eq!(absolute(b"./a//b/."), b"/app/a/b");
        assert_eq!(absolute(b"/etc/x"), b"/etc/x");
        assert_eq!(absolute(b"../x\xff"), b"/app/../x\xff");
    }
}
