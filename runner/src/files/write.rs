//! Writing one file: whole or not at all, and at most once per job id.
//!
//! The bytes go into a draft beside the target, which replaces the target by a rename once all of them are on disk and the
//! permit still holds ([`super::draft`]).

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Write;
use std::num::NonZeroU64;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use futures::Stream;
use rustix::fs::{Advice, AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;
use sha2::{Digest, Sha256};
use tonic::Status;

use super::Files;
use super::draft::{self, Draft, Message, Piece, Place};
use super::fault::{Fault, Refused};
use super::place::{absolute, check_regular, named_entry, open_folder, permissions};
use crate::ids::Permit;
use crate::jobs::Refusal;
use crate::proto::write_file_request::Event;
use crate::proto::{FileErrorCode, WriteFileReply, WriteFileRequest, WriteHead};

/// Links that lead to a target, at most: what the kernel allows.
const MAX_LINKS: usize = 40;

const DEFAULT_MODE: u32 = 0o644;

/// Bytes that are sent to the disk together.
const LEAVING_BYTES: u64 = 8 << 20;

/// Where a file is to be.
struct Target {
    folder: OwnedFd,
    name: OsString,
}

/// Where a file is to be, and how.
struct FilePlace {
    target: Target,
    /// The path as the reply names it.
    path: Vec<u8>,
    mode: u32,
}

/// A file that is being written.
struct FileDraft {
    place: FilePlace,
    temporary: String,
    file: File,
    digest: Sha256,
    size: u64,
    /// So many bytes from the start are on their way to the disk.
    leaving: u64,
}

impl FileDraft {
    /// Sends what came to the disk while more comes, so that little is waited for at the end.
    fn leave(&mut self) {
        let fresh = self.size - self.leaving;
        if fresh >= LEAVING_BYTES {
            // Advice: a file system that knows nothing of it is slower, and no less right.
            let _ = rustix::fs::fadvise(
                &self.file,
                self.leaving,
                NonZeroU64::new(fresh),
                Advice::DontNeed,
            );
            self.leaving = self.size;
        }
    }
}

impl Message for WriteFileRequest {
    type Head = WriteHead;

    fn piece(self) -> Option<Piece<WriteHead>> {
        Some(match self.event? {
            Event::Head(head) => Piece::Head(head),
            Event::Data(data) => Piece::Data(data),
            Event::End(end) => Piece::End(end.size),
        })
    }
}

impl Files {
    /// Writes a file from a stream of head, data, end.
    pub(crate) async fn write(
        &self,
        mut events: impl Stream<Item = Result<WriteFileRequest, Status>> + Unpin,
    ) -> Result<WriteFileReply, Refused> {
        let WriteHead { permit, path, mode } = draft::head(&mut events).await?;
        let permit =
            Permit::try_from(permit).map_err(|error| Refusal::Invalid(error.to_string()))?;
        let find = move |volume: &Path| FilePlace::find(volume, &path, mode);
        self.take_in(permit, events, find).await
    }
}

impl FilePlace {
    fn find(volume: &Path, path: &[u8], mode: u32) -> Result<Self, Fault> {
        let asked = absolute(volume, path)?;
        if path.ends_with(b"/") || path.ends_with(b"/.") {
            return Err(Fault::new(
                FileErrorCode::IsADirectory,
                "the path names a directory",
            ));
        }
        let (folder, name) = folder_and_name(&asked)?;
        make_folders(&folder)?;
        let folder = open_folder(&folder)?;
        let path = named_entry(&asked, &folder, &name);
        let mode = match mode {
            0 => DEFAULT_MODE,
            mode => permissions(mode),
        };
        Ok(Self {
            target: final_target(Target { folder, name })?,
            path,
            mode,
        })
    }
}

impl Place for FilePlace {
    type Draft = FileDraft;

    fn folder(&self) -> &OwnedFd {
        &self.target.folder
    }

    fn begin(self, name: &str) -> Result<FileDraft, Fault> {
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = Mode::RUSR | Mode::WUSR;
        let file = rustix::fs::openat(&self.target.folder, name, flags, mode)?;
        Ok(FileDraft {
            place: self,
            temporary: name.to_owned(),
            file: file.into(),
            digest: Sha256::new(),
            size: 0,
            leaving: 0,
        })
    }
}

impl Draft for FileDraft {
    type Reply = WriteFileReply;

    fn append(&mut self, data: &Bytes) -> Result<(), Refused> {
        self.file.write_all(data).map_err(Fault::from)?;
        self.digest.update(data);
        self.size += data.len() as u64;
        self.leave();
        Ok(())
    }

    fn settle(&mut self, size: u64) -> Result<(), Refused> {
        if size != self.size {
            let message = format!("{} bytes arrived, the end names {size}", self.size);
            return Err(Refused::Incomplete(message));
        }
        let mode = Mode::from_raw_mode(self.place.mode);
        rustix::fs::fchmod(&self.file, mode).map_err(Fault::from)?;
        self.file.sync_data().map_err(Fault::from)?;
        Ok(())
    }

    fn publish(&mut self) -> Result<WriteFileReply, Refused> {
        let Target { folder, name } = &self.place.target;
        rustix::fs::renameat(folder, &self.temporary, folder, name).map_err(Fault::from)?;
        Ok(WriteFileReply {
            path: self.place.path.clone().into(),
            size: self.size,
            sha256: self.digest.clone().finalize().to_vec().into(),
        })
    }

    fn discard(self) {
        // It became the file, or somebody has removed it already.
        let _ = rustix::fs::unlinkat(&self.place.target.folder, &self.temporary, AtFlags::empty());
    }
}

/// Makes a folder and those above it, as far as they are missing.
pub(super) fn make_folders(folder: &Path) -> Result<(), Fault> {
    let made = std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(folder);
    made.map_err(|error| match error.kind() {
        std::io::ErrorKind::AlreadyExists => Errno::NOTDIR.into(),
        _ => error.into(),
    })
}

/// Follows links at the target itself: a file that is reached by a link is written where it is.
fn final_target(mut target: Target) -> Result<Target, Fault> {
    for _ in 0..MAX_LINKS {
        let stat = match rustix::fs::statat(&target.folder, &target.name, AtFlags::SYMLINK_NOFOLLOW)
        {
            Ok(stat) => stat,
            Err(Errno::NOENT) => return Ok(target),
            Err(errno) => return Err(errno.into()),
        };
        if FileType::from_raw_mode(stat.st_mode) != FileType::Symlink {
            check_regular(&stat)?;
            return Ok(target);
        }
        let link = rustix::fs::readlinkat(&target.folder, &target.name, Vec::new())?;
        let (folder, name) = folder_and_name(Path::new(OsStr::from_bytes(link.as_bytes())))?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = rustix::fs::openat(&target.folder, &folder, flags, Mode::empty())?;
        target = Target { folder, name };
    }
    Err(Errno::LOOP.into())
}

fn folder_and_name(path: &Path) -> Result<(PathBuf, OsString), Fault> {
    let Some(name) = path.file_name() else {
        return Err(Fault::new(
            FileErrorCode::IsADirectory,
            "the path names a directory",
        ));
    };
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    Ok((folder.to_owned(), name.to_owned()))
}
