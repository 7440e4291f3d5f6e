//! A job's output as server-sent events, live from any offset on.
//!
//! ```text
//!   id: 5-0     event: stdout   data: {"offset":0,"data":"hallo"}
//!   id: 5-3     event: stderr   data: {"offset":0,"data":"oh\n"}
//!   : ping                                                            each 15 s in which nothing is said
//!   id: 5-3     event: end      data: the job
//! ```
//!
//! Invariants: an event's id is where both streams are after it, so that whoever sends it back as `Last-Event-ID` misses
//! no byte and gets none twice; a stream without `end` is not the whole output. A stream ends some seconds after its key was
//! revoked at the latest. A reader that does not read holds [`IN_FLIGHT`] pieces, however much output there is: what was
//! read of the store beyond them is forgotten while it waits, and read again when one of them is on its way. However many
//! read at once, [`AHEAD`] of them read several pieces of the store together, and the others one.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::stream;
use shared::ids::JobRef;
use shared::output::Offsets;
use shared::ports::Watch;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Interval, MissedTickBehavior};

use crate::auth::Pass;
use crate::extract::{Call, JobPath, Params};
use crate::problem::{Problem, ProblemBody};
use crate::routes::output::{MAX_OFFSET, Read, offsets};
use crate::service::App;
use crate::views::{JobView, OutputEvent, Window};

/// Where a client that lost its connection was.
const LAST_EVENT_ID: &str = "Last-Event-ID";

/// Bytes of each stream in one piece at most.
const PIECE_BYTES: u64 = 64 * 1024;

/// Bytes of an event beside its data, about.
const EVENT_BYTES: usize = 256;

/// Bytes of each stream that a reader with [`AHEAD`] reads of the store at once, to be sent in pieces.
const READ_BYTES: u64 = 4 * PIECE_BYTES;

/// Readers that may hold more of the store than the piece they send.
pub(crate) const AHEAD: usize = 64;

/// Pieces that may be on their way to a reader.
const IN_FLIGHT: usize = 2;

/// How long what was read of the store is held for a reader that takes nothing.
const HELD: Duration = Duration::from_millis(200);

/// How long a stream may say nothing.
const PING: Duration = Duration::from_secs(15);

/// How often it is looked whether the reader may still read.
const LOOK: Duration = Duration::from_secs(2);

/// Keeps proxies from collecting what shall be seen at once.
const UNBUFFERED: (HeaderName, HeaderValue) = (
    HeaderName::from_static("x-accel-buffering"),
    HeaderValue::from_static("no"),
);

