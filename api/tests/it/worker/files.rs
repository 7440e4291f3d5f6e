//! File jobs in a folder of this machine. A file called `breaks` fails after its first part.

use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _};
use jiff::Timestamp;
use shared::job::{
    ByteContent, DownloadHead, Entry, EntryType, Job, JobInput, JobResult, Outcome, Progress,
    Wanted,
};
use shared::octets::Octets;
use shared::staging::{self, INLINE_BYTES, PART_BYTES};

use super::{Hand, sha256};

/// A path of a job in the environment's folder.
pub(super) fn path_in(folder: &Path, path: &Octets) -> PathBuf {
    let path = path.0.strip_prefix(b"/app").unwrap_or(&path.0);
    let path = path.strip_prefix(b"/").unwrap_or(path);
    folder.join(std::ffi::OsStr::from_bytes(path))
}

fn failed(error: &std::io::Error) -> Outcome {
    let code = match error.kind() {
        ErrorKind::NotFound => "file_not_found",
        ErrorKind::AlreadyExists => "already_exists",
        ErrorKind::NotADirectory => "not_a_directory",
        ErrorKind::IsADirectory => "is_a_directory",
        ErrorKind::DirectoryNotEmpty => "directory_not_empty",
        _ => "file_io",
    };
    Outcome::failure(code, error.to_string())
}

impl Hand {
    pub(super) async fn file(&self, job: &Job, folder: &Path) -> Outcome {
        let done = match &job.input {
            JobInput::Upload {
                path,
                mode,
                content,
            } => {
                self.upload(job, &path_in(folder, path), *mode, content)
                    .await
            }
            JobInput::Download { path, wanted } => {
                self.download(job, &path_in(folder, path), wanted).await
            }
            JobInput::Move { from, to } => {
                std::fs::rename(path_in(folder, from), path_in(folder, to)).map(|()| {
                    let (from, to) = (from.clone(), to.clone());
                    Outcome::success(JobResult::Moved { from, to })
                })
            }
            JobInput::Mkdir { path, .. } => std::fs::create_dir(path_in(folder, path)).map(|()| {
                let (path, made) = (path.clone(), true);
                Outcome::success(JobResult::MadeFolder { path, made })
            }),
            JobInput::Pack { path } => self.pack(job, &path_in(folder, path)).await,
            JobInput::Unpack { path, content } => {
                self.unpack(job, &path_in(folder, path), content).await
            }
            JobInput::List {
                path, after, limit, ..
            } => list(&path_in(folder, path), after, *limit as usize),
            JobInput::Remove { path, recursive } => remove(&path_in(folder, path), *recursive),
            _ => unreachable!("only file jobs come here"),
        };
        match done {
            Ok(outcome) => outcome,
            Err(error) => failed(&error),
        }
    }

