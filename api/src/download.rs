//! A file or an archive on its way out of an environment: a job reads it into parts, which are passed on as they appear.
//!
//! ```text
//!   job.progress:   head, 1 part ── 2 parts ── 3 parts ── succeeded
//!   passed on:                      part 0     part 1     part 2
//! ```
//!
//! Invariant: the last part is passed on only once the job has succeeded, so that a caller who got every byte got the
//! file as it was; one who got an error, or too little, knows it. Who goes away ends the job. An archive's size is known
//! only then: its end is the end of the stream, and one that breaks off ends it with an error.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{self, BoxStream};
use futures::{StreamExt as _, TryStreamExt as _};
use shared::ids::{EnvironmentId, JobId, JobRef};
use shared::job::{ByteContent, CancelRequest, DownloadHead, Job, JobInput, JobResult, JobState};
use shared::ports::{BlobError, BlobStream, StoreError, Watch};
use shared::staging;

use crate::extract::Call;
use crate::problem::Problem;
use crate::service::{App, Service};
use crate::wait::Patience;

/// Why a download broke off after its head was sent.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BrokenOff {
    /// The job did not succeed.
    #[error("the job ended: {0}")]
    Ended(String),
    /// The parts are not those of the file that the head tells of.
    #[error("the parts do not make up the file")]
    Mismatch,
    /// A part cannot be read.
    #[error(transparent)]
    Blob(#[from] BlobError),
    /// The job cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Bytes on their way to a caller.
pub(crate) type Content = BoxStream<'static, Result<Bytes, BrokenOff>>;

/// What a download came to within the time that its caller waits.
pub(crate) enum Opened {
    /// The file is known and its bytes come.
    File {
        job: JobId,
        head: DownloadHead,
        bytes: Content,
    },
    /// The bytes of an archive come.
    Archive { job: JobId, bytes: Content },
    /// The job has not begun yet.
    Later(Box<Job>),
}

/// Reads a file, or a folder as an archive: the input is a download or a pack.
pub(crate) async fn open(
    app: &App,
    call: &Call,
    environment: EnvironmentId,
    input: JobInput,
    wait: Duration,
) -> Result<Opened, Problem> {
    let patience = Patience::of(wait);
    let order = app.order(environment, input);
    let mut watch = app.deps.store.watch(&call.job(order.id));
    let mut job = app.submit(call, order).await?;
    loop {
        if job.state.is_terminal() && job.state != JobState::Succeeded {
            return Err(Problem::of_end(&job));
        }
        if job.result.is_some() || job.progress.is_some() {
            return opened(app, job, watch);
        }
        if !app.changed(&mut watch, patience).await {
            return Ok(Opened::Later(Box::new(job)));
        }
        job = app.job(&job.at()).await?;
    }
}

fn opened(app: &App, job: Job, watch: Watch) -> Result<Opened, Problem> {
    let (id, head) = (job.id, head_of(&job).cloned());
    let bytes = match content_of(&job) {
        Some(ByteContent::Inline(octets)) => {
            let length = octets.len() as u64;
            if head
                .as_ref()
                .is_some_and(|head| head.length != length && length > 0)
            {
                tracing::error!(job = %id, "a download's content is not as long as its head says");
                return Err(Problem::internal());
            }
            stream::iter([Ok(octets.0.clone())]).boxed()
        }
        _ => {
            let parts = Parts {
                reader: Reader {
                    app: Arc::clone(app),
                    at: job.at(),
                    seen: 0,
                    ended: false,
                },
                head: head.clone(),
                job,
                watch,
                next: 0,
                passed: 0,
            };
            stream::try_unfold(parts, |parts| async move { parts.advance().await })
                .try_flatten()
                .boxed()
        }
    };
    Ok(match head {
        Some(head) => Opened::File {
            job: id,
            head,
            bytes,
        },
        None => Opened::Archive { job: id, bytes },
    })
}

fn head_of(job: &Job) -> Option<&DownloadHead> {
    match (&job.result, &job.progress) {
        (Some(JobResult::Downloaded { head, .. }), _) => Some(head),
        (_, Some(progress)) => progress.head.as_ref(),
        (_, None) => None,
    }
}

/// What a job read, once it has ended.
fn content_of(job: &Job) -> Option<&ByteContent> {
    match &job.result {
        Some(JobResult::Downloaded { content, .. } | JobResult::Packed { content, .. }) => {
            Some(content)
        }
        _ => None,
    }
}

/// A download whose parts are passed on.
struct Parts {
    reader: Reader,
    /// Of a file.
    head: Option<DownloadHead>,
    job: Job,
    watch: Watch,
    next: u32,
    /// Bytes of the parts before `next`.
    passed: u64,
}

type PartBytes = BoxStream<'static, Result<Bytes, BrokenOff>>;

impl Parts {
    /// Waits for the next part that may be passed on; nothing after the last.
    async fn advance(mut self) -> Result<Option<(PartBytes, Self)>, BrokenOff> {
        loop {
            let (parts, ended) = self.visible()?;
            self.reader.seen = parts;
            self.reader.ended = ended;
            if ended && self.next >= parts {
                return if self.length().is_none_or(|length| self.passed == length) {
                    Ok(None)
                } else {
                    Err(BrokenOff::Mismatch)
                };
            }
            if self.next < parts && (ended || self.next + 1 < parts) {
                return self.part().await.map(Some);
            }
            self.watch.changed().await;
            let found = self.reader.app.deps.store.job(&self.reader.at).await?;
            self.job = found.ok_or_else(|| BrokenOff::Ended("it is gone".to_owned()))?;
        }
    }

    /// How many parts there are, and whether these are all.
    fn visible(&self) -> Result<(u32, bool), BrokenOff> {
        let etag = |head: Option<&DownloadHead>| head.map(|head| head.etag.clone());
        if etag(head_of(&self.job)) != etag(self.head.as_ref()) {
            return Err(BrokenOff::Mismatch);
        }
        match (content_of(&self.job), self.job.state) {
            (Some(ByteContent::Staged { parts, .. }), JobState::Succeeded) => Ok((*parts, true)),
            (_, state) if state.is_terminal() => {
                let error = self.job.error.as_ref();
                let why = error.map_or_else(|| state.as_str().to_owned(), |e| e.message.clone());
                Err(BrokenOff::Ended(why))
            }
            _ => Ok((self.job.progress.as_ref().map_or(0, |p| p.parts), false)),
        }
    }

    /// How many bytes there are, as far as that is known.
    fn length(&self) -> Option<u64> {
        match (&self.head, content_of(&self.job)) {
            (Some(head), _) => Some(head.length),
            (None, Some(ByteContent::Staged { size, .. })) => Some(*size),
            _ => None,
        }
    }

    async fn part(mut self) -> Result<(PartBytes, Self), BrokenOff> {
        let name = staging::part(&self.reader.at, self.next)?;
        let (info, bytes): (_, BlobStream) = self.reader.app.deps.blobs.get(&name).await?;
        self.passed += info.size;
        self.next += 1;
        if self.length().is_some_and(|length| self.passed > length) {
            return Err(BrokenOff::Mismatch);
        }
        Ok((bytes.map_err(BrokenOff::from).boxed(), self))
    }
}

/// Who reads the parts. When it goes, so do they, and the job that makes them ends.
struct Reader {
    app: App,
    at: JobRef,
    seen: u32,
    ended: bool,
}

impl Drop for Reader {
    fn drop(&mut self) {
        let (app, at, seen, ended) = (self.app.clone(), self.at.clone(), self.seen, self.ended);
        // Outside of a runtime there is nothing to clean up with: parts go by their age too.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move { app.clean_up(&at, seen, ended).await });
        }
    }
}

impl Service {
    /// Ends a download that nobody reads any more, and removes its parts. What fails here is done by age.
    async fn clean_up(&self, at: &JobRef, parts: u32, ended: bool) {
        if !ended {
            let request = CancelRequest {
                signal: 0,
                grace_seconds: 0,
                code: "abandoned".to_owned(),
                message: "the caller went away".to_owned(),
            };
            let now = self.deps.clock.now();
            if let Err(error) = self.deps.store.cancel(at, request, now).await {
                tracing::debug!(%error, "an abandoned download goes on");
            }
        }
        for name in (0..parts).filter_map(|number| staging::part(at, number).ok()) {
            if let Err(error) = self.deps.blobs.delete(&name).await {
                tracing::debug!(%error, "a part of a download stays until its age ends it");
            }
        }
    }
}
