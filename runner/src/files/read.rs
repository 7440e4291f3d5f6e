//! Reading one file: exactly the bytes that were promised when it was opened, or an error.
//!
//! Before the end is said the file is looked at again. If it was modified since it was opened, and is not larger than
//! it was then, the bytes may be a mixture of old and new: `CHANGED_WHILE_READ`. If it is larger it is taken for a log
//! that was appended to, whose first bytes stayed.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use futures::Stream;
use rustix::fs::{OFlags, Stat};

use super::Files;
use super::fault::Fault;
use super::identity::IdentityPool;
use super::place::{absolute, check_regular, modified_ns, open, permissions, real};
use crate::MAX_FRAME_BYTES;
use crate::proto::read_file_event::Event;
use crate::proto::{FileErrorCode, FileHead, ReadEnd, ReadFileEvent, ReadFileRequest};

enum Step {
    OnlyHead(FileHead),
    Head(FileHead),
    Data,
    Done,
}

struct Reading {
    pool: IdentityPool,
    file: Arc<File>,
    /// When it was opened.
    size: u64,
    modified_ns: i64,
    offset: u64,
    left: u64,
    step: Step,
}

impl Files {
    /// Opens a file and streams the asked range.
    pub(crate) async fn read(
        &self,
        request: ReadFileRequest,
    ) -> Result<impl Stream<Item = Result<ReadFileEvent, Fault>> + Send + use<>, Fault> {
        let volume = Arc::clone(&self.volume);
        let (offset, length) = (request.offset, request.length);
        let only_head = request.only_head;
        let opened = self
            .pool
            .run(move || open_file(&volume, &request.path, offset, length))
            .await?;
        let (file, head) = opened?;
        let reading = Reading {
            pool: self.pool.clone(),
            file: Arc::new(file.into()),
            size: head.size,
            modified_ns: head.modified_ns,
            offset,
            left: head.length,
            step: if only_head {
                Step::OnlyHead(head)
            } else {
                Step::Head(head)
            },
        };
        Ok(futures::stream::unfold(reading, |mut reading| async {
            let event = reading.next().await?;
            if event.is_err() {
                reading.step = Step::Done;
            }
            Some((
                event.map(|event| ReadFileEvent { event: Some(event) }),
                reading,
            ))
        }))
    }
}

impl Reading {
    async fn next(&mut self) -> Option<Result<Event, Fault>> {
        match std::mem::replace(&mut self.step, Step::Data) {
            Step::OnlyHead(head) => {
                self.step = Step::Done;
                Some(Ok(Event::Head(head)))
            }
            Step::Head(head) => Some(Ok(Event::Head(head))),
            Step::Data if self.left == 0 => {
                self.step = Step::Done;
                Some(self.end().await)
            }
            Step::Data => Some(self.read().await),
            Step::Done => None,
        }
    }

    async fn end(&self) -> Result<Event, Fault> {
        let (file, size, modified) = (Arc::clone(&self.file), self.size, self.modified_ns);
        self.pool
            .run(move || check_unchanged(&file, size, modified))
            .await??;
        Ok(Event::End(ReadEnd {}))
    }

    async fn read(&mut self) -> Result<Event, Fault> {
        let length = usize::try_from(self.left)
            .unwrap_or(usize::MAX)
            .min(MAX_FRAME_BYTES);
        let (file, offset) = (Arc::clone(&self.file), self.offset);
        let data = self
            .pool
            .run(move || read_exact(&file, offset, length))
            .await??;
        self.offset += data.len() as u64;
        self.left -= data.len() as u64;
        Ok(Event::Data(data.into()))
    }
}

fn read_exact(file: &File, offset: u64, length: usize) -> Result<Vec<u8>, Fault> {
    let mut data = vec![0; length];
    file.read_exact_at(&mut data, offset).map_err(|error| {
        if error.kind() == std::io::ErrorKind::UnexpectedEof {
            Fault::new(
                FileErrorCode::ChangedWhileRead,
                "the file became shorter while it was read",
            )
        } else {
            error.into()
        }
    })?;
    Ok(data)
}

/// Refuses a file that was modified since it had this size and time, unless it grew.
pub(super) fn check_unchanged(file: &File, size: u64, modified: i64) -> Result<(), Fault> {
    let stat = rustix::fs::fstat(file)?;
    let grew = size_of(&stat) > size;
    if modified_ns(&stat) != modified && !grew {
        return Err(Fault::new(
            FileErrorCode::ChangedWhileRead,
            "the file was modified while it was read",
        ));
    }
    Ok(())
}

/// The size in bytes.
pub(super) fn size_of(stat: &Stat) -> u64 {
    u64::try_from(stat.st_size).unwrap_or(0)
}

fn open_file(
    volume: &Path,
    path: &[u8],
    offset: u64,
    length: u64,
) -> Result<(OwnedFd, FileHead), Fault> {
    let path = absolute(volume, path)?;
    let file = open(&path, OFlags::RDONLY)?;
    let stat = rustix::fs::fstat(&file)?;
    check_regular(&stat)?;
    let size = size_of(&stat);
    if offset > 0 && offset >= size {
        let message = format!("offset {offset} is not below the size, {size}");
        return Err(Fault::new(FileErrorCode::RangeNotSatisfiable, message));
    }
    let rest = size - offset;
    let head = FileHead {
        path: real(&file)?.into_os_string().into_vec().into(),
        size,
        length: if length == 0 { rest } else { rest.min(length) },
        mode: permissions(stat.st_mode),
        modified_ns: modified_ns(&stat),
        inode: stat.st_ino,
    };
    Ok((file, head))
}
