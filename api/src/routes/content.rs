//! The bytes of a file, in and out.

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::header::{
    ACCEPT_RANGES, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, IF_NONE_MATCH, IF_RANGE,
    LAST_MODIFIED, RANGE,
};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use futures::TryStreamExt as _;
use jiff::fmt::rfc2822::DateTimePrinter;
use shared::ids::EnvironmentId;
use shared::job::{ByteRange, DownloadHead, JobInput, JobResult, Verdict, Wanted};

use crate::answer;
use crate::download::{self, Opened};
use crate::extract::{Call, EnvironmentPath, Params};
use crate::problem::{Problem, ProblemBody};
use crate::routes::files::path_of;
use crate::service::App;
use crate::views::{JobView, UploadedView};

/// Permission bits at most.
const MAX_MODE: u32 = 0o7777;

/// Tags of one condition that are looked at.
const MAX_TAGS: usize = 64;

/// Reads a file, or a range of it.
///
/// The answer is complete only if it has as many bytes as `Content-Length` says: a file that changes or goes while it is
/// read breaks the connection off. Of several ranges in one request none counts.
#[utoipa::path(
    get, path = "/v1/environments/{env}/files/content", tag = "files",
    params(
        ("env" = String, Path, description = "The environment"),
        ("path" = String, Query, description = "The file, relative to `/app` or absolute; percent-encoded bytes need not be UTF-8"),
        ("Range" = Option<String>, Header, description = "`bytes=0-99`, `bytes=100-` or `bytes=-100`"),
        ("If-Range" = Option<String>, Header, description = "The `ETag` of the file that the range is of; of another all is answered"),
        ("If-None-Match" = Option<String>, Header, description = "Tags of which the caller has the file"),
        ("Prefer" = Option<String>, Header, description = "`wait=N`: wait up to N seconds for the first byte, 300 at most"),
    ),
    responses(
        (status = 200, description = "The bytes", body = Vec<u8>, content_type = "application/octet-stream"),
        (status = 202, description = "It takes longer to begin than the caller waits: ask again", body = JobView),
        (status = 206, description = "The bytes of the range", body = Vec<u8>, content_type = "application/octet-stream"),
        (status = 304, description = "The caller has it"),
        (status = 403, description = "It may not be read", body = ProblemBody, content_type = "application/problem+json"),
        (status = 404, description = "There is no such file or environment", body = ProblemBody, content_type = "application/problem+json"),
        (status = 409, description = "It is no regular file, or the environment does not run", body = ProblemBody, content_type = "application/problem+json"),
        (status = 416, description = "The file has no such range", body = ProblemBody, content_type = "application/problem+json"),
        (status = 422, description = "A parameter cannot be taken", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn get(
    State(app): State<App>,
    call: Call,
    EnvironmentPath(id): EnvironmentPath,
    params: Params,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    read(&app, &call, id, &params, wanted(&headers)).await
}

/// Looks at a file: the headers of its `GET` without the bytes.
#[utoipa::path(
    head, path = "/v1/environments/{env}/files/content", tag = "files",
    params(
        ("env" = String, Path, description = "The environment"),
        ("path" = String, Query, description = "The file, relative to `/app` or absolute; percent-encoded bytes need not be UTF-8"),
        ("If-None-Match" = Option<String>, Header, description = "Tags of which the caller has the file"),
        ("Prefer" = Option<String>, Header, description = "`wait=N`: wait up to N seconds, 300 at most"),
    ),
    responses(
        (status = 200, description = "The file's size, tag and time"),
        (status = 202, description = "It takes longer to begin than the caller waits: ask again"),
        (status = 304, description = "The caller has it"),
        (status = 403, description = "It may not be read"),
        (status = 404, description = "There is no such file or environment"),
        (status = 409, description = "It is no regular file, or the environment does not run"),
        (status = 422, description = "A parameter cannot be taken"),
    )
)]
pub(crate) async fn head(
    State(app): State<App>,
    call: Call,
    EnvironmentPath(id): EnvironmentPath,
    params: Params,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let wanted = Wanted {
        only_head: true,
        ..wanted(&headers)
    };
    read(&app, &call, id, &params, wanted).await
}

