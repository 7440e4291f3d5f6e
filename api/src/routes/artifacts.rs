//! Artifacts: files copied out of an environment and indexed.

use std::collections::BTreeMap;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE, ETAG};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use futures::TryStreamExt as _;
use serde::Deserialize;
use shared::artifact::Artifact;
use shared::ids::{ArtifactId, EnvironmentId, JobId};
use shared::job::{JobInput, PublishInput};
use shared::octets::Octets;
use shared::ports::BlobName;
use shared::staging::STAGING_BUCKET;
use utoipa::ToSchema;

use crate::answer;
use crate::extract::{ArtifactPath, Call, EnvironmentPath, JsonBody, NoParams, Params};
use crate::problem::{Problem, ProblemBody};
use crate::routes::requests::OctetsIn;
use crate::service::{App, Service};
use crate::validate::Faults;
use crate::views::{ArtifactPage, ArtifactView, JobView};

/// Bytes of a plan's or task's id at most.
const MAX_PLAN_ID: usize = 512;

/// What to publish, and where.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct PublishRequest {
    /// The file in the environment.
    #[schema(required, nullable = false)]
    path: Option<OctetsIn>,
    /// The bucket to write to; the service's own where it is not given.
    bucket: Option<String>,
    /// The object's name in the bucket; made of environment, job and file where it is not given.
    destination: Option<String>,
    /// The plan whose task gets a reference to the artifact.
    execution_plan_id: Option<String>,
    /// The task of that plan.
    task_id: Option<String>,
    /// The caller's own words about it.
    metadata: Option<BTreeMap<String, String>>,
}

