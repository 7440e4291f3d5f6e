//! Keeps what was read of an environment: in the job itself while it is small, else in parts of the staging area, each
//! told of as soon as it is there.

use std::pin::pin;

use bytes::{Bytes, BytesMut};
use futures::StreamExt as _;
use futures::stream::{self, Fuse, FuturesOrdered};
use shared::job::{ByteContent, DownloadHead, Outcome, Progress};
use shared::octets::Octets;
use shared::ports::StoreError;
use shared::staging::{self, INLINE_BYTES, PART_BYTES};
use tokio::sync::mpsc;

use super::Failure;
use super::read::{FileBytes, most, too_large};
use crate::execute::{End, Task};
use crate::failpoint::failpoint;

/// Pieces on their way into a part.
const PIECES: usize = 4;

/// The end of a read of which parts were kept by a worker that went away: the files may have changed since, and must not
/// be mixed.
pub(in crate::jobs) fn interrupted() -> End {
    End::outcome(Outcome::failure(
        "interrupted",
        "the worker that read the file went away: read it again",
    ))
}

/// Keeps all of the bytes, unless there are more than there can be; `head` is what is known of the file, none of an archive.
///
/// ```text
///   part 0   ▒▒▒▒▒▒▒▒ comes ▓▓ put on the disk, told of
///   part 1                  ▒▒▒▒▒▒▒▒ comes ▓▓ …
/// ```
pub(in crate::jobs) async fn keep(
    task: &Task,
    head: Option<DownloadHead>,
    bytes: FileBytes,
) -> Result<ByteContent, Failure> {
    let mut source = Source {
        bytes: bytes.fuse(),
        most: most(task),
        size: 0,
    };
    let first = source.first().await?;
    if first.len() <= INLINE_BYTES {
        // What is no larger is also the last.
        return Ok(ByteContent::Inline(Octets(first)));
    }
    let mut told = Told {
        task,
        head,
        parts: 0,
        size: 0,
    };
    let (mut puts, mut next, mut number) = (FuturesOrdered::new(), Some(first), 0);
    while let Some(begin) = next.take() {
        let (pieces, content) = mpsc::channel(PIECES);
        puts.push_back(put(task, number, content));
        number += 1;
        let mut fed = pin!(source.feed(begin, pieces));
        next = loop {
            tokio::select! {
                Some(kept) = puts.next() => told.of(kept?).await?,
                following = &mut fed => break following?,
            }
        };
        while puts.len() > 1
            && let Some(kept) = puts.next().await
        {
            told.of(kept?).await?;
        }
    }
    while let Some(kept) = puts.next().await {
        told.of(kept?).await?;
    }
    if told.size != source.size {
        return Err(unkept(&"not all of what was read"));
    }
    Ok(ByteContent::Staged {
        size: told.size,
        parts: told.parts,
    })
}

/// The bytes as they come, counted.
struct Source {
    bytes: Fuse<FileBytes>,
    /// How many bytes there may be.
    most: u64,
    /// How many came.
    size: u64,
}

impl Source {
    /// The next bytes, never none of them; nothing at the end.
    async fn next(&mut self) -> Result<Option<Bytes>, Failure> {
        while let Some(piece) = self.bytes.next().await.transpose()? {
            self.size += piece.len() as u64;
            if self.size > self.most {
                return Err(too_large(self.most));
            }
            if !piece.is_empty() {
                return Ok(Some(piece));
            }
        }
        Ok(None)
    }

    /// What the job itself can keep, or somewhat more.
    async fn first(&mut self) -> Result<Bytes, Failure> {
        let mut first = BytesMut::new();
        while first.len() <= INLINE_BYTES
            && let Some(piece) = self.next().await?
        {
            first.extend_from_slice(&piece);
        }
        Ok(first.freeze())
    }

    /// Fills a part, which begins with these bytes; answers what the next begins with, nothing where there is none. Where a
    /// part takes no more, its put says why.
    async fn feed(
        &mut self,
        begin: Bytes,
        pieces: mpsc::Sender<Bytes>,
    ) -> Result<Option<Bytes>, Failure> {
        let (mut piece, mut room) = (begin, PART_BYTES);
        loop {
            let rest = piece.split_off(piece.len().min(room));
            room -= piece.len();
            if pieces.send(piece).await.is_err() {
                return Ok(None);
            }
            if !rest.is_empty() {
                return Ok(Some(rest));
            }
            if room == 0 {
                drop(pieces);
                return self.next().await;
            }
            match self.next().await? {
                Some(more) => piece = more,
                None => return Ok(None),
            }
        }
    }
}

/// Puts a part into the staging area; answers its size.
async fn put(task: &Task, number: u32, mut content: mpsc::Receiver<Bytes>) -> Result<u64, Failure> {
    let name = staging::part(&task.at, number).map_err(|error| unkept(&error))?;
    let content =
        stream::poll_fn(move |context| content.poll_recv(context).map(|piece| piece.map(Ok)));
    let info = task.context.blobs.put(&name, content.boxed()).await;
    Ok(info.map_err(|error| unkept(&error))?.size)
}

/// What was told of, part after part.
struct Told<'a> {
    task: &'a Task,
    head: Option<DownloadHead>,
    parts: u32,
    size: u64,
}

impl Told<'_> {
    /// Tells of the next part, which is there.
    async fn of(&mut self, size: u64) -> Result<(), Failure> {
        self.parts += 1;
        self.size += size;
        let progress = Progress {
            head: self.head.clone(),
            parts: self.parts,
        };
        let (store, at) = (&self.task.context.store, &self.task.at);
        match store.progress(at, self.task.fence(), progress).await {
            Ok(()) => {
                failpoint("part_told");
                Ok(())
            }
            Err(StoreError::Fenced) => Err(Failure::End(End::Dropped)),
            Err(error) => Err(unkept(&error)),
        }
    }
}

fn unkept(why: &dyn std::fmt::Display) -> Failure {
    Failure::job(
        "staging_unavailable",
        format!("a part cannot be kept: {why}"),
    )
}
