//! A job's output, window by window.

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use shared::ids::JobRef;
use shared::job::Job;
use shared::output::{Chunk, Offsets, Stream};
use shared::ports::StoreError;

use crate::answer;
use crate::extract::{Call, JobPath, Params};
use crate::problem::{Problem, ProblemBody};
use crate::service::{App, Service};
use crate::views::{OutputWindow, Wanted, Window};
use crate::wait::Patience;

/// Bytes of each stream that a window holds where the caller says nothing.
const DEFAULT_LIMIT: u64 = 1 << 20;

/// Bytes of each stream that a window holds at most.
const MAX_LIMIT: u64 = 4 << 20;

/// Bytes of each stream that are read of the store in one step.
const STEP_BYTES: u64 = 1 << 20;

/// Offsets at most, so that every stored number holds them.
pub(super) const MAX_OFFSET: u64 = i64::MAX as u64;

/// Reads output from an offset of each stream on; with `Prefer: wait=N` waits until there is some, or the end.
#[utoipa::path(
    get, path = "/v1/jobs/{id}/output", tag = "jobs",
    params(
        ("id" = String, Path, description = "The job"),
        ("stdout_offset" = Option<u64>, Query, description = "Where to begin, in bytes; 0 where it is not given"),
        ("stderr_offset" = Option<u64>, Query, description = "Where to begin, in bytes; 0 where it is not given"),
        ("limit" = Option<u64>, Query, description = "Bytes of each stream at most: 1 to 4 MiB; 1 MiB where it is not given"),
        ("Prefer" = Option<String>, Header, description = "`wait=N`: wait up to N seconds for output, 300 at most"),
    ),
    responses(
        (status = 200, description = "The window", body = OutputWindow),
        (status = 404, description = "There is no such job", body = ProblemBody, content_type = "application/problem+json"),
        (status = 422, description = "A parameter cannot be taken", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn window(
    State(app): State<App>,
    call: Call,
    JobPath(id): JobPath,
    params: Params,
) -> Result<Response, Problem> {
    params.only(&["stdout_offset", "stderr_offset", "limit"])?;
    let from = offsets(&params)?;
    let limit = params
        .number("limit", 1..=MAX_LIMIT)?
        .unwrap_or(DEFAULT_LIMIT);
    let at = call.job(id);
    let patience = Patience::of(call.prefer.wait_or(0));
    let mut watch = app.deps.store.watch(&at);
    let (mut job, mut seen) = app.seen(&at, from, limit).await?;
    while !seen.done && seen.is_empty() && app.changed(&mut watch, patience).await {
        (job, seen) = app.seen(&at, from, limit).await?;
    }
    let response = seen.shown(&job).into_response();
    Ok(answer::waited(call.prefer, response))
}

/// `stdout_offset` and `stderr_offset`.
pub(super) fn offsets(params: &Params) -> Result<Offsets, Problem> {
    Ok(Offsets {
        stdout: params.number("stdout_offset", 0..=MAX_OFFSET)?.unwrap_or(0),
        stderr: params.number("stderr_offset", 0..=MAX_OFFSET)?.unwrap_or(0),
    })
}

/// A window of a job's output.
pub(super) struct Seen {
    pub(super) stdout: Window,
    pub(super) stderr: Window,
    /// Whether the job has ended and nothing follows.
    pub(super) done: bool,
}

impl Seen {
    /// Where to read on.
    pub(super) fn next(&self) -> Offsets {
        Offsets {
            stdout: self.stdout.next(),
            stderr: self.stderr.next(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.stdout.data.is_empty() && self.stderr.data.is_empty()
    }

    fn shown(self, job: &Job) -> OutputWindow {
        OutputWindow {
            done: self.done,
            truncated: job.output.truncated(),
            incomplete: job.output.incomplete,
            ..OutputWindow::encoded(self.stdout, self.stderr)
        }
    }
}

/// What was read of the store at once, to be cut into windows.
pub(super) struct Read {
    job: Job,
    from: Offsets,
    chunks: Vec<Chunk>,
    /// Where the stored streams end, if the job has ended.
    end: Option<Offsets>,
}

impl Read {
    /// The next window of at most `limit` bytes of each stream.
    pub(super) fn cut(&self, from: Offsets, limit: u64) -> Seen {
        let cut = |stream: Stream| {
            let wanted = Wanted {
                from: from.of(stream),
                limit,
                end: self.end.map(|end| end.of(stream)),
                fresh: from.of(stream) == self.from.of(stream),
            };
            Window::cut(&self.chunks, stream, &wanted)
        };
        let (stdout, stderr) = (cut(Stream::Stdout), cut(Stream::Stderr));
        let done = self
            .end
            .is_some_and(|end| stdout.next() >= end.stdout && stderr.next() >= end.stderr);
        Seen {
            stdout,
            stderr,
            done,
        }
    }

    /// The job, as it was a moment before its output was read.
    pub(super) fn job(&self) -> &Job {
        &self.job
    }

    /// Whether the job has ended: all of its output is in the store, for as long as that keeps it.
    pub(super) fn has_ended(&self) -> bool {
        self.end.is_some()
    }

    /// Whether something was read that can be forgotten: it can be read again.
    pub(super) fn holds_output(&self) -> bool {
        !self.chunks.is_empty()
    }

    /// Forgets the output.
    pub(super) fn forget_output(&mut self) {
        self.chunks = Vec::new();
    }
}

impl Service {
    /// Reads at most `limit` bytes of each stream.
    pub(super) async fn read(
        &self,
        at: &JobRef,
        from: Offsets,
        limit: u64,
    ) -> Result<Read, Problem> {
        // The job first: one that has ended by then has all of its output in the store.
        let job = self.job(at).await?;
        let store = &self.deps.store;
        let end = if job.state.is_terminal() {
            let end = store.output_end(at).await?;
            // Of one that was removed meanwhile this is not the end of its output, but that of nothing.
            self.job(at).await?;
            Some(end)
        } else {
            None
        };
        let chunks = self.chunks(at, from, limit).await?;
        Ok(Read {
            job,
            from,
            chunks,
            end,
        })
    }

    /// At most `limit` bytes of each stream, read a step at a time: what a reader of the store has held at once it keeps.
    async fn chunks(
        &self,
        at: &JobRef,
        from: Offsets,
        limit: u64,
    ) -> Result<Vec<Chunk>, StoreError> {
        let (mut chunks, mut from, mut left) = (Vec::new(), from, limit);
        while left > 0 {
            let step = left.min(STEP_BYTES);
            let more = self.deps.store.output(at, from, step).await?;
            for chunk in &more {
                *from.of_mut(chunk.stream) = chunk.end();
            }
            // The longer of the streams fills a step, or nothing follows.
            let read = |stream: Stream| {
                let of_stream = more.iter().filter(|chunk| chunk.stream == stream);
                of_stream.map(|chunk| chunk.data.len() as u64).sum::<u64>()
            };
            let longer = read(Stream::Stdout).max(read(Stream::Stderr));
            chunks.extend(more);
            if longer < step {
                break;
            }
            left -= step;
        }
        Ok(chunks)
    }

    /// One window, and the job a moment before it.
    async fn seen(&self, at: &JobRef, from: Offsets, limit: u64) -> Result<(Job, Seen), Problem> {
        let read = self.read(at, from, limit).await?;
        let seen = read.cut(from, limit);
        Ok((read.job, seen))
    }

    /// Reads on. A job that has ended stays as it is.
    pub(super) async fn read_on(
        &self,
        before: Option<Read>,
        at: &JobRef,
        from: Offsets,
        limit: u64,
    ) -> Result<Read, Problem> {
        match before.filter(|read| read.end.is_some()) {
            Some(read) => Ok(Read {
                from,
                chunks: self.chunks(at, from, limit).await?,
                ..read
            }),
            None => self.read(at, from, limit).await,
        }
    }
}
