//! Writing one file: whole or not at all, and at most once per job id.
//!
//! The bytes go into a temporary file beside the target, which replaces the target by a rename once all of them are on
//! disk and the permit still holds. Whatever ends the call before that removes the temporary file.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures::{Stream, StreamExt};
use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;
use sha2::{Digest, Sha256};
use tonic::Status;

use super::Files;
use super::fault::{Fault, Refused};
use super::identity::IdentityPool;
use super::mutation::{Reply, Slot};
use super::place::{absolute, check_regular, named_entry, open_folder, permissions};
use crate::MAX_FRAME_BYTES;
use crate::ids::{self, Permit};
use crate::jobs::{Jobs, Refusal};
use crate::proto::write_file_request::Event;
use crate::proto::{FileErrorCode, WriteFileReply, WriteFileRequest, WriteHead};

/// Links that lead to a target, at most: what the kernel allows.
const MAX_LINKS: usize = 40;

const DEFAULT_MODE: u32 = 0o644;

/// Where a file is to be.
struct Target {
    folder: OwnedFd,
    name: OsString,
}

/// A file that is being written.
struct Draft {
    target: Target,
    /// The path as the reply names it.
    path: Vec<u8>,
    temporary: String,
    file: File,
    digest: Sha256,
    size: u64,
}

/// Removes the temporary file of a draft that comes to nothing.
struct Unfinished {
    pool: IdentityPool,
    draft: Arc<Mutex<Option<Draft>>>,
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        let draft = Arc::clone(&self.draft);
        // After whatever still works on it, and with the rights that made it.
        self.pool.detach(move || {
            if let Some(draft) = lock(&draft).take() {
                // Somebody may have removed it already.
                let _ =
                    rustix::fs::unlinkat(&draft.target.folder, &draft.temporary, AtFlags::empty());
            }
        });
    }
}

fn lock(draft: &Mutex<Option<Draft>>) -> std::sync::MutexGuard<'_, Option<Draft>> {
    draft.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Files {
    /// Writes a file from a stream of head, data, end.
    pub(crate) async fn write(
        &self,
        mut events: impl Stream<Item = Result<WriteFileRequest, Status>> + Unpin,
    ) -> Result<WriteFileReply, Refused> {
        let Some(Event::Head(head)) = next(&mut events).await? else {
            return Err(Refused::Request("the first message must be the head"));
        };
        let WriteHead { permit, path, mode } = head;
        let permit =
            Permit::try_from(permit).map_err(|error| Refusal::Invalid(error.to_string()))?;
        self.jobs.permit_mutation(&permit)?;
        let slot = self.mutations.slot(&permit.job);
        if let Some(reply) = slot.lock().await.clone() {
            return written(reply);
        }
        let volume = Arc::clone(&self.volume);
        let draft = self
            .pool
            .run(move || Draft::begin(&volume, &path))
            .await??;
        let unfinished = Unfinished {
            pool: self.pool.clone(),
            draft: Arc::new(Mutex::new(Some(draft))),
        };
        let size = self.receive(&mut events, &unfinished).await?;
        let mode = if mode == 0 {
            DEFAULT_MODE
        } else {
            permissions(mode)
        };
        unfinished
            .on_draft(move |draft| draft.settle(size, mode))
            .await??;
        // It must not be torn by a caller that goes away: the rename and its reply belong together.
        let committing = tokio::spawn(commit(unfinished, Arc::clone(&self.jobs), permit, slot));
        committing
            .await
            .unwrap_or_else(|error| Err(Fault::from(std::io::Error::other(error)).into()))
    }

    /// Takes in the data; answers the size that the end names.
    async fn receive(
        &self,
        events: &mut (impl Stream<Item = Result<WriteFileRequest, Status>> + Unpin),
        unfinished: &Unfinished,
    ) -> Result<u64, Refused> {
        loop {
            match next(events).await? {
                Some(Event::Data(data)) if data.len() > MAX_FRAME_BYTES => {
                    return Err(Refused::Request("data: more bytes than a frame may have"));
                }
                Some(Event::Data(data)) => {
                    unfinished
                        .on_draft(move |draft| draft.append(&data))
                        .await??;
                }
                Some(Event::End(end)) => return Ok(end.size),
                Some(Event::Head(_)) => return Err(Refused::Request("a second head")),
                None => {
                    return Err(Refused::Incomplete(
                        "the content ended without its end".to_owned(),
                    ));
                }
            }
        }
    }
}

