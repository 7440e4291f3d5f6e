//! Input to a running command.
//!
//! The body is written piece by piece as it comes, each piece durable before the next is read, so that a body of any size
//! needs no memory and a command that does not read holds up only its own callers.

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::StreamExt as _;
use serde::Serialize;
use shared::ids::JobRef;
use shared::ports::StdinError;
use shared::stdin::{PIECE_BYTES, StdinRefusal, StdinWrite};
use utoipa::ToSchema;

use crate::extract::{Call, JobPath, Params};
use crate::problem::{Problem, ProblemBody};
use crate::routes::output::MAX_OFFSET;
use crate::service::{App, Service};
use crate::wait::Patience;

/// How far the input is.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = StdinWritten)]
pub(crate) struct StdinView {
    /// Offset after the last byte that was accepted, counted from the first byte of the exec's `stdin`.
    next_offset: u64,
}

/// Writes to the standard input of a command that was started with `"stdin_open": true`.
///
/// With `offset` a call can be repeated, also after the command's end: bytes that are known are passed over, a gap is a
/// conflict that says the next offset. Without it the bytes are appended, and a call that broke must not be repeated. A
/// command that does not read makes the call wait; after `sync_wait_seconds` it is 429, and the bytes before `next_offset`
/// in its detail are accepted.
#[utoipa::path(
    post, path = "/v1/jobs/{id}/stdin", tag = "jobs",
    request_body(content = Vec<u8>, content_type = "application/octet-stream", description = "The bytes, any number of them"),
    params(
        ("id" = String, Path, description = "The job"),
        ("offset" = Option<u64>, Query, description = "Offset of the first byte; after the last one accepted where it is not given"),
        ("eof" = Option<bool>, Query, description = "Whether the input ends with these bytes"),
        ("Prefer" = Option<String>, Header, description = "`wait=N`: wait up to N seconds for a command that does not read, 300 at most"),
    ),
    responses(
        (status = 200, description = "They are accepted", body = StdinView),
        (status = 400, description = "The body did not come whole", body = ProblemBody, content_type = "application/problem+json"),
        (status = 404, description = "There is no such job", body = ProblemBody, content_type = "application/problem+json"),
        (status = 409, description = "Bytes before the offset are missing, or the input is not open", body = ProblemBody, content_type = "application/problem+json"),
        (status = 422, description = "A parameter cannot be taken", body = ProblemBody, content_type = "application/problem+json"),
        (status = 429, description = "The command has not read what it was sent before", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn write(
    State(app): State<App>,
    call: Call,
    JobPath(id): JobPath,
    params: Params,
    body: Body,
) -> Result<Response, Problem> {
    params.only(&["offset", "eof"])?;
    let mut offset = params.number("offset", 0..=MAX_OFFSET)?;
    let eof = params.flag("eof")?;
    let wait = call
        .prefer
        .wait_or(app.deps.settings.server.sync_wait_seconds);
    let (at, patience) = (call.job(id), Patience::of(wait));
    let mut pieces = body.into_data_stream();
    let mut rest = Bytes::new();
    let mut written = None;
    loop {
        while rest.is_empty() {
            match pieces.next().await {
                Some(piece) => {
                    rest = piece.map_err(|_| Problem::malformed("the body did not come whole"))?;
                }
                None => break,
            }
        }
        let data = rest.split_to(rest.len().min(PIECE_BYTES));
        let last = data.is_empty();
        if last
            && !eof
            && let Some(next_offset) = written
        {
            return Ok(Json(StdinView { next_offset }).into_response());
        }
        let write = StdinWrite {
            offset,
            data,
            eof: last && eof,
        };
        let length = write.data.len() as u64;
        let next_offset = app
            .write_stdin(&at, write, patience)
            .await
            .map_err(|problem| after(problem, written))?;
        if last {
            return Ok(Json(StdinView { next_offset }).into_response());
        }
        offset = offset.map(|offset| offset + length);
        written = Some(next_offset);
    }
}

/// A problem of a body of which the beginning is accepted.
fn after(mut problem: Problem, written: Option<u64>) -> Problem {
    if let Some(next_offset) = written {
        problem.detail = format!("{} (next_offset: {next_offset})", problem.detail);
    }
    problem
}

impl Service {
    /// Writes one piece, and waits while there is no room for it.
    async fn write_stdin(
        &self,
        at: &JobRef,
        write: StdinWrite,
        patience: Patience,
    ) -> Result<u64, Problem> {
        let mut watch = self.deps.store.watch(at);
        loop {
            match self.deps.store.write_stdin(at, write.clone()).await {
                Err(StdinError::Refused(StdinRefusal::Full))
                    if self.changed(&mut watch, patience).await => {}
                done => return Ok(done?),
            }
        }
    }
}
