//! Folders as tar archives, out and in.

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderValue;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use futures::TryStreamExt as _;
use shared::job::{JobInput, JobResult};

use crate::answer;
use crate::download::{self, Opened};
use crate::extract::{Call, EnvironmentPath, Params};
use crate::problem::{Problem, ProblemBody};
use crate::routes::files::path_of;
use crate::service::App;
use crate::views::{JobView, UnpackedView};

/// Reads a folder, or a file, as a tar archive.
///
/// Names are relative to the folder. Links are packed as links; sockets, FIFOs and devices are left out. The archive is
/// streamed while it is made, so its length is not known before: one that breaks off ends the connection, and has no end.
#[utoipa::path(
    get, path = "/v1/environments/{env}/files/archive", tag = "files",
    params(
        ("env" = String, Path, description = "The environment"),
        ("path" = Option<String>, Query, description = "The folder or file, relative to `/app` or absolute; percent-encoded bytes need not be UTF-8"),
        ("Prefer" = Option<String>, Header, description = "`wait=N`: wait up to N seconds for the first byte, 300 at most"),
    ),
    responses(
        (status = 200, description = "The archive", body = Vec<u8>, content_type = "application/x-tar"),
        (status = 202, description = "It takes longer to begin than the caller waits: ask again", body = JobView),
        (status = 403, description = "Something in it may not be read", body = ProblemBody, content_type = "application/problem+json"),
        (status = 404, description = "There is no such folder or environment", body = ProblemBody, content_type = "application/problem+json"),
        (status = 409, description = "It is neither folder nor file, or changed while it was read, or the environment does not run", body = ProblemBody, content_type = "application/problem+json"),
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
    let path = path_of(&params, Some("."))?;
    let input = JobInput::Pack { path };
    match download::open(&app, &call, id, input, app.file_wait(&call)).await? {
        Opened::Later(job) => Ok(answer::job(call.prefer, &job)),
        Opened::File { .. } => Err(Problem::internal()),
        Opened::Archive { job, bytes } => {
            let bytes = bytes.inspect_err(move |error| {
                tracing::warn!(%error, %job, "an archive broke off");
            });
            let media_type = HeaderValue::from_static("application/x-tar");
            let response = ([(CONTENT_TYPE, media_type)], Body::from_stream(bytes));
            let response = answer::waited(call.prefer, response.into_response());
            Ok(answer::of_job(job, response))
        }
    }
}

/// Unpacks a tar archive into a folder, which is made if it is not there: all of it or nothing.
///
/// Files that are there are replaced, others stay. An archive of which anything would lie outside of the folder is
/// refused: absolute names, `..`, links that lead out; so are devices and FIFOs. Owners are not kept, and of the mode
/// only the permissions. The archive must not be compressed.
#[utoipa::path(
    put, path = "/v1/environments/{env}/files/archive", tag = "files",
    request_body(content = Vec<u8>, content_type = "application/x-tar", description = "The archive, of any size"),
    params(
        ("env" = String, Path, description = "The environment"),
        ("path" = Option<String>, Query, description = "The folder, relative to `/app` or absolute; percent-encoded bytes need not be UTF-8"),
        ("Prefer" = Option<String>, Header, description = "`wait=N`: wait up to N seconds, 300 at most"),
    ),
    responses(
        (status = 200, description = "It is unpacked", body = UnpackedView),
        (status = 202, description = "It takes longer than the caller waits: the job has it", body = JobView),
        (status = 400, description = "The body did not come whole", body = ProblemBody, content_type = "application/problem+json"),
        (status = 403, description = "The folder may not be written", body = ProblemBody, content_type = "application/problem+json"),
        (status = 404, description = "There is no such environment", body = ProblemBody, content_type = "application/problem+json"),
        (status = 409, description = "A folder is where the archive has a file, or the other way round, or the environment does not run", body = ProblemBody, content_type = "application/problem+json"),
        (status = 422, description = "The archive is refused or no tar, or a parameter cannot be taken", body = ProblemBody, content_type = "application/problem+json"),
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
    params.only(&["path"])?;
    let path = path_of(&params, Some("."))?;
    let input = |content| JobInput::Unpack { path, content };
    let job = app.run_with_body(&call, id, body, input).await?;
    answer::result(call.prefer, &job, |result| match result {
        JobResult::Unpacked {
            path,
            entries,
            size,
        } => Some(Json(UnpackedView::of(path, *entries, *size)).into_response()),
        _ => None,
    })
}
