//! File jobs in a folder of this machine. A file called `breaks` fails after its first part.

use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use bytes::{Bytes, BytesMut};
use futures::{StreamExt as _, TryStreamExt as _};
use jiff::Timestamp;
use shared::job::{
    ByteContent, DownloadHead, Entry, EntryType, Job, JobInput, JobResult, Outcome, Progress,
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
            JobInput::Download { path, .. } => self.download(job, &path_in(folder, path)).await,
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
        let bytes = match content {
            ByteContent::Inline(octets) => octets.0.clone(),
            ByteContent::Staged { .. } => {
                let name = staging::part(&job.at(), 0).expect("a name");
                let (_, stream) = self.blobs.get(&name).await.expect("staged");
                let all: BytesMut = stream
                    .try_collect::<Vec<Bytes>>()
                    .await
                    .expect("read")
                    .concat()
                    .as_slice()
                    .into();
                all.freeze()
            }
        };
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

    async fn download(&self, job: &Job, path: &Path) -> std::io::Result<Outcome> {
        let bytes = Bytes::from(std::fs::read(path)?);
        let metadata = std::fs::metadata(path)?;
        let head = DownloadHead {
            path: path.as_os_str().as_bytes().to_vec().into(),
            size: bytes.len() as u64,
            length: bytes.len() as u64,
            mode: metadata.mode() & 0o7777,
            modified_at: Timestamp::from_second(metadata.mtime()).expect("a time"),
            etag: format!("{}-{}", metadata.ino(), metadata.mtime()),
        };
        if bytes.len() <= INLINE_BYTES {
            let content = ByteContent::Inline(Octets(bytes));
            return Ok(Outcome::success(JobResult::Downloaded { head, content }));
        }
        let mut parts = 0;
        for part in bytes.chunks(PART_BYTES) {
            if parts == 1 && path.ends_with("breaks") {
                return Ok(Outcome::failure("changed_while_read", "it changed"));
            }
            let name = staging::part(&job.at(), parts).expect("a name");
            let content = futures::stream::iter([Ok(Bytes::copy_from_slice(part))]).boxed();
            self.blobs.put(&name, content).await.expect("put");
            parts += 1;
            let progress = Progress {
                head: head.clone(),
                parts,
            };
            let noted = self.store.progress(&job.at(), job.fence, progress).await;
            noted.expect("noted");
        }
        let content = ByteContent::Staged {
            size: head.length,
            parts,
        };
        Ok(Outcome::success(JobResult::Downloaded { head, content }))
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