/// Follows output as server-sent events: `stdout` and `stderr` as they come, then `end` with the job.
///
/// The `data` of `stdout` and `stderr` is `{"offset", "data", "encoding"?}`, with `"encoding": "base64"` where the bytes
/// are not UTF-8; that of `end` is the job. The `id` of an event is the offset of each stream after it, as
/// `stdout-stderr`: sent back as `Last-Event-ID` it goes on there. A stream that closes without `end` is to be asked for
/// again.
#[utoipa::path(
    get, path = "/v1/jobs/{id}/output/stream", tag = "jobs",
    params(
        ("id" = String, Path, description = "The job"),
        ("stdout_offset" = Option<u64>, Query, description = "Where to begin, in bytes; 0 where it is not given"),
        ("stderr_offset" = Option<u64>, Query, description = "Where to begin, in bytes; 0 where it is not given"),
        ("Last-Event-ID" = Option<String>, Header, description = "The id of the last event that arrived; it counts before the offsets"),
    ),
    responses(
        (status = 200, description = "The events", body = OutputEvent, content_type = "text/event-stream"),
        (status = 404, description = "There is no such job", body = ProblemBody, content_type = "application/problem+json"),
        (status = 422, description = "A parameter cannot be taken", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn stream(
    State(app): State<App>,
    call: Call,
    pass: Pass,
    JobPath(id): JobPath,
    params: Params,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    params.only(&["stdout_offset", "stderr_offset"])?;
    let asked = offsets(&params)?;
    let from = match headers.get(LAST_EVENT_ID) {
        Some(id) => id.to_str().ok().and_then(read_id).ok_or_else(|| {
            Problem::invalid(LAST_EVENT_ID, "must be an id of this stream, such as 5-0")
        })?,
        None => asked,
    };
    let at = call.job(id);
    app.job(&at).await?;
    let reading = Reading {
        watch: app.deps.store.watch(&at),
        app,
        at,
        pass,
        from,
        read: None,
        ahead: None,
        room: Arc::new(Semaphore::new(IN_FLIGHT)),
        pings: every(PING),
        looks: every(LOOK),
        ended: false,
    };
    let events = stream::try_unfold(reading, |mut reading| async move {
        Ok::<_, CutOff>(reading.next().await?.map(|piece| (piece, reading)))
    });
    let headers = [
        (CONTENT_TYPE, HeaderValue::from_static("text/event-stream")),
        (CACHE_CONTROL, HeaderValue::from_static("no-store")),
        UNBUFFERED,
    ];
    Ok((headers, Body::from_stream(events)).into_response())
}

fn every(period: Duration) -> Interval {
    let mut interval = tokio::time::interval_at(Instant::now() + period, period);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}

/// Why a stream breaks off instead of ending.
#[derive(Debug, thiserror::Error)]
enum CutOff {
    /// The store cannot be read.
    #[error("the store is unavailable")]
    Store,
    /// The service stops while the reader holds it up.
    #[error("the service stops")]
    Stopping,
    /// The reader's key is not accepted any more.
    #[error("the key is not accepted any more")]
    Revoked,
    /// The job is past its time, and what was not sent of its output is not there any more.
    #[error("the rest of the output is gone")]
    Gone,
}

/// One reader.
struct Reading {
    app: App,
    at: JobRef,
    pass: Pass,
    watch: Watch,
    from: Offsets,
    /// What was read of the store and is not all sent.
    read: Option<Read>,
    /// The right to hold more than a piece of it.
    ahead: Option<OwnedSemaphorePermit>,
    room: Arc<Semaphore>,
    pings: Interval,
    looks: Interval,
    ended: bool,
}

impl Reading {
    /// The next piece; nothing after the end, and nothing where the service stops.
    async fn next(&mut self) -> Result<Option<Bytes>, CutOff> {
        if self.ended {
            return Ok(None);
        }
        let permit = self.room().await?;
        loop {
            if let Some(text) = self.events() {
                self.pings.reset();
                return Ok(Some(Piece::bytes(text, permit)));
            }
            self.may_read().await?;
            let limit = self.limit();
            let (app, before) = (&self.app, self.read.take());
            let read = app.read_on(before, &self.at, self.from, limit).await;
            self.read = Some(read.map_err(|_| CutOff::Store)?);
            if let Some(text) = self.events() {
                self.pings.reset();
                return Ok(Some(Piece::bytes(text, permit)));
            }
            if self.read.as_ref().is_some_and(Read::has_ended) {
                return Err(CutOff::Gone);
            }
            self.ahead = None;
            loop {
                tokio::select! {
                    biased;
                    () = self.app.stopping.cancelled() => return Ok(None),
                    () = self.watch.changed() => break,
                    _ = self.pings.tick() => {
                        return Ok(Some(Piece::bytes(b": ping\n\n".to_vec(), permit)));
                    }
                    _ = self.looks.tick() => self.may_read().await?,
                }
            }
        }
    }

    /// Waits until the reader has taken enough of what it was sent.
    async fn room(&mut self) -> Result<OwnedSemaphorePermit, CutOff> {
        loop {
            tokio::select! {
                biased;
                permit = Arc::clone(&self.room).acquire_owned() => return permit.map_err(|_| CutOff::Stopping),
                () = self.app.stopping.cancelled() => return Err(CutOff::Stopping),
                () = tokio::time::sleep(HELD), if self.holds_output() => self.forget_output(),
                _ = self.looks.tick() => self.may_read().await?,
            }
        }
    }

    /// Breaks off where the key is not accepted any more.
    async fn may_read(&self) -> Result<(), CutOff> {
        match self.pass.holds(&self.app, &self.at.tenant).await {
            Ok(true) => Ok(()),
            Ok(false) => Err(CutOff::Revoked),
            Err(_) => Err(CutOff::Store),
        }
    }

    fn holds_output(&self) -> bool {
        self.read.as_ref().is_some_and(Read::holds_output)
    }

    fn forget_output(&mut self) {
        self.ahead = None;
        if let Some(read) = &mut self.read {
            read.forget_output();
        }
    }

    /// How many bytes of each stream it may read of the store now.
    fn limit(&mut self) -> u64 {
        if self.ahead.is_none() {
            self.ahead = Arc::clone(&self.app.ahead).try_acquire_owned().ok();
        }
        if self.ahead.is_some() {
            READ_BYTES
        } else {
            PIECE_BYTES
        }
    }

    /// The next piece of what was read, as events, and the step over it; none where nothing is left of it.
    fn events(&mut self) -> Option<Vec<u8>> {
        let read = self.read.as_ref()?;
        let seen = read.cut(self.from, PIECE_BYTES);
        if seen.is_empty() && !seen.done {
            return None;
        }
        let (mut text, next) = (Vec::new(), seen.next());
        if !seen.stdout.data.is_empty() {
            self.from.stdout = next.stdout;
            write_output(&mut text, "stdout", self.from, seen.stdout);
        }
        if !seen.stderr.data.is_empty() {
            self.from.stderr = next.stderr;
            write_output(&mut text, "stderr", self.from, seen.stderr);
        }
        if seen.done {
            self.ended = true;
            write_event(&mut text, "end", self.from, |text| {
                // Writing to memory does not fail.
                let _ = serde_json::to_writer(text, &JobView::of(read.job()));
            });
        }
        Some(text)
    }
}

/// Text on its way to a reader; when it was written to the connection, there is room for another.
struct Piece {
    text: Vec<u8>,
    _room: OwnedSemaphorePermit,
}

impl Piece {
    fn bytes(text: Vec<u8>, room: OwnedSemaphorePermit) -> Bytes {
        Bytes::from_owner(Self { text, _room: room })
    }
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        &self.text
    }
}

/// One event of output.
fn write_output(text: &mut Vec<u8>, name: &str, id: Offsets, window: Window) {
    text.reserve(window.data.len() + window.data.len() / 8 + EVENT_BYTES);
    write_event(text, name, id, |text| window.event().write(text));
}

/// One event. JSON has no line breaks, so its data is one line.
fn write_event(text: &mut Vec<u8>, name: &str, id: Offsets, data: impl FnOnce(&mut Vec<u8>)) {
    let (stdout, stderr) = (id.stdout, id.stderr);
    text.extend_from_slice(format!("event: {name}\nid: {stdout}-{stderr}\ndata: ").as_bytes());
    data(text);
    text.extend_from_slice(b"\n\n");
}

/// The offsets in an id that [`write_event`] wrote.
fn read_id(text: &str) -> Option<Offsets> {
    let (stdout, stderr) = text.split_once('-')?;
    let number = |text: &str| {
        let plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse()
            .ok()
            .filter(|number| plain && *number <= MAX_OFFSET)
    };
    Some(Offsets {
        stdout: number(stdout)?,
        stderr: number(stderr)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_read_as_it_was_written() {
        let id = Offsets {
            stdout: 5,
            stderr: MAX_OFFSET,
        };
        let mut text = Vec::new();
        write_event(&mut text, "stdout", id, |text| {
            text.extend_from_slice(br#""a\nb""#)
        });
        assert_eq!(
            text,
            b"event: stdout\nid: 5-9223372036854775807\ndata: \"a\\nb\"\n\n"
        );
        assert_eq!(read_id("5-9223372036854775807"), Some(id));
        for bad in [
            "",
            "5",
            "-",
            "5-",
            "+5-0",
            "5-9223372036854775808",
            "a-b",
            "1-2-3",
        ] {
            assert_eq!(read_id(bad), None, "{bad}");
        }
    }
}
