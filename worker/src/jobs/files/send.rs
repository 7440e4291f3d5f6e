//! Sends content into an environment: from the job itself, or streamed from what the API staged.
//!
//! Only the last event makes the content count, so that a source that breaks, or a cancel, writes nothing: it is simply
//! never sent.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{self, Stream, StreamExt as _};
use runner::MAX_FRAME_BYTES;
use shared::job::{ByteContent, CancelRequest};
use shared::ports::{BlobError, BlobStream, Lane};
use shared::staging;
use tokio::sync::{oneshot, watch};
use tonic::Status;

use super::{ANSWER_TIME, Failure, cancelled};
use crate::execute::Task;
use crate::failpoint::failpoint;

/// Said of a runner that does not read on, or does not answer at the end.
const STALLED: &str = "the environment took too long to take the content or to confirm it";

/// The lane that content of that kind takes.
pub(in crate::jobs) fn lane(content: &ByteContent) -> Lane {
    match content {
        ByteContent::Inline(_) => Lane::Control,
        ByteContent::Staged { .. } => Lane::Bulk,
    }
}

/// The events of one kind of call.
pub(in crate::jobs) struct Words<T> {
    /// The first one.
    pub(in crate::jobs) head: T,
    /// One with some bytes.
    pub(in crate::jobs) data: fn(Bytes) -> T,
    /// The last one, with the number of all bytes.
    pub(in crate::jobs) end: fn(u64) -> T,
}

/// What may end a call before its last event: see [`trouble`].
pub(in crate::jobs) struct Brakes {
    broken: oneshot::Receiver<String>,
    moving: watch::Receiver<()>,
    /// How long the answer may take once all is sent.
    confirming: Duration,
    end: Gate,
}

/// What a call is made with, of content that was opened, and what may end it; `confirming` is how long the answer may take
/// once all is sent.
pub(in crate::jobs) fn begin<T: Send + 'static>(
    words: Words<T>,
    size: u64,
    bytes: BlobStream,
    confirming: Duration,
) -> (impl Stream<Item = T> + Send + use<T>, Brakes) {
    let (broken, breakage) = oneshot::channel();
    let end = Gate::default();
    let (moved, moving) = watch::channel(());
    let events =
        events(words, bytes, size, broken, end.clone()).inspect(move |_| moved.send_replace(()));
    let brakes = Brakes {
        broken: breakage,
        moving,
        confirming,
        end,
    };
    (events, brakes)
}

/// Returns where the call must end without its last event, so that nothing is written; look at it before the reply.
pub(in crate::jobs) async fn trouble(task: &Task, brakes: Brakes) -> Failure {
    tokio::select! {
        biased;
        Ok(why) = brakes.broken => Failure::job("staging_unavailable", why),
        request = cancelled_before(task, brakes.end) => Failure::End(cancelled(request)),
        () = stalled(brakes.moving, brakes.confirming) => Failure::Status(Status::deadline_exceeded(STALLED)),
    }
}

/// Returns when nothing was sent for too long, or the answer takes too long once all was.
async fn stalled(mut moving: watch::Receiver<()>, confirming: Duration) {
    while let Ok(Ok(())) = tokio::time::timeout(ANSWER_TIME, moving.changed()).await {}
    if moving.has_changed().is_err() {
        tokio::time::sleep(confirming).await;
    }
}

/// Opens the content of a job; its size and its bytes.
pub(in crate::jobs) async fn open(
    task: &Task,
    content: &ByteContent,
) -> Result<(u64, BlobStream), Failure> {
    failpoint("content_opening");
    match content {
        ByteContent::Inline(data) => {
            let data = data.0.clone();
            Ok((
                data.len() as u64,
                stream::iter((!data.is_empty()).then_some(Ok(data))).boxed(),
            ))
        }
        ByteContent::Staged { size, .. } => {
            let name = staging::part(&task.at, 0).map_err(|error| unavailable(&error))?;
            let (info, bytes) = task
                .context
                .blobs
                .get(&name)
                .await
                .map_err(|error| unavailable(&error))?;
            if info.size == *size {
                Ok((*size, bytes))
            } else {
                Err(Failure::job(
                    "staging_unavailable",
                    "the staged content is not the one that was accepted",
                ))
            }
        }
    }
}

fn unavailable(error: &BlobError) -> Failure {
    Failure::job(
        "staging_unavailable",
        format!("the staged content cannot be read: {error}"),
    )
}

/// Decides once whether the last event is sent or the job is cancelled.
#[derive(Clone, Default)]
struct Gate(Arc<AtomicBool>);

impl Gate {
    /// Whether the caller is the first one to come.
    fn pass(&self) -> bool {
        !self.0.swap(true, Ordering::SeqCst)
    }
}

/// Returns when the job is cancelled before its last event was sent; after that it is written.
async fn cancelled_before(task: &Task, end: Gate) -> CancelRequest {
    let request = task.cancelled().await;
    if !end.pass() {
        std::future::pending::<()>().await;
    }
    request
}

/// Head, data and end. Where the source breaks the stream goes silent, so that no end is ever sent, and tells why.
fn events<T: Send + 'static>(
    words: Words<T>,
    bytes: BlobStream,
    size: u64,
    broken: oneshot::Sender<String>,
    gate: Gate,
) -> impl Stream<Item = T> + Send + 'static {
    let Words { head, data, end } = words;
    let data = stream::unfold(
        (bytes, Bytes::new(), Some(broken)),
        move |(mut bytes, mut rest, mut broken)| async move {
            while rest.is_empty() {
                match bytes.next().await? {
                    Ok(more) => rest = more,
                    Err(error) => {
                        if let Some(broken) = broken.take() {
                            let _ = broken.send(error.to_string());
                        }
                        std::future::pending::<()>().await;
                    }
                }
            }
            let frame = rest.split_to(rest.len().min(MAX_FRAME_BYTES));
            Some((data(frame), (bytes, rest, broken)))
        },
    );
    let last = stream::once(async move {
        failpoint("content_ending");
        if !gate.pass() {
            std::future::pending::<()>().await;
        }
        end(size)
    });
    stream::iter([head]).chain(data).chain(last)
}
