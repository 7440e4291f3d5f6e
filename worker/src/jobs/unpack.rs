//! Unpacks an archive into a folder.

use std::time::Duration;

use runner::proto::unpack_request::Event;
use runner::proto::{UnpackEnd, UnpackHead, UnpackRequest};
use shared::job::{ByteContent, JobResult, Outcome};
use shared::octets::Octets;

use crate::execute::{End, Task};
use crate::failpoint::failpoint;
use crate::jobs::files::send::{self, Words};
use crate::jobs::files::{self, Effect, Failure};

/// How long the last of an archive may take to be on the disk and in its place.
const UNPACK_TIME: Duration = Duration::from_mins(10);

pub(crate) async fn run(task: &Task, path: &Octets, content: &ByteContent) -> End {
    files::run(
        task,
        send::lane(content),
        Effect::Changes,
        |mut client, permit| async move {
            let head = UnpackHead {
                permit: Some(permit),
                path: path.0.clone(),
            };
            let words = Words {
                head: event(Event::Head(head)),
                data: |bytes| event(Event::Data(bytes)),
                end: |size| event(Event::End(UnpackEnd { size })),
            };
            let (size, bytes) = send::open(task, content).await?;
            let (events, brakes) = send::begin(words, size, bytes, UNPACK_TIME);
            let reply = tokio::select! {
                biased;
                failure = send::trouble(task, brakes) => return Err(failure),
                reply = client.unpack(events) => reply?.into_inner(),
            };
            failpoint("content_written");
            if reply.size != size {
                return Err(Failure::misbehaved("it unpacked something else"));
            }
            Ok(End::outcome(Outcome::success(JobResult::Unpacked {
                path: Octets(reply.path),
                entries: reply.entries,
                size,
            })))
        },
    )
    .await
}

fn event(event: Event) -> UnpackRequest {
    UnpackRequest { event: Some(event) }
}
