//! `/upload_to_environment`: a file's content in JSON.

use axum::extract::State;
use axum::response::Response;
use serde::{Deserialize, Serialize};
use shared::job::JobInput;
use shared::octets::Octets;
use utoipa::ToSchema;

use crate::extract::{Call, JsonBody};
use crate::legacy::{Detail, done, environment_id, path, required, succeeded};
use crate::problem::Problem;
use crate::service::App;
use crate::stage::Destination;

/// How a file's content stands in JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, ToSchema)]
pub(crate) enum Encoding {
    /// As it is.
    #[default]
    #[serde(rename = "utf-8")]
    Utf8,
    /// In base64.
    #[serde(rename = "base64")]
    Base64,
}

/// A file and its content.
#[derive(Deserialize, ToSchema)]
pub(crate) struct UploadRequest {
    #[schema(required, nullable = false)]
    environment_id: Option<String>,
    /// Relative to `/app` or absolute.
    #[schema(required, nullable = false)]
    path: Option<String>,
    #[schema(required, nullable = false)]
    content: Option<String>,
    /// `utf-8` where it is not given.
    encoding: Option<Encoding>,
}

/// The file is written.
#[derive(Serialize, ToSchema)]
pub(crate) struct UploadedFile {
    /// The path as it was given.
    uploaded: String,
}

/// Writes a file.
#[utoipa::path(
    post, path = "/upload_to_environment", tag = "original",
    request_body = UploadRequest,
    responses(
        (status = 200, description = "It is written", body = UploadedFile),
        (status = 404, description = "There is no such environment", body = Detail),
        (status = 409, description = "The environment does not run, or something else is there", body = Detail),
        (status = 422, description = "A field cannot be taken", body = Detail),
        (status = 504, description = "It takes longer than this endpoint waits; the job goes on", body = Detail),
    )
)]
pub(crate) async fn upload_to_environment(
    State(app): State<App>,
    call: Call,
    body: JsonBody<UploadRequest>,
) -> Result<Response, Problem> {
    let asked = body.value;
    let id = environment_id(asked.environment_id)?;
    let uploaded = asked.path.clone().unwrap_or_default();
    let path = path(asked.path)?;
    let content = required("content", asked.content)?;
    let bytes = match asked.encoding.unwrap_or_default() {
        Encoding::Utf8 => content.into(),
        Encoding::Base64 => from_base64(&content)?,
    };
    let job = app.new_job();
    let to = Destination {
        call: &call,
        environment: &id,
        job,
    };
    let content = app.stage_bytes(&to, bytes.0).await?;
    let input = JobInput::Upload {
        path,
        mode: None,
        content,
    };
    let mut order = app.order_as(job, id, input);
    order.idempotency = call.idempotency(&body.raw);
    let job = succeeded(app.run(&call, order, app.sync_wait()).await?)?;
    Ok(done(&job, UploadedFile { uploaded }))
}

/// Base64 as encoders write it, with line breaks or without.
fn from_base64(text: &str) -> Result<Octets, Problem> {
    let bare: String = text.chars().filter(|c| !c.is_ascii_whitespace()).collect();
    Octets::from_base64(&bare)
        .ok_or_else(|| Problem::invalid("content", "is not standard base64 with padding"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_may_be_broken_into_lines() {
        assert_eq!(
            from_base64("aGVs\nbG8=\n").ok(),
            Some(Octets::from("hello"))
        );
        assert!(from_base64("aGVsbG8").is_err());
        assert!(from_base64("a*b=").is_err());
    }
}
