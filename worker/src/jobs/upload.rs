//! Writes a file.

use data_encoding::HEXLOWER;
use runner::proto::write_file_request::Event;
use runner::proto::{WriteEnd, WriteFileRequest, WriteHead};
use shared::job::{ByteContent, JobResult, Outcome};
use shared::octets::Octets;

use crate::execute::{End, Task};
use crate::failpoint::failpoint;
use crate::jobs::files::send::{self, Words};
use crate::jobs::files::{self, Effect, Failure};

pub(crate) async fn run(
    task: &Task,
    path: &Octets,
    mode: Option<u32>,
    content: &ByteContent,
) -> End {
    files::run(
        task,
        send::lane(content),
        Effect::Changes,
        |mut client, permit| async move {
            let head = WriteHead {
                permit: Some(permit),
                path: path.0.clone(),
                mode: mode.unwrap_or(0),
            };
            let words = Words {
                head: event(Event::Head(head)),
                data: |bytes| event(Event::Data(bytes)),
                end: |size| event(Event::End(WriteEnd { size })),
            };
            let (size, bytes) = send::open(task, content).await?;
            let (events, brakes) = send::begin(words, size, bytes, files::ANSWER_TIME);
            let reply = tokio::select! {
                biased;
                failure = send::trouble(task, brakes) => return Err(failure),
                reply = client.write_file(events) => reply?.into_inner(),
            };
            failpoint("content_written");
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

fn event(event: Event) -> WriteFileRequest {
    WriteFileRequest { event: Some(event) }
}
