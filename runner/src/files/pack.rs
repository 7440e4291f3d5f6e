//! Packing a folder, or one file, into an archive that is written while it is read.
//!
//! ```text
//!   folder ──▶ levels, one open folder each ──▶ header, content ──▶ frames ──▶ end
//! ```
//!
//! Links are packed as links and never followed. Each file is read as it was announced in its header, or the archive has
//! no end: see [`super::read`]. Sockets, FIFOs and devices are left out, and so is what is being uploaded right now; what
//! is removed meanwhile is as if it never was. Memory is bounded by the depth of the folder, not by its size.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::Read as _;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use futures::Stream;
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::Files;
use super::fault::Fault;
use super::place::{absolute, modified_ns, open, permissions, real};
use super::read::{check_unchanged, size_of};
use super::tar::{self, Meta, Shape, write_header};
use crate::MAX_FRAME_BYTES;
use crate::proto::pack_event::Event;
use crate::proto::{FileErrorCode, PackEnd, PackEvent, PackHead, PackRequest};

/// Folders in each other, at most.
const MAX_DEPTH: usize = 256;

/// Files with several names that are remembered; further names of others are packed as files of their own.
const MAX_LINKED: usize = 65_536;

impl Files {
    /// Opens what is at a path and streams an archive of it.
    pub(crate) async fn pack(
        &self,
        request: PackRequest,
    ) -> Result<impl Stream<Item = Result<PackEvent, Fault>> + Send + use<>, Fault> {
        let volume = Arc::clone(&self.volume);
        let opened = self
            .pool
            .run(move || Packing::open(&volume, &request.path))
            .await?;
        let (packing, path) = opened?;
        let head = Event::Head(PackHead { path: path.into() });
        let pool = self.pool.clone();
        let state = (Some(Arc::new(Mutex::new(packing))), Some(head));
        Ok(futures::stream::unfold(state, move |(packing, head)| {
            let pool = pool.clone();
            async move {
                if let Some(head) = head {
                    return Some((Ok(PackEvent { event: Some(head) }), (packing, None)));
                }
                let packing = packing?;
                let worked = Arc::clone(&packing);
                let frame = pool
                    .run(move || {
                        worked
                            .lock()
                            .unwrap_or_else(PoisonError::into_inner)
                            .frame()
                    })
                    .await
                    .and_then(|frame| frame);
                let (event, packing) = match frame {
                    Ok(Frame::Data(data)) => (Ok(Event::Data(data.into())), Some(packing)),
                    Ok(Frame::End(size)) => (Ok(Event::End(PackEnd { size })), None),
                    Err(fault) => (Err(fault), None),
                };
                Some((
                    event.map(|event| PackEvent { event: Some(event) }),
                    (packing, None),
                ))
            }
        }))
    }
}

enum Frame {
    Data(Vec<u8>),
    End(u64),
}

/// An archive that is being made.
struct Packing {
    levels: Vec<Level>,
    file: Option<Reading>,
    /// The first name of each file that has several.
    linked: HashMap<(u64, u64), Vec<u8>>,
    /// What waits to be sent.
    waiting: Vec<u8>,
    sent: u64,
    ended: bool,
}

/// A folder on the way down.
struct Level {
    entries: Dir,
    folder: OwnedFd,
    /// Its path in the archive, with a slash behind it; empty for the folder itself.
    prefix: Vec<u8>,
}

/// A file whose content is on its way.
struct Reading {
    file: File,
    size: u64,
    left: u64,
    modified_ns: i64,
}