async fn read(
    app: &App,
    call: &Call,
    id: EnvironmentId,
    params: &Params,
    wanted: Wanted,
) -> Result<Response, Problem> {
    params.only(&["path"])?;
    let path = path_of(params, None)?;
    let only_head = wanted.only_head;
    let input = JobInput::Download { path, wanted };
    match download::open(app, call, id, input, app.file_wait(call)).await? {
        Opened::Later(job) => Ok(answer::job(call.prefer, &job)),
        Opened::Archive { .. } => Err(Problem::internal()),
        Opened::File { job, head, bytes } => {
            let bytes = bytes.inspect_err(move |error| {
                tracing::warn!(%error, %job, "a download broke off");
            });
            let body = if only_head {
                Body::empty()
            } else {
                Body::from_stream(bytes)
            };
            let response = shown(&head, body);
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
        ("mode" = Option<String>, Query, description = "Permission bits in octal, 0001 to 7777; 0644 where they are not given"),
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
    let mode = params.with(
        "mode",
        "permission bits in octal, 0001 to 7777, such as 0644",
        octal,
    )?;
    let input = |content| JobInput::Upload {
        path,
        mode,
        content,
    };
    let job = app.run_with_body(&call, id, body, input).await?;
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
        .filter(|mode| digits && (1..=MAX_MODE).contains(mode))
}

/// A file as its verdict has it.
fn shown(head: &DownloadHead, body: Body) -> Response {
    let (status, length, range) = match head.verdict {
        Verdict::Whole => (StatusCode::OK, Some(head.length), None),
        Verdict::Part => {
            let last = (head.offset + head.length).saturating_sub(1);
            let range = format!("bytes {}-{last}/{}", head.offset, head.size);
            (StatusCode::PARTIAL_CONTENT, Some(head.length), Some(range))
        }
        Verdict::NotModified => (StatusCode::NOT_MODIFIED, None, None),
        Verdict::NotSatisfiable => {
            let problem = Problem::new(
                StatusCode::RANGE_NOT_SATISFIABLE,
                "range_not_satisfiable",
                format!("the file has {} bytes", head.size),
            );
            let mut response = problem.into_response();
            set(
                response.headers_mut(),
                CONTENT_RANGE,
                format!("bytes */{}", head.size),
            );
            return response;
        }
    };
    let mut headers = about(head);
    if let Some(length) = length {
        headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    }
    if let Some(range) = range {
        set(&mut headers, CONTENT_RANGE, range);
    }
    (status, headers, body).into_response()
}

/// What every answer says of a file.
fn about(head: &DownloadHead) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(
        CONTENT_TYPE,
        HeaderValue::from_static("application/octet-stream"),
    );
    headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    set(
        &mut headers,
        ETAG,
        format!("\"{}\"", head.etag.trim_matches('"')),
    );
    if let Ok(modified) = DateTimePrinter::new().timestamp_to_rfc9110_string(&head.modified_at) {
        set(&mut headers, LAST_MODIFIED, modified);
    }
    headers
}

fn set(headers: &mut HeaderMap, name: HeaderName, value: String) {
    if let Ok(value) = HeaderValue::try_from(value) {
        headers.insert(name, value);
    }
}

/// What the headers of a request want of a file. What cannot be read of them is as if it were not there (RFC 9110).
fn wanted(headers: &HeaderMap) -> Wanted {
    let text = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    let unless = headers
        .get_all(IF_NONE_MATCH)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(tags)
        .take(MAX_TAGS)
        .collect();
    Wanted {
        range: text(RANGE).and_then(range),
        range_if: text(IF_RANGE).map(|tag| tag.trim().to_owned()),
        unless,
        only_head: false,
    }
}

/// Tags in a list: `"a", W/"b"`, or `*`. Ours hold no comma.
fn tags(list: &str) -> impl Iterator<Item = String> {
    list.split(',')
        .map(str::trim)
        .filter(|tag| *tag == "*" || tag.ends_with('"'))
        .map(str::to_owned)
}

/// One range of bytes.
fn range(text: &str) -> Option<ByteRange> {
    let (unit, range) = text.split_once('=')?;
    let (first, last) = range.trim().split_once('-')?;
    let number = |text: &str| {
        let plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        // More digits than a number holds is still a number, and a large one.
        plain.then(|| text.parse::<u64>().unwrap_or(u64::MAX))
    };
    if !unit.trim().eq_ignore_ascii_case("bytes") {
        return None;
    }
    match (first, last) {
        ("", count) => number(count).map(ByteRange::Last),
        (first, "") => number(first).map(ByteRange::From),
        (first, last) => {
            let (first, last) = (number(first)?, number(last)?);
            (first <= last).then_some(ByteRange::Within(first, last))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_read_or_as_if_it_were_not_there() {
        for (text, read) in [
            ("bytes=0-0", Some(ByteRange::Within(0, 0))),
            ("Bytes = 5-9", Some(ByteRange::Within(5, 9))),
            ("bytes=5-", Some(ByteRange::From(5))),
            ("bytes=-5", Some(ByteRange::Last(5))),
            (
                "bytes=0-99999999999999999999999",
                Some(ByteRange::Within(0, u64::MAX)),
            ),
            ("bytes=9-5", None),
            ("bytes=0-1,5-6", None),
            ("bytes=-", None),
            ("bytes=+1-2", None),
            ("lines=1-2", None),
            ("bytes", None),
            ("", None),
        ] {
            assert_eq!(range(text), read, "{text}");
        }
    }

    #[test]
    fn tags_are_read_from_every_list() {
        let mut headers = HeaderMap::new();
        for list in ["\"a\", W/\"b\"", "\"c\"", "nonsense", "*"] {
            headers.append(IF_NONE_MATCH, list.parse().expect("a header"));
        }
        assert_eq!(wanted(&headers).unless, ["\"a\"", "W/\"b\"", "\"c\"", "*"]);
        assert!(wanted(&HeaderMap::new()).is_everything());
    }

    #[test]
    fn modes_are_octal() {
        for (text, mode) in [
            ("0644", Some(0o644)),
            ("755", Some(0o755)),
            ("7777", Some(0o7777)),
        ] {
            assert_eq!(octal(text), mode);
        }
        for bad in ["", "0", "0000", "8", "10000", "-1", "+7", "0o644", "rw-"] {
            assert_eq!(octal(bad), None, "{bad}");
        }
    }
}
