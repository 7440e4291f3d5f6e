//! Keeps what was read of an environment: in the job itself while it is small, else in parts of the staging area, each
//! told of as soon as it is there.

use bytes::{Bytes, BytesMut};
use futures::StreamExt as _;
use futures::stream::Fuse;
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
/// While a part is kept the next is gathered, so that neither the disk nor the environment waits for the other.
pub(in crate::jobs) async fn keep(
    task: &Task,
    head: Option<DownloadHead>,
    bytes: FileBytes,
) -> Result<ByteContent, Failure> {
    let mut gathered = Parts {
        bytes: bytes.fuse(),
        most: most(task),
        size: 0,
        waiting: BytesMut::new(),
    };
    let first = gathered.next().await?.unwrap_or_default();
    if first.len() <= INLINE_BYTES {
        // What is no larger is also the last.
        return Ok(ByteContent::Inline(Octets(first)));
    }
    let (mut next, mut parts) = (Some(first), 0);
    while let Some(part) = next {
        let (kept, following) = tokio::join!(put(task, head.clone(), parts, part), gathered.next());
        kept?;
        next = following?;
        parts += 1;
    }
    Ok(ByteContent::Staged {
        size: gathered.size,
        parts,
    })
}

/// Bytes as they come, gathered into parts: all but the last are full, and none is empty.
struct Parts {
    bytes: Fuse<FileBytes>,
    /// How many bytes there may be.
    most: u64,
    /// How many came.
    size: u64,
    waiting: BytesMut,
}

impl Parts {
    async fn next(&mut self) -> Result<Option<Bytes>, Failure> {
        while self.waiting.len() < PART_BYTES {
            let Some(piece) = self.bytes.next().await.transpose()? else {
                break;
            };
            self.size += piece.len() as u64;
            if self.size > self.most {
                return Err(too_large(self.most));
            }
            self.waiting.extend_from_slice(&piece);
        }
        let part = self.waiting.split_to(self.waiting.len().min(PART_BYTES));
        Ok((!part.is_empty()).then(|| part.freeze()))
    }
}

async fn put(
    task: &Task,
    head: Option<DownloadHead>,
    number: u32,
    content: Bytes,
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
