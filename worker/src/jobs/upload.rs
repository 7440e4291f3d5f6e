//! Writes a file: from the job itself, or streamed from what the API staged.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use data_encoding::HEXLOWER;
use futures::stream::{self, Stream, StreamExt as _};
use runner::MAX_FRAME_BYTES;
use runner::proto::write_file_request::Event;
use runner::proto::{WriteEnd, WriteFileRequest, WriteHead};
use shared::job::{ByteContent, CancelRequest, JobResult, Outcome};
use shared::octets::Octets;
use shared::ports::{BlobError, BlobStream, Lane};
use shared::staging;
use tokio::sync::{oneshot, watch};
use tonic::Status;

use crate::execute::{End, Task};
use crate::jobs::files::{self, Effect, Failure};

pub(crate) async fn run(
    task: &Task,
    path: &Octets,
    mode: Option<u32>,
    content: &ByteContent,
) -> End {
    let lane = match content {
        ByteContent::Inline(_) => Lane::Control,
        ByteContent::Staged { .. } => Lane::Bulk,
    };
    files::run(
        task,
        lane,
        Effect::Changes,
        |mut client, permit| async move {
            let head = WriteHead {
                permit: Some(permit),
                path: path.0.clone(),
                mode: mode.unwrap_or(0),
            };
            let (size, bytes) = open(task, content).await?;
            let (broken, breakage) = oneshot::channel();
            let end = Gate::default();
            let (moved, moving) = watch::channel(());
            let request = events(head, bytes, size, broken, end.clone())
                .inspect(move |_| moved.send_replace(()));
            let reply = tokio::select! {
                // Both must end the call without its last event, so that nothing is written.
                biased;
                Ok(why) = breakage => return Err(Failure::job("staging_unavailable", why)),
                request = cancelled_before(task, end.clone()) => return Err(Failure::End(files::cancelled(request))),
                () = stalled(moving) => return Err(stall(&end)),
                reply = client.write_file(request) => reply?.into_inner(),
            };
            if reply.size != size || reply.sha256.len() != 32 {
                return Err(Failure::misbehaved("it wrote something else"));
            }
            Ok(End::outcome(Outcome::success(JobResult::Uploaded {
                path: Octets(reply.path),
                size: reply.size,
                sha256: HEXLOWER.encode(&reply.sha256),
            })))
        },
    )
    .await
}

async fn open(task: &Task, content: &ByteContent) -> Result<(u64, BlobStream), Failure> {
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

/// Returns when nothing was sent for too long, or the answer takes too long once all was.
async fn stalled(mut moving: watch::Receiver<()>) {
    while let Ok(Ok(())) = tokio::time::timeout(files::ANSWER_TIME, moving.changed()).await {}
    if moving.has_changed().is_err() {
        tokio::time::sleep(files::ANSWER_TIME).await;
    }
}

/// What a stall means: without its last event nothing is written.
fn stall(end: &Gate) -> Failure {
    if end.pass() {
        return Failure::job(
            files::NO_ANSWER,
            "the content did not get on: nothing was written",
        );
    }
    Failure::Status(Status::deadline_exceeded(
        "the environment did not confirm what was written",
    ))
}

/// Head, data and end. Where the source breaks the stream goes silent, so that no end is ever sent, and tells why.
fn events(
    head: WriteHead,
    bytes: BlobStream,
    size: u64,
    broken: oneshot::Sender<String>,
    gate: Gate,
) -> impl Stream<Item = WriteFileRequest> + Send + 'static {
    let event = |event| WriteFileRequest { event: Some(event) };
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
            Some((event(Event::Data(frame)), (bytes, rest, broken)))
        },
    );
    let head = stream::iter([WriteFileRequest {
        event: Some(Event::Head(head)),
    }]);
    let end = stream::once(async move {
        if !gate.pass() {
            std::future::pending::<()>().await;
        }
        WriteFileRequest {
            event: Some(Event::End(WriteEnd { size })),
        }
    });
    head.chain(data).chain(end)
}