/// Copies a file out of the environment and indexes it as an artifact.
#[utoipa::path(
    post, path = "/v1/environments/{env}/artifacts", tag = "artifacts",
    request_body = PublishRequest,
    params(
        ("env" = String, Path, description = "The environment"),
        ("Prefer" = Option<String>, Header, description = "`wait=N`: wait up to N seconds, 300 at most"),
        ("Idempotency-Key" = Option<String>, Header, description = "Repeats of the same request answer the first one's job"),
    ),
    responses(
        (status = 200, description = "The job has ended", body = JobView),
        (status = 202, description = "The job is accepted", body = JobView),
        (status = 404, description = "There is no such environment", body = ProblemBody, content_type = "application/problem+json"),
        (status = 409, description = "The environment is stopped or failed", body = ProblemBody, content_type = "application/problem+json"),
        (status = 410, description = "The environment is being deleted, or was", body = ProblemBody, content_type = "application/problem+json"),
        (status = 422, description = "Some fields cannot be taken", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn publish(
    State(app): State<App>,
    call: Call,
    EnvironmentPath(id): EnvironmentPath,
    _: NoParams,
    body: JsonBody<PublishRequest>,
) -> Result<Response, Problem> {
    let job = app.new_job();
    let input = app.checked_publish(&id, job, body.value)?;
    let mut order = app.order_as(job, id, JobInput::Publish(input));
    order.idempotency = call.idempotency(&body.raw);
    let job = app.run(&call, order, call.prefer.wait_or(0)).await?;
    Ok(answer::job(call.prefer, &job))
}

/// Lists artifacts, newest first.
#[utoipa::path(
    get, path = "/v1/artifacts", tag = "artifacts",
    params(
        ("page_size" = Option<u32>, Query, description = "1 to 1000; 100 where it is not given"),
        ("page_token" = Option<String>, Query, description = "From the page before"),
    ),
    responses(
        (status = 200, description = "One page", body = ArtifactPage),
        (status = 422, description = "A parameter cannot be taken", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn list(
    State(app): State<App>,
    call: Call,
    params: Params,
) -> Result<Json<ArtifactPage>, Problem> {
    params.only(&["page_size", "page_token"])?;
    let page = app
        .deps
        .store
        .artifacts(&call.tenant, params.page()?)
        .await?;
    Ok(Json(ArtifactPage {
        artifacts: page.items.iter().map(ArtifactView::of).collect(),
        next_page_token: page.next.unwrap_or_default(),
    }))
}

/// Looks at an artifact.
#[utoipa::path(
    get, path = "/v1/artifacts/{id}", tag = "artifacts",
    params(("id" = String, Path, description = "The artifact")),
    responses(
        (status = 200, description = "The artifact", body = ArtifactView),
        (status = 404, description = "There is none", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn get(
    State(app): State<App>,
    call: Call,
    ArtifactPath(id): ArtifactPath,
    _: NoParams,
) -> Result<Json<ArtifactView>, Problem> {
    Ok(Json(ArtifactView::of(&app.artifact(&call, &id).await?)))
}

/// Reads an artifact's bytes.
#[utoipa::path(
    get, path = "/v1/artifacts/{id}/content", tag = "artifacts",
    params(("id" = String, Path, description = "The artifact")),
    responses(
        (status = 200, description = "The bytes", body = Vec<u8>, content_type = "application/octet-stream"),
        (status = 404, description = "There is none", body = ProblemBody, content_type = "application/problem+json"),
        (status = 410, description = "A later artifact has taken its object", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn content(
    State(app): State<App>,
    call: Call,
    ArtifactPath(id): ArtifactPath,
    _: NoParams,
) -> Result<Response, Problem> {
    let artifact = app.artifact(&call, &id).await?;
    let name = BlobName::new(artifact.bucket.as_str(), artifact.object.as_str())?;
    let (info, bytes) = app.deps.blobs.get(&name).await?;
    if info.sha256 != artifact.sha256 {
        return Err(Problem::new(
            StatusCode::GONE,
            "artifact_replaced",
            "other content was written to the artifact's object since",
        ));
    }
    let mut headers = HeaderMap::new();
    headers.insert(
        CONTENT_TYPE,
        HeaderValue::from_static("application/octet-stream"),
    );
    headers.insert(CONTENT_LENGTH, HeaderValue::from(info.size));
    if let Ok(etag) = HeaderValue::try_from(format!("\"{}\"", info.sha256)) {
        headers.insert(ETAG, etag);
    }
    let bytes = bytes.inspect_err(move |error| {
        tracing::warn!(%error, artifact = %id, "an artifact's content broke off");
    });
    Ok((headers, Body::from_stream(bytes)).into_response())
}

impl Service {
    async fn artifact(&self, call: &Call, id: &ArtifactId) -> Result<Artifact, Problem> {
        let found = self.deps.store.artifact(&call.tenant, id).await?;
        found.ok_or_else(|| Problem::not_found(format!("there is no artifact {id}")))
    }

    fn checked_publish(
        &self,
        environment: &EnvironmentId,
        job: JobId,
        asked: PublishRequest,
    ) -> Result<PublishInput, Problem> {
        let mut faults = Faults::default();
        let path = match asked.path {
            Some(path) => faults.take("path", path.octets()).unwrap_or_default(),
            None => return Err(Problem::invalid("path", "is missing")),
        };
        let metadata = asked.metadata.unwrap_or_default();
        faults.marks("metadata", &metadata);
        let destination = asked
            .destination
            .unwrap_or_else(|| format!("{environment}/{job}/{}", file_name(&path)));
        let bucket = asked
            .bucket
            .unwrap_or_else(|| self.deps.settings.blobs.bucket.clone());
        let input = PublishInput {
            path,
            bucket,
            destination,
            execution_plan_id: asked.execution_plan_id,
            task_id: asked.task_id,
            metadata,
        };
        publishable(&input, &mut faults);
        faults.finish()?;
        Ok(input)
    }
}

/// Checks what every way to publish has in common.
pub(crate) fn publishable(input: &PublishInput, faults: &mut Faults) {
    faults.path("path", &input.path);
    faults.unless(
        input.bucket != STAGING_BUCKET,
        "bucket",
        "is the service's own: choose another",
    );
    // A name that fits any bucket tells which of the two is wrong.
    faults.take("bucket", BlobName::new(input.bucket.as_str(), "object"));
    faults.take(
        "destination",
        BlobName::new("bucket", input.destination.as_str()),
    );
    for (field, id) in [
        ("execution_plan_id", &input.execution_plan_id),
        ("task_id", &input.task_id),
    ] {
        faults.unless(
            id.as_ref()
                .is_none_or(|id| (1..=MAX_PLAN_ID).contains(&id.len()) && !id.contains('\0')),
            field,
            "must be 1 to 512 bytes without NUL",
        );
    }
}

/// The last part of a path as a name that every blob store takes.
fn file_name(path: &Octets) -> String {
    let text = String::from_utf8_lossy(&path.0);
    let name = text
        .trim_end_matches('/')
        .rsplit('/')
        .next()
        .unwrap_or_default();
    let usable = !matches!(name, "" | "." | "..")
        && name.len() <= 255
        && !name.chars().any(char::is_control);
    if usable {
        name.to_owned()
    } else {
        "file".to_owned()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_path_has_a_name_that_blobs_take(path: Vec<u8>) {
            let name = file_name(&path.into());
            prop_assert!(BlobName::new("bucket", name).is_ok());
        }
    }

    #[test]
    fn a_file_keeps_its_name() {
        assert_eq!(file_name(&"/app/out/a b.txt".into()), "a b.txt");
        assert_eq!(file_name(&"/".into()), "file");
    }
}
