//! One reader of a job's output: live from the offsets it names, then the end.
//!
//! It reads from the file at its own pace, so a slow reader holds up nobody, and one that goes away leaves nothing.

use std::sync::Arc;

use bytes::Bytes;
use futures::Stream as FuturesStream;
use tokio::sync::watch;

use super::job::{Job, Progress};
use super::log::{Log, LogError};
use crate::MAX_FRAME_BYTES;
use crate::proto::attach_event::Event;
use crate::proto::{AttachEvent, Output, Stream};

struct Attachment {
    job: Arc<Job>,
    progress: watch::Receiver<Progress>,
    /// The next offsets of stdout and stderr.
    next: [u64; 2],
    /// The stream that is looked at first, so that neither starves.
    turn: usize,
    done: bool,
}

/// Reads a job's output from the offsets of stdout and stderr.
pub(crate) fn attach(
    job: Arc<Job>,
    next: [u64; 2],
) -> Result<impl FuturesStream<Item = Result<AttachEvent, LogError>> + Send, LogError> {
    job.stdout.check_offset(next[0])?;
    job.stderr.check_offset(next[1])?;
    let progress = job.watch();
    let attachment = Attachment {
        job,
        progress,
        next,
        turn: 0,
        done: false,
    };
    Ok(futures::stream::unfold(
        attachment,
        |mut attachment| async {
            let event = attachment.next_event().await?;
            attachment.done |= event.is_err();
            Some((
                event.map(|event| AttachEvent { event: Some(event) }),
                attachment,
            ))
        },
    ))
}

impl Attachment {
    async fn next_event(&mut self) -> Option<Result<Event, LogError>> {
        while !self.done {
            // Looked at before the logs: output that comes after wakes the wait below, and none comes after the end.
            let ended = self.progress.borrow_and_update().fate.is_some();
            for stream in [self.turn, 1 - self.turn] {
                match self.read(stream).await {
                    Ok(Some(output)) => return Some(Ok(Event::Output(output))),
                    Ok(None) => {}
                    Err(error) => return Some(Err(error)),
                }
            }
            if ended {
                self.done = true;
                return Some(Ok(Event::End(self.job.record())));
            }
            self.progress.changed().await.ok()?;
        }
        None
    }

    async fn read(&mut self, stream: usize) -> Result<Option<Output>, LogError> {
        let (log, kind) = if stream == 0 {
            (&self.job.stdout, Stream::Stdout)
        } else {
            (&self.job.stderr, Stream::Stderr)
        };
        let Some(next) = self.next.get_mut(stream) else {
            return Ok(None);
        };
        let Some((offset, data)) = read_blocking(log, *next).await? else {
            return Ok(None);
        };
        *next = offset + data.len() as u64;
        self.turn = 1 - stream;
        Ok(Some(Output {
            stream: kind.into(),
            offset,
            data,
        }))
    }
}

/// Reads on a blocking thread, but looks first whether there is anything: most often there is not.
async fn read_blocking(log: &Arc<Log>, offset: u64) -> Result<Option<(u64, Bytes)>, LogError> {
    if !log.has_after(offset) {
        return Ok(None);
    }
    let log = Arc::clone(log);
    let read = tokio::task::spawn_blocking(move || log.read(offset, MAX_FRAME_BYTES));
    read.await
        .map_err(|error| LogError::Io(std::io::Error::other(error)))?
}
