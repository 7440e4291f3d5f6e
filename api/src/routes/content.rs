//! The bytes of a file, in and out.

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE, ETAG, LAST_MODIFIED};
use axum::http::{HeaderMap, HeaderValue};
use axum::response::{IntoResponse, Response};
use futures::TryStreamExt as _;
use jiff::fmt::rfc2822::DateTimePrinter;
use shared::job::{DownloadHead, JobInput, JobResult};

use crate::answer;
use crate::download::{self, Opened};
use crate::extract::{Call, EnvironmentPath, Params};
use crate::problem::{Problem, ProblemBody};
use crate::routes::files::path_of;
use crate::service::App;
use crate::stage::Destination;
use crate::views::{JobView, UploadedView};

/// Permission bits at most.
const MAX_MODE: u32 = 0o7777;

/// Reads a file.
///
/// The answer is complete only if it has as many bytes as `Content-Length` says: a file that changes or goes while it is
/// read breaks the connection off.
#[utoipa::path(
    get, path = "/v1/environments/{env}/files/content", tag = "files",
    params(
        ("env" = String, Path, description = "The environment"),
        ("path" = String, Query, description = "The file, relative to `/app` or absolute; percent-encoded bytes need not be UTF-8"),
        ("Prefer" = Option<String>, Header, description = "`wait=N`: wait up to N seconds for the first byte, 300 at most"),
    ),
    responses(
        (status = 200, description = "The bytes", body = Vec<u8>, content_type = "application/octet-stream"),
        (status = 202, description = "It takes longer to begin than the caller waits: ask again", body = JobView),
        (status = 403, description = "It may not be read", body = ProblemBody, content_type = "application/problem+json"),
        (status = 404, description = "There is no such file or environment", body = ProblemBody, content_type = "application/problem+json"),
        (status = 409, description = "It is no regular file, or the environment does not run", body = ProblemBody, content_type = "application/problem+json"),
        (status = 422, description = "A parameter cannot be taken", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn get(
    State(app): State<App>,
    call: Call,
    EnvironmentPath(id): EnvironmentPath,
    params: Params,
) -> Result<Response, Problem> {
    params.only(&["path"])?;
    let path = path_of(&params, None)?;
    let wait = call
        .prefer
        .wait_or(app.deps.settings.server.sync_wait_seconds);
    match download::open(&app, &call, id, path, wait).await? {
        Opened::Later(job) => Ok(answer::job(call.prefer, &job)),
        Opened::File { job, head, bytes } => {
            let bytes = bytes.inspect_err(move |error| {
                tracing::warn!(%error, %job, "a download broke off");
            });
            let response = (headers(&head), Body::from_stream(bytes)).into_response();
            Ok(answer::of_job(job, answer::waited(call.prefer, response)))
        }
    }
}

/// Writes a file, whole or not at all; folders on the way are made.
#[utoipa::path(
    put, path = "/v1/environments/{env}/files/content", tag = "files",
    request_body(content = Vec<u8>, content_type = "application/octet-stream", description = "The bytes, any number of them"),
    params(
        ("env" = String, Path, description = "The environment"),
        ("path" = String, Query, description = "The file, relative to `/app` or absolute; percent-encoded bytes need not be UTF-8"),
        ("mode" = Option<String>, Query, description = "Permission bits in octal; 0644 where they are not given"),
        ("Prefer" = Option<String>, Header, description = "`wait=N`: wait up to N seconds, 300 at most"),
    ),
    responses(
        (status = 200, description = "It is written", body = UploadedView),
        (status = 202, description = "It takes longer than the caller waits: the job has it", body = JobView),
        (status = 400, description = "The body did not come whole", body = ProblemBody, content_type = "application/problem+json"),
        (status = 403, description = "It may not be written", body = ProblemBody, content_type = "application/problem+json"),
        (status = 404, description = "There is no such environment", body = ProblemBody, content_type = "application/problem+json"),
        (status = 409, description = "Something else is there, or the environment does not run", body = ProblemBody, content_type = "application/problem+json"),
        (status = 422, description = "A parameter cannot be taken", body = ProblemBody, content_type = "application/problem+json"),
        (status = 507, description = "The volume is full", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn put(
    State(app): State<App>,
    call: Call,
    EnvironmentPath(id): EnvironmentPath,
    params: Params,
    body: Body,
) -> Result<Response, Problem> {
    params.only(&["path", "mode"])?;
    let path = path_of(&params, None)?;
    let mode = params.with("mode", "permission bits in octal, such as 0644", octal)?;
    let job = app.new_job();
    let to = Destination {
        call: &call,
        environment: &id,
        job,
    };
    let content = app.stage(&to, body).await?;
    let input = JobInput::Upload {
        path,
        mode,
        content,
    };
    let wait = call
        .prefer
        .wait_or(app.deps.settings.server.sync_wait_seconds);
    let job = app.run(&call, app.order_as(job, id, input), wait).await?;
    answer::result(call.prefer, &job, |result| match result {
        JobResult::Uploaded { path, size, sha256 } => {
            Some(Json(UploadedView::of(path, *size, sha256)).into_response())
        }
        _ => None,
    })
}

fn octal(text: &str) -> Option<u32> {
    let digits = !text.is_empty() && text.bytes().all(|byte| matches!(byte, b'0'..=b'7'));
    u32::from_str_radix(text, 8)
        .ok()
        .filter(|mode| digits && *mode <= MAX_MODE)
}

fn headers(head: &DownloadHead) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(
        CONTENT_TYPE,
        HeaderValue::from_static("application/octet-stream"),
    );
    headers.insert(CONTENT_LENGTH, HeaderValue::from(head.length));
    let etag = format!("\"{}\"", head.etag.trim_matches('"'));
    if let Ok(etag) = HeaderValue::try_from(etag) {
        headers.insert(ETAG, etag);
    }
    let modified = DateTimePrinter::new().timestamp_to_rfc9110_string(&head.modified_at);
    if let Ok(modified) = modified
        .map_err(drop)
        .and_then(|text| HeaderValue::try_from(text).map_err(drop))
    {
        headers.insert(LAST_MODIFIED, modified);
    }
    headers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_octal() {
        for (text, mode) in [
            ("0644", Some(0o644)),
            ("755", Some(0o755)),
            ("7777", Some(0o7777)),
        ] {
            assert_eq!(octal(text), mode);
        }
        for bad in ["", "8", "10000", "-1", "+7", "0o644", "rw-"] {
            assert_eq!(octal(bad), None, "{bad}");
        }
    }
}
