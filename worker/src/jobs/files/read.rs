//! Reading a file's bytes from the runner, checked on the way: exactly as many as it said, and its own end mark.

use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt as _};
use runner::MAX_FRAME_BYTES;
use runner::proto::read_file_event::Event;
use runner::proto::{FileHead, PackEvent, PackRequest, ReadFileEvent, ReadFileRequest, pack_event};
use shared::job::{DownloadHead, Span, Verdict, Wanted};
use shared::octets::Octets;
use shared::resources::ByteSize;
use tonic::{Status, Streaming};

use super::{ANSWER_TIME, Failure, in_time, time};
use crate::execute::Task;
use crate::links::Client;

/// How often a file that changes is looked at.
const MAX_LOOKS: usize = 5;

/// What is read of an environment at once at most, where it may store less, in bytes: programs of its image are files too.
const LEAST_MOST: u64 = 256 << 20;

/// How much may be read of an environment at once: what it may store, and an archive's own. A runner that lies announces and
/// sends more than there is, for ever. Where nothing holds an environment to its storage an honest one may have more; then
/// the room that the blobs leave on their disk is the bound.
pub(in crate::jobs) fn most(task: &Task) -> u64 {
    let environment = &task.environment;
    let unbounded = environment
        .limits_not_enforced
        .iter()
        .any(|limit| limit == "storage");
    bound(environment.spec.resources.storage.0, unbounded)
}

fn bound(storage: u64, unbounded: bool) -> u64 {
    match unbounded {
        true => u64::MAX,
        false => storage.saturating_mul(2).max(LEAST_MOST),
    }
}

pub(super) fn too_large(most: u64) -> Failure {
    let most = ByteSize(most);
    Failure::job(
        "too_large",
        format!(
            "it is larger than all that the environment may store, which cannot be: more than {most}"
        ),
    )
}

/// A file's bytes. They end with an error unless all of them arrived.
pub(in crate::jobs) type FileBytes = BoxStream<'static, Result<Bytes, Status>>;

/// The head of a file and all of its bytes.
pub(in crate::jobs) async fn open(
    client: Client,
    path: &Octets,
    most: u64,
) -> Result<(DownloadHead, FileBytes), Failure> {
    let request = ReadFileRequest {
        path: path.0.clone(),
        ..ReadFileRequest::default()
    };
    let (head, events) = begin(client, request).await?;
    if head.size > most {
        return Err(too_large(most));
    }
    let (size, etag) = (head.size, etag_of(&head));
    let span = Wanted::default().span(size, &etag);
    let bytes = bytes_of(events, span.length);
    Ok((head_of(head, etag, span), bytes))
}

/// The head of a file and what is wanted of it. A file that becomes another between the look at it and the read is looked
/// at again.
pub(in crate::jobs) async fn open_wanted(
    client: Client,
    path: &Octets,
    wanted: &Wanted,
    most: u64,
) -> Result<(DownloadHead, FileBytes), Failure> {
    if wanted.is_everything() {
        return open(client, path, most).await;
    }
    for _ in 0..MAX_LOOKS {
        let look = ReadFileRequest {
            path: path.0.clone(),
            only_head: true,
            ..ReadFileRequest::default()
        };
        let (head, _) = begin(client.clone(), look).await?;
        let etag = etag_of(&head);
        let span = wanted.span(head.size, &etag);
        let has_bytes = matches!(span.verdict, Verdict::Whole | Verdict::Part);
        if wanted.only_head || !has_bytes || span.length == 0 {
            return Ok((head_of(head, etag, span), stream::empty().boxed()));
        }
        if span.length > most {
            return Err(too_large(most));
        }
        let read = ReadFileRequest {
            path: path.0.clone(),
            offset: span.offset,
            length: span.length,
            only_head: false,
        };
        let (head, events) = begin(client.clone(), read).await?;
        if etag_of(&head) == etag && head.length == span.length {
            let bytes = bytes_of(events, span.length);
            return Ok((head_of(head, etag, span), bytes));
        }
    }
    Err(Failure::job(
        "changed_while_read",
        "the file changes faster than it can be looked at",
    ))
}

/// Opens a file; its head, and the events that follow.
async fn begin(
    mut client: Client,
    request: ReadFileRequest,
) -> Result<(FileHead, Streaming<ReadFileEvent>), Failure> {
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
    Ok((head, events))
}

/// The path of what is packed, and its archive.
pub(in crate::jobs) async fn pack(
    mut client: Client,
    path: &Octets,
) -> Result<(Octets, FileBytes), Failure> {
    let request = PackRequest {
        path: path.0.clone(),
    };
    let mut events = in_time(ANSWER_TIME, client.pack(request))
        .await?
        .into_inner();
    let first = in_time(ANSWER_TIME, events.message())
        .await?
        .and_then(|event| event.event);
    let Some(pack_event::Event::Head(head)) = first else {
        return Err(Failure::misbehaved("an archive without a head"));
    };
    let bytes = stream::try_unfold((events, 0), |(mut events, size): (_, u64)| async move {
        let events_of: &mut Streaming<PackEvent> = &mut events;
        let event = in_time(ANSWER_TIME, events_of.message())
            .await?
            .and_then(|event| event.event);
        match event {
            Some(pack_event::Event::Data(data)) if (1..=MAX_FRAME_BYTES).contains(&data.len()) => {
                let size = size + data.len() as u64;
                Ok(Some((data, (events, size))))
            }
            Some(pack_event::Event::End(end)) if end.size == size => Ok(None),
            None => Err(Status::unavailable("the archive ended early")),
            Some(_) => Err(Status::data_loss(
                "the environment's runner sent another archive than it said",
            )),
        }
    });
    Ok((Octets(head.path), bytes.boxed()))
}

fn etag_of(head: &FileHead) -> String {
    format!(
        "\"{:x}-{:x}-{:x}\"",
        head.inode, head.modified_ns, head.size
    )
}

fn head_of(head: FileHead, etag: String, span: Span) -> DownloadHead {
    DownloadHead {
        etag,
        path: Octets(head.path),
        size: head.size,
        verdict: span.verdict,
        offset: span.offset,
        length: span.length,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_where_storage_is_enforced_it_bounds_what_is_read() {
        assert_eq!(bound(1, false), LEAST_MOST);
        assert_eq!(bound(1 << 30, false), 2 << 30);
        assert_eq!(bound(u64::MAX, false), u64::MAX);
        assert_eq!(bound(1, true), u64::MAX);
    }
}