    async fn upload(
        &self,
        job: &Job,
        path: &Path,
        mode: Option<u32>,
        content: &ByteContent,
    ) -> std::io::Result<Outcome> {
        let bytes = self.bytes_of(job, content).await;
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent)?;
        }
        std::fs::write(path, &bytes)?;
        let mode = std::fs::Permissions::from_mode(mode.unwrap_or(0o644));
        std::fs::set_permissions(path, mode)?;
        Ok(Outcome::success(JobResult::Uploaded {
            path: path.as_os_str().as_bytes().to_vec().into(),
            size: bytes.len() as u64,
            sha256: sha256(&bytes),
        }))
    }

    async fn bytes_of(&self, job: &Job, content: &ByteContent) -> Bytes {
        match content {
            ByteContent::Inline(octets) => octets.0.clone(),
            ByteContent::Staged { .. } => {
                let name = staging::part(&job.at(), 0).expect("a name");
                let (_, stream) = self.blobs.get(&name).await.expect("staged");
                let all = stream.try_collect::<Vec<Bytes>>().await.expect("read");
                all.concat().into()
            }
        }
    }

    async fn download(&self, job: &Job, path: &Path, wanted: &Wanted) -> std::io::Result<Outcome> {
        let bytes = Bytes::from(std::fs::read(path)?);
        let metadata = std::fs::metadata(path)?;
        let etag = format!("\"{}-{}\"", metadata.ino(), metadata.mtime());
        let span = wanted.span(bytes.len() as u64, &etag);
        let head = DownloadHead {
            path: path.as_os_str().as_bytes().to_vec().into(),
            size: bytes.len() as u64,
            verdict: span.verdict,
            offset: span.offset,
            length: span.length,
            mode: metadata.mode() & 0o7777,
            modified_at: Timestamp::from_second(metadata.mtime()).expect("a time"),
            etag,
        };
        let from = usize::try_from(span.offset).expect("small");
        let length = if wanted.only_head { 0 } else { span.length };
        let bytes = bytes.slice(from..from + usize::try_from(length).expect("small"));
        let breaks = path.ends_with("breaks");
        Ok(match self.keep(job, Some(&head), bytes, breaks).await {
            Some(content) => Outcome::success(JobResult::Downloaded { head, content }),
            None => Outcome::failure("changed_while_read", "it changed"),
        })
    }

    /// Keeps bytes in the job or in parts; nothing where it breaks after the first.
    async fn keep(
        &self,
        job: &Job,
        head: Option<&DownloadHead>,
        bytes: Bytes,
        breaks: bool,
    ) -> Option<ByteContent> {
        if bytes.len() <= INLINE_BYTES {
            return Some(ByteContent::Inline(Octets(bytes)));
        }
        let mut parts = 0;
        for part in bytes.chunks(PART_BYTES) {
            if parts == 1 && breaks {
                return None;
            }
            let name = staging::part(&job.at(), parts).expect("a name");
            let content = futures::stream::iter([Ok(Bytes::copy_from_slice(part))]).boxed();
            self.blobs.put(&name, content).await.expect("put");
            parts += 1;
            let progress = Progress {
                head: head.cloned(),
                parts,
            };
            let noted = self.store.progress(&job.at(), job.fence, progress).await;
            noted.expect("noted");
        }
        let size = bytes.len() as u64;
        Some(ByteContent::Staged { size, parts })
    }

    async fn pack(&self, job: &Job, path: &Path) -> std::io::Result<Outcome> {
        std::fs::metadata(path)?;
        let mut tar = tokio::process::Command::new("tar");
        let output = tar.arg("-C").arg(path).args(["-cf", "-", "."]).output();
        let bytes = Bytes::from(output.await?.stdout);
        let breaks = path.ends_with("breaks");
        let path = path.as_os_str().as_bytes().to_vec().into();
        Ok(match self.keep(job, None, bytes, breaks).await {
            Some(content) => Outcome::success(JobResult::Packed { path, content }),
            None => Outcome::failure("changed_while_read", "it changed"),
        })
    }

    async fn unpack(
        &self,
        job: &Job,
        path: &Path,
        content: &ByteContent,
    ) -> std::io::Result<Outcome> {
        let bytes = self.bytes_of(job, content).await;
        let archive = path.with_extension("tar");
        std::fs::create_dir_all(path)?;
        std::fs::write(&archive, &bytes)?;
        let mut tar = tokio::process::Command::new("tar");
        let done = tar.arg("-C").arg(path).arg("-xf").arg(&archive).output();
        if !done.await?.status.success() {
            return Ok(Outcome::failure("archive_refused", "it is no archive"));
        }
        Ok(Outcome::success(JobResult::Unpacked {
            path: path.as_os_str().as_bytes().to_vec().into(),
            entries: 1,
            size: bytes.len() as u64,
        }))
    }
}

fn list(path: &Path, after: &Octets, limit: usize) -> std::io::Result<Outcome> {
    let mut entries = Vec::new();
    for entry in std::fs::read_dir(path)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        entries.push(Entry {
            name: entry.file_name().as_bytes().to_vec().into(),
            kind: if metadata.is_dir() {
                EntryType::Directory
            } else if metadata.is_symlink() {
                EntryType::Symlink
            } else if metadata.is_file() {
                EntryType::File
            } else {
                EntryType::Other
            },
            size: metadata.size(),
            mode: metadata.mode() & 0o7777,
            modified_at: Timestamp::from_second(metadata.mtime()).expect("a time"),
            target: None,
        });
    }
    entries.retain(|entry| entry.name > *after);
    entries.sort_by(|a, b| a.name.cmp(&b.name));
    let more = entries.len() > limit;
    entries.truncate(limit);
    Ok(Outcome::success(JobResult::Listed {
        path: Octets::from("/app"),
        entries,
        more,
    }))
}

fn remove(path: &Path, recursive: bool) -> std::io::Result<Outcome> {
    let removed = if !std::fs::symlink_metadata(path)?.is_dir() {
        std::fs::remove_file(path)
    } else if recursive {
        std::fs::remove_dir_all(path)
    } else {
        std::fs::remove_dir(path)
    };
    removed.map(|()| {
        Outcome::success(JobResult::Removed {
            path: path.as_os_str().as_bytes().to_vec().into(),
            removed: 1,
        })
    })
}