impl Packing {
    fn open(volume: &Path, path: &[u8]) -> Result<(Self, Vec<u8>), Fault> {
        let asked = absolute(volume, path)?;
        let opened = open(&asked, OFlags::RDONLY)?;
        let stat = rustix::fs::fstat(&opened)?;
        let real = real(&opened)?;
        let mut packing = Self {
            levels: Vec::new(),
            file: None,
            linked: HashMap::new(),
            waiting: Vec::new(),
            sent: 0,
            ended: false,
        };
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => packing.levels.push(Level::of(opened, Vec::new())?),
            FileType::RegularFile => {
                let name = real.file_name().unwrap_or(real.as_os_str());
                packing.begin_file(opened, &stat, name.as_bytes());
            }
            _ => {
                return Err(Fault::new(
                    FileErrorCode::NotARegularFile,
                    "it is neither a file nor a folder",
                ));
            }
        }
        Ok((packing, real.into_os_string().into_vec()))
    }

    /// The next bytes of the archive.
    fn frame(&mut self) -> Result<Frame, Fault> {
        while self.waiting.len() < MAX_FRAME_BYTES && !self.ended {
            self.step()?;
        }
        if self.waiting.is_empty() {
            return Ok(Frame::End(self.sent));
        }
        let length = self.waiting.len().min(MAX_FRAME_BYTES);
        let rest = self.waiting.split_off(length);
        let data = std::mem::replace(&mut self.waiting, rest);
        self.sent += data.len() as u64;
        Ok(Frame::Data(data))
    }

    /// Some content, or the next entry, or the end.
    fn step(&mut self) -> Result<(), Fault> {
        if let Some(reading) = &mut self.file {
            if reading.left > 0 {
                return reading.read_into(&mut self.waiting);
            }
            check_unchanged(&reading.file, reading.size, reading.modified_ns)?;
            tar::pad(&mut self.waiting, reading.size);
            self.file = None;
            return Ok(());
        }
        let Some(level) = self.levels.last_mut() else {
            tar::end(&mut self.waiting);
            self.ended = true;
            return Ok(());
        };
        match level.entries.read().transpose()? {
            None => {
                self.levels.pop();
                Ok(())
            }
            Some(entry) => {
                let name = entry.file_name().to_bytes().to_vec();
                if name == b"." || name == b".." || is_upload(&name) {
                    return Ok(());
                }
                self.add(&name)
            }
        }
    }

    /// Adds an entry of the innermost folder.
    fn add(&mut self, name: &[u8]) -> Result<(), Fault> {
        let Some(level) = self.levels.last() else {
            return Ok(());
        };
        let path = [&level.prefix, name].concat();
        let at = |error: Fault| error.at(&path);
        let name = OsStr::from_bytes(name);
        let stat = match rustix::fs::statat(&level.folder, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => return Ok(()),
            stat => stat.map_err(|errno| at(errno.into()))?,
        };
        let kind = FileType::from_raw_mode(stat.st_mode);
        match kind {
            FileType::Symlink => {
                let target = match rustix::fs::readlinkat(&level.folder, name, Vec::new()) {
                    Err(Errno::NOENT) => return Ok(()),
                    target => target.map_err(|errno| at(errno.into()))?,
                };
                let shape = Shape::Symlink {
                    target: target.as_bytes(),
                };
                self.write(&path, &stat, shape);
                Ok(())
            }
            FileType::Directory | FileType::RegularFile => {
                let flags = OFlags::RDONLY
                    | OFlags::NOFOLLOW
                    | OFlags::NONBLOCK
                    | OFlags::NOCTTY
                    | OFlags::CLOEXEC;
                let opened = match rustix::fs::openat(&level.folder, name, flags, Mode::empty()) {
                    // Gone, or something else meanwhile.
                    Err(Errno::NOENT | Errno::LOOP | Errno::NXIO) => return Ok(()),
                    opened => opened.map_err(|errno| at(errno.into()))?,
                };
                let stat = rustix::fs::fstat(&opened).map_err(|errno| at(errno.into()))?;
                match FileType::from_raw_mode(stat.st_mode) {
                    FileType::Directory => self.descend(opened, &stat, path),
                    FileType::RegularFile => {
                        self.begin_file(opened, &stat, &path);
                        Ok(())
                    }
                    _ => Ok(()),
                }
            }
            _ => Ok(()),
        }
    }

    fn descend(&mut self, folder: OwnedFd, stat: &Stat, mut path: Vec<u8>) -> Result<(), Fault> {
        if self.levels.len() >= MAX_DEPTH {
            let message = "a folder lies deeper than 256 folders";
            return Err(Fault::new(FileErrorCode::InvalidPath, message).at(&path));
        }
        path.push(b'/');
        self.write(&path, stat, Shape::Folder);
        let level = Level::of(folder, path)?;
        self.levels.push(level);
        Ok(())
    }

    fn begin_file(&mut self, opened: OwnedFd, stat: &Stat, path: &[u8]) {
        if stat.st_nlink > 1 {
            let inode = (stat.st_dev, stat.st_ino);
            if let Some(target) = self.linked.get(&inode).cloned() {
                self.write(path, stat, Shape::HardLink { target: &target });
                return;
            }
            if self.linked.len() < MAX_LINKED {
                self.linked.insert(inode, path.to_vec());
            }
        }
        let size = size_of(stat);
        self.write(path, stat, Shape::File { size });
        self.file = Some(Reading {
            file: opened.into(),
            size,
            left: size,
            modified_ns: modified_ns(stat),
        });
    }

    fn write(&mut self, name: &[u8], stat: &Stat, shape: Shape<'_>) {
        let meta = Meta {
            name,
            mode: permissions(stat.st_mode),
            mtime: stat.st_mtime,
        };
        write_header(&mut self.waiting, meta, shape);
    }
}

impl Level {
    fn of(folder: OwnedFd, prefix: Vec<u8>) -> Result<Self, Fault> {
        Ok(Self {
            entries: Dir::read_from(&folder)?,
            folder,
            prefix,
        })
    }
}

impl Reading {
    /// Reads as much as a frame has, into it.
    fn read_into(&mut self, out: &mut Vec<u8>) -> Result<(), Fault> {
        let most = (MAX_FRAME_BYTES as u64).min(self.left);
        let read = (&self.file).take(most).read_to_end(out)? as u64;
        if read < most {
            return Err(Fault::new(
                FileErrorCode::ChangedWhileRead,
                "a file became shorter while it was read",
            ));
        }
        self.left -= read;
        Ok(())
    }
}

/// Whether a name is that of a file or folder that is being uploaded.
fn is_upload(name: &[u8]) -> bool {
    name.strip_prefix(b".em-")
        .and_then(|rest| rest.strip_suffix(b".part"))
        .is_some_and(|hex| hex.len() == 32 && hex.iter().all(u8::is_ascii_hexdigit))
}
