//! Reads a file: into the job itself while it is small, else into parts that the API streams as they appear.

use bytes::BytesMut;
use futures::StreamExt as _;
use shared::job::{ByteContent, DownloadHead, JobResult, Outcome, Progress};
use shared::octets::Octets;
use shared::ports::{Lane, StoreError};
use shared::staging::{self, INLINE_BYTES, PART_BYTES};

use crate::execute::{End, Task};
use crate::jobs::files::read::{self, FileBytes};
use crate::jobs::files::{self, Effect, Failure};

pub(crate) async fn run(task: &Task, path: &Octets, offset: u64, length: Option<u64>) -> End {
    if task.job.progress.is_some() {
        // Parts were read already: the file may have changed since, and must not be mixed.
        return End::outcome(Outcome::failure(
            "interrupted",
            "the worker that read the file went away: read it again",
        ));
    }
    files::run(
        task,
        Lane::Bulk,
        Effect::Reads,
        |client, _permit| async move {
            let (head, bytes) = read::open(client, path, offset, length).await?;
            let content = if head.length <= INLINE_BYTES as u64 {
                ByteContent::Inline(inline(bytes).await?)
            } else {
                parts(task, &head, bytes).await?
            };
            Ok(End::outcome(Outcome::success(JobResult::Downloaded {
                head,
                content,
            })))
        },
    )
    .await
}

async fn inline(mut bytes: FileBytes) -> Result<Octets, Failure> {
    let mut all = BytesMut::new();
    while let Some(piece) = bytes.next().await {
        all.extend_from_slice(&piece?);
    }
    Ok(Octets(all.freeze()))
}

async fn parts(
    task: &Task,
    head: &DownloadHead,
    mut bytes: FileBytes,
) -> Result<ByteContent, Failure> {
    let (mut part, mut parts) = (BytesMut::with_capacity(PART_BYTES), 0);
    loop {
        let piece = bytes.next().await.transpose()?;
        let done = piece.is_none();
        if let Some(piece) = piece {
            part.extend_from_slice(&piece);
        }
        while part.len() >= PART_BYTES || (done && !part.is_empty()) {
            let ready = part.split_to(part.len().min(PART_BYTES)).freeze();
            put(task, head, parts, ready).await?;
            parts += 1;
        }
        if done {
            return Ok(ByteContent::Staged {
                size: head.length,
                parts,
            });
        }
    }
}

async fn put(
    task: &Task,
    head: &DownloadHead,
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
        head: head.clone(),
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
