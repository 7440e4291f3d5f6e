//! The folder that an archive becomes, made entry by entry.
//!
//! Whatever is written is reached from the folder's own descriptor, one part of a name after the other, never through a
//! link, so that what an earlier entry made leads no later one astray.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::FileExt;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Timespec, Timestamps};
use rustix::io::Errno;

use super::super::fault::{Fault, Refused};
use super::super::tar::{Content, Entry, Sink};
use super::names::{check_link, in_the_way, parts, refused};

/// What is being unpacked: a folder, and the file that is written now.
pub(super) struct Tree {
    pub(super) root: OwnedFd,
    /// The folder of the entry before, which mostly is that of the next one.
    last: Option<(Vec<Vec<u8>>, OwnedFd)>,
    file: Option<Writing>,
    pub(super) entries: u64,
}

struct Writing {
    file: File,
    size: u64,
    mode: u32,
    mtime: i64,
}

impl Tree {
    pub(super) fn new(root: OwnedFd) -> Self {
        Self {
            root,
            last: None,
            file: None,
            entries: 0,
        }
    }

    /// The folder, whole: nothing is written any more, and all that was is on the disk.
    pub(super) fn settle(&mut self) -> Result<(), Errno> {
        self.file = None;
        // All of its file system: the files of an archive are many, and this is one call.
        rustix::fs::syncfs(open_to_read(&self.root)?)
    }

    /// The folder of those names, made where it is missing; no part of it is a link.
    fn folder(&mut self, names: &[Vec<u8>]) -> Result<OwnedFd, Errno> {
        if let Some((known, folder)) = &self.last
            && known == names
        {
            return rustix::io::fcntl_dupfd_cloexec(folder, 0);
        }
        let mut folder = rustix::io::fcntl_dupfd_cloexec(&self.root, 0)?;
        for name in names {
            let name = OsStr::from_bytes(name);
            match rustix::fs::mkdirat(&folder, name, Mode::from_raw_mode(0o755)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(errno) => return Err(errno),
            }
            folder = enter(&folder, name)?;
        }
        self.last = Some((names.to_vec(), rustix::io::fcntl_dupfd_cloexec(&folder, 0)?));
        Ok(folder)
    }

    /// Takes away what an earlier entry of the same name made.
    fn clear(folder: &OwnedFd, name: &OsStr) -> Result<(), Errno> {
        match rustix::fs::unlinkat(folder, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(errno),
        }
    }

    fn begin_file(
        &mut self,
        folder: &OwnedFd,
        name: &OsStr,
        entry: &Entry,
        size: u64,
    ) -> Result<(), Errno> {
        Self::clear(folder, name)?;
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(folder, name, flags, Mode::RUSR | Mode::WUSR)?;
        self.file = Some(Writing {
            file: file.into(),
            size,
            mode: entry.mode & 0o777,
            mtime: entry.mtime,
        });
        Ok(())
    }

    fn hard_link(
        &mut self,
        folder: &OwnedFd,
        name: &OsStr,
        shown: &str,
        target: &[u8],
    ) -> Result<(), Fault> {
        let mut names = parts(target, shown)?;
        let Some(last) = names.pop() else {
            return Err(refused(shown, "links to the folder itself"));
        };
        let last = OsStr::from_bytes(&last);
        let missing = |errno| match errno {
            Errno::NOENT | Errno::NOTDIR | Errno::LOOP => {
                refused(shown, "links to what is not in the archive before it")
            }
            errno => errno.into(),
        };
        let mut source = rustix::io::fcntl_dupfd_cloexec(&self.root, 0)?;
        for name in &names {
            source = enter(&source, OsStr::from_bytes(name)).map_err(missing)?;
        }
        let stat = rustix::fs::statat(&source, last, AtFlags::SYMLINK_NOFOLLOW).map_err(missing)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(refused(shown, "links to what is no file"));
        }
        let same = rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW)
            .is_ok_and(|there| (there.st_dev, there.st_ino) == (stat.st_dev, stat.st_ino));
        if same {
            return Ok(());
        }
        Self::clear(folder, name)?;
        rustix::fs::linkat(&source, last, folder, name, AtFlags::empty())?;
        Ok(())
    }
}

impl Sink for Tree {
    type Error = Refused;

    fn begin(&mut self, entry: Entry) -> Result<(), Refused> {
        self.entries += 1;
        let shown = String::from_utf8_lossy(&entry.name).into_owned();
        let mut names = parts(&entry.name, &shown)?;
        let is_folder = entry.content == Content::Folder;
        let Some(last) = names.pop() else {
            return match is_folder {
                // The folder itself, which is there.
                true => Ok(()),
                false => Err(refused(&shown, "has no name").into()),
            };
        };
        let last = OsString::from_vec(last);
        let placed = self
            .folder(&names)
            .map_err(|errno| in_the_way(&shown, errno))?;
        match &entry.content {
            Content::Folder => {
                // Its owner can always go in, else what follows could not be written.
                let mode = Mode::from_raw_mode(entry.mode & 0o777 | 0o700);
                match rustix::fs::mkdirat(&placed, &last, mode) {
                    Ok(()) => {}
                    Err(Errno::EXIST) => {
                        enter(&placed, &last).map_err(|errno| in_the_way(&shown, errno))?;
                    }
                    Err(errno) => return Err(Fault::from(errno).into()),
                }
                rustix::fs::chmodat(&placed, &last, mode, AtFlags::empty()).map_err(Fault::from)?;
            }
            Content::File { size } => {
                self.begin_file(&placed, &last, &entry, *size)
                    .map_err(|errno| in_the_way(&shown, errno))?;
            }
            Content::HardLink { target } => self.hard_link(&placed, &last, &shown, target)?,
            Content::Symlink { target } => {
                check_link(target, names.len(), &shown)?;
                Self::clear(&placed, &last).map_err(|errno| in_the_way(&shown, errno))?;
                rustix::fs::symlinkat(OsStr::from_bytes(target), &placed, &last)
                    .map_err(Fault::from)?;
            }
            Content::Other => {
                return Err(refused(&shown, "is neither a file, a folder nor a link").into());
            }
        }
        Ok(())
    }

    fn data(&mut self, offset: u64, bytes: &[u8]) -> Result<(), Refused> {
        if let Some(writing) = &self.file {
            writing
                .file
                .write_all_at(bytes, offset)
                .map_err(Fault::from)?;
        }
        Ok(())
    }

    fn end(&mut self) -> Result<(), Refused> {
        let Some(writing) = self.file.take() else {
            return Ok(());
        };
        let settle = || {
            rustix::fs::ftruncate(&writing.file, writing.size)?;
            rustix::fs::fchmod(&writing.file, Mode::from_raw_mode(writing.mode))?;
            let time = Timespec {
                tv_sec: writing.mtime,
                tv_nsec: 0,
            };
            let times = Timestamps {
                last_access: time,
                last_modification: time,
            };
            rustix::fs::futimens(&writing.file, &times)
        };
        Ok(settle().map_err(Fault::from)?)
    }
}

/// Enters a folder that is no link.
pub(super) fn enter(folder: &OwnedFd, name: &OsStr) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(folder, name, flags, Mode::empty())
}

/// The same folder, to be read.
pub(super) fn open_to_read(folder: &OwnedFd) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat(folder, ".", flags, Mode::empty())
}
