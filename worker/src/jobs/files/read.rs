//! Reading a file's bytes from the runner, checked on the way: exactly as many as it said, and its own end mark.

use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt as _};
use runner::MAX_FRAME_BYTES;
use runner::proto::read_file_event::Event;
use runner::proto::{FileHead, ReadFileEvent, ReadFileRequest};
use shared::job::DownloadHead;
use shared::octets::Octets;
use tonic::{Status, Streaming};

use super::{ANSWER_TIME, Failure, in_time, time};
use crate::links::Client;

/// A file's bytes. They end with an error unless all of them arrived.
pub(in crate::jobs) type FileBytes = BoxStream<'static, Result<Bytes, Status>>;

/// The head of a file and its bytes.
pub(in crate::jobs) async fn open(
    mut client: Client,
    path: &Octets,
    offset: u64,
    length: Option<u64>,
) -> Result<(DownloadHead, FileBytes), Failure> {
    let request = ReadFileRequest {
        path: path.0.clone(),
        offset,
        length: length.unwrap_or(0),
    };
    let mut events = in_time(ANSWER_TIME, client.read_file(request))
        .await?
        .into_inner();
    let first = in_time(ANSWER_TIME, events.message())
        .await?
        .and_then(|event| event.event);
    let Some(Event::Head(head)) = first else {
        return Err(Failure::misbehaved("a file without a head"));
    };
    if head.length > head.size {
        return Err(Failure::misbehaved("a part that is longer than its file"));
    }
    let bytes = bytes_of(events, head.length);
    Ok((head_of(head), bytes))
}

fn head_of(head: FileHead) -> DownloadHead {
    DownloadHead {
        etag: format!(
            "\"{:x}-{:x}-{:x}\"",
            head.inode, head.modified_ns, head.size
        ),
        path: Octets(head.path),
        size: head.size,
        length: head.length,
        mode: head.mode & 0o7777,
        modified_at: time(head.modified_ns),
    }
}

fn bytes_of(events: Streaming<ReadFileEvent>, length: u64) -> FileBytes {
    stream::try_unfold((events, length), |(mut events, left)| async move {
        let event = in_time(ANSWER_TIME, events.message())
            .await?
            .and_then(|event| event.event);
        match event {
            Some(Event::Data(data))
                if (1..=MAX_FRAME_BYTES).contains(&data.len()) && data.len() as u64 <= left =>
            {
                let left = left - data.len() as u64;
                Ok(Some((data, (events, left))))
            }
            Some(Event::End(_)) if left == 0 => Ok(None),
            // A connection that was cut between two frames ends the stream without its end mark.
            None => Err(Status::unavailable("the file's bytes ended early")),
            Some(Event::Data(_) | Event::End(_) | Event::Head(_)) => Err(Status::data_loss(
                "the environment's runner sent other bytes than it said",
            )),
        }
    })
    .boxed()
}