async fn next(
    events: &mut (impl Stream<Item = Result<WriteFileRequest, Status>> + Unpin),
) -> Result<Option<Event>, Refused> {
    match events.next().await {
        Some(Ok(request)) => Ok(Some(
            request.event.ok_or(Refused::Request("an empty message"))?,
        )),
        Some(Err(status)) => Err(Refused::Stream(Box::new(status))),
        None => Ok(None),
    }
}

fn written(reply: Reply) -> Result<WriteFileReply, Refused> {
    match reply {
        Reply::Written(reply) => Ok(reply),
        _ => Err(Refusal::AlreadyStarted.into()),
    }
}

async fn commit(
    unfinished: Unfinished,
    jobs: Arc<Jobs>,
    permit: Permit,
    slot: Slot,
) -> Result<WriteFileReply, Refused> {
    let mut done = slot.lock().await;
    if let Some(reply) = done.clone() {
        return written(reply);
    }
    jobs.begin_mutation(&permit)?;
    let reply = unfinished.on_draft(Draft::publish).await??;
    // What was the temporary file is the target now.
    lock(&unfinished.draft).take();
    *done = Some(Reply::Written(reply.clone()));
    Ok(reply)
}

impl Unfinished {
    async fn on_draft<T: Send + 'static>(
        &self,
        act: impl FnOnce(&mut Draft) -> Result<T, Refused> + Send + 'static,
    ) -> Result<Result<T, Refused>, Fault> {
        let draft = Arc::clone(&self.draft);
        self.pool
            .run(move || match lock(&draft).as_mut() {
                Some(draft) => act(draft),
                None => Err(Fault::new(FileErrorCode::FileIo, "the file was given up").into()),
            })
            .await
    }
}

impl Draft {
    fn begin(volume: &Path, path: &[u8]) -> Result<Self, Fault> {
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
        let target = final_target(Target { folder, name })?;
        let temporary = format!(".em-{}.part", ids::random_hex()?);
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&target.folder, &temporary, flags, Mode::RUSR | Mode::WUSR)?;
        Ok(Self {
            target,
            path,
            temporary,
            file: file.into(),
            digest: Sha256::new(),
            size: 0,
        })
    }

    fn append(&mut self, data: &Bytes) -> Result<(), Refused> {
        self.file.write_all(data).map_err(Fault::from)?;
        self.digest.update(data);
        self.size += data.len() as u64;
        Ok(())
    }

    /// Puts the content on disk, whole.
    fn settle(&mut self, size: u64, mode: u32) -> Result<(), Refused> {
        if size != self.size {
            let message = format!("{} bytes arrived, the end names {size}", self.size);
            return Err(Refused::Incomplete(message));
        }
        rustix::fs::fchmod(&self.file, Mode::from_raw_mode(mode)).map_err(Fault::from)?;
        self.file.sync_data().map_err(Fault::from)?;
        Ok(())
    }

    fn publish(&mut self) -> Result<WriteFileReply, Refused> {
        let Target { folder, name } = &self.target;
        rustix::fs::renameat(folder, &self.temporary, folder, name).map_err(Fault::from)?;
        Ok(WriteFileReply {
            path: self.path.clone().into(),
            size: self.size,
            sha256: self.digest.clone().finalize().to_vec().into(),
        })
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
