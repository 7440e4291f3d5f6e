//! Keeps what was read of an environment: in the job itself while it is small, else in parts of the staging area, each
//! told of as soon as it is there.

use bytes::BytesMut;
use futures::StreamExt as _;
use shared::job::{ByteContent, DownloadHead, Outcome, Progress};
use shared::octets::Octets;
use shared::ports::StoreError;
use shared::staging::{self, INLINE_BYTES, PART_BYTES};

use super::Failure;
use super::read::{FileBytes, most, too_large};
use crate::execute::{End, Task};

/// The end of a read of which parts were kept by a worker that went away: the files may have changed since, and must not
/// be mixed.
pub(in crate::jobs) fn interrupted() -> End {
    End::outcome(Outcome::failure(
        "interrupted",
        "the worker that read the file went away: read it again",
    ))
}

/// Keeps all of the bytes, unless there are more than there can be; `head` is what is known of the file, none of an archive.
pub(in crate::jobs) async fn keep(
    task: &Task,
    head: Option<DownloadHead>,
    mut bytes: FileBytes,
) -> Result<ByteContent, Failure> {
    let (mut waiting, mut parts, mut size) = (BytesMut::new(), 0, 0);
    let most = most(task);
    loop {
        let piece = bytes.next().await.transpose()?;
        let done = piece.is_none();
        if let Some(piece) = piece {
            size += piece.len() as u64;
            if size > most {
                return Err(too_large(most));
            }
            waiting.extend_from_slice(&piece);
        }
        if done && parts == 0 && waiting.len() <= INLINE_BYTES {
            return Ok(ByteContent::Inline(Octets(waiting.freeze())));
        }
        while waiting.len() >= PART_BYTES || (done && !waiting.is_empty()) {
            let ready = waiting.split_to(waiting.len().min(PART_BYTES)).freeze();
            put(task, head.clone(), parts, ready).await?;
            parts += 1;
        }
        if done {
            return Ok(ByteContent::Staged { size, parts });
        }
    }
}

async fn put(
    task: &Task,
    head: Option<DownloadHead>,
    number: u32,
    content: bytes::Bytes,
) -> Result<(), Failure> {
    let failed = |error: &dyn std::fmt::Display| {
        Failure::job(
            "staging_unavailable",
            format!("a part cannot be kept: {error}"),
        )
    };
    let name = staging::part(&task.at, number).map_err(|error| failed(&error))?;
    let content = futures::stream::iter([Ok(content)]).boxed();
    task.context
        .blobs
        .put(&name, content)
        .await
        .map_err(|error| failed(&error))?;
    let progress = Progress {
        head,
        parts: number + 1,
    };
    match task
        .context
        .store
        .progress(&task.at, task.fence(), progress)
        .await
    {
        Ok(()) => Ok(()),
        Err(StoreError::Fenced) => Err(Failure::End(End::Dropped)),
        Err(error) => Err(failed(&error)),
    }
}
