//! `/download_from_environment`: a file's content in JSON.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use bytes::BytesMut;
use futures::TryStreamExt as _;
use serde::{Deserialize, Serialize};
use shared::job::{JobInput, Wanted};
use shared::octets::Octets;
use utoipa::ToSchema;

use crate::answer;
use crate::download::{self, BrokenOff, Opened};
use crate::extract::{Call, JsonBody};
use crate::legacy::upload::Encoding;
use crate::legacy::{Detail, environment_id, naming_job, not_done, path};
use crate::problem::Problem;
use crate::service::App;

/// Bytes of a file that an answer holds at most.
const MAX_CONTENT: u64 = 64 << 20;

/// Which file.
#[derive(Deserialize, ToSchema)]
pub(crate) struct DownloadRequest {
    #[schema(required, nullable = false)]
    environment_id: Option<String>,
    /// Relative to `/app` or absolute.
    #[schema(required, nullable = false)]
    path: Option<String>,
    /// `utf-8` where it is not given.
    encoding: Option<Encoding>,
}

/// A file's content.
#[derive(Serialize, ToSchema)]
pub(crate) struct FileContent {
    content: String,
}

/// Reads a file.
#[utoipa::path(
    post, path = "/download_from_environment", tag = "original",
    request_body = DownloadRequest,
    responses(
        (status = 200, description = "Its content", body = FileContent),
        (status = 404, description = "There is no such file or environment", body = Detail),
        (status = 409, description = "It is no regular file, or the environment does not run", body = Detail),
        (status = 413, description = "It is larger than this endpoint answers", body = Detail),
        (status = 422, description = "It is not UTF-8 and base64 was not asked for, or a field cannot be taken", body = Detail),
        (status = 504, description = "It takes longer than this endpoint waits", body = Detail),
    )
)]
pub(crate) async fn download_from_environment(
    State(app): State<App>,
    call: Call,
    body: JsonBody<DownloadRequest>,
) -> Result<Response, Problem> {
    let asked = body.value;
    let id = environment_id(asked.environment_id)?;
    let path = path(asked.path)?;
    // A read changes nothing, so a repetition reads again: an idempotency key adds nothing to that.
    let input = JobInput::Download {
        path,
        wanted: Wanted::default(),
    };
    let opened = download::open(&app, &call, id, input, app.sync_wait()).await;
    let (job, head, bytes) = match opened.map_err(naming_job)? {
        Opened::File { job, head, bytes } => (job, head, bytes),
        Opened::Archive { .. } => return Err(Problem::internal()),
        Opened::Later(job) => return Err(not_done(&job)),
    };
    if head.length > MAX_CONTENT {
        return Err(Problem::too_large(format!(
            "the file has {} bytes, and this endpoint answers {MAX_CONTENT} at most: read it with \
             GET /v1/environments/{{env}}/files/content",
            head.length
        )));
    }
    let all = bytes
        .try_fold(BytesMut::new(), |mut all, chunk| async move {
            all.extend_from_slice(&chunk);
            Ok(all)
        })
        .await
        .map_err(|error| broken_off(&error))?;
    let content = shown(&Octets(all.freeze()), asked.encoding.unwrap_or_default())?;
    let response = Json(FileContent { content }).into_response();
    Ok(answer::of_job(job, response))
}

fn shown(content: &Octets, encoding: Encoding) -> Result<String, Problem> {
    match (encoding, content.as_text()) {
        (Encoding::Base64, _) => Ok(content.to_base64()),
        (Encoding::Utf8, Some(text)) => Ok(text.to_owned()),
        (Encoding::Utf8, None) => Err(Problem::invalid(
            "encoding",
            "the file is not UTF-8: ask for it with encoding base64",
        )),
    }
}

fn broken_off(error: &BrokenOff) -> Problem {
    tracing::warn!(%error, "a download broke off");
    Problem::unavailable("the file could not be read to its end: try again")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_utf8_comes_only_as_base64() {
        let raw = Octets::from(vec![0xff]);
        assert!(shown(&raw, Encoding::Utf8).is_err_and(|p| p.detail.contains("base64")));
        assert_eq!(shown(&raw, Encoding::Base64).ok().as_deref(), Some("/w=="));
        assert_eq!(
            shown(&"ä".into(), Encoding::Utf8).ok().as_deref(),
            Some("ä")
        );
    }
}
