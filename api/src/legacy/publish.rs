//! `/upload_to_cloud_and_index`: a file copied out and indexed.

use std::collections::BTreeMap;

use axum::extract::State;
use axum::response::Response;
use serde::{Deserialize, Serialize};
use shared::ids::ArtifactId;
use shared::job::{JobInput, JobResult, PublishInput};
use utoipa::ToSchema;

use crate::extract::{Call, JsonBody};
use crate::legacy::{Detail, done, environment_id, path, required, succeeded};
use crate::problem::Problem;
use crate::routes::artifacts::publishable;
use crate::service::App;
use crate::validate::Faults;

/// Which file, and where to.
#[derive(Deserialize, ToSchema)]
pub(crate) struct UploadToCloudRequest {
    #[schema(required, nullable = false)]
    environment_id: Option<String>,
    /// The file, relative to `/app` or absolute.
    #[schema(required, nullable = false)]
    path: Option<String>,
    #[schema(required, nullable = false)]
    bucket: Option<String>,
    /// The object's name in the bucket.
    #[schema(required, nullable = false)]
    destination: Option<String>,
    /// The plan whose task gets a reference to the artifact.
    execution_plan_id: Option<String>,
    /// The task of that plan.
    task_id: Option<String>,
}

/// The artifact.
#[derive(Serialize, ToSchema)]
pub(crate) struct Indexed {
    #[schema(value_type = String)]
    artifact_id: ArtifactId,
    /// Where its bytes are: `gs://…`, or `file://…` where the service keeps them itself.
    gcs_uri: String,
}

/// Copies a file out of an environment and indexes it as an artifact.
#[utoipa::path(
    post, path = "/upload_to_cloud_and_index", tag = "original",
    request_body = UploadToCloudRequest,
    responses(
        (status = 200, description = "It is indexed", body = Indexed),
        (status = 404, description = "There is no such file or environment", body = Detail),
        (status = 409, description = "It is no regular file, or the environment does not run", body = Detail),
        (status = 422, description = "A field cannot be taken", body = Detail),
        (status = 504, description = "It takes longer than this endpoint waits; the job goes on", body = Detail),
    )
)]
pub(crate) async fn upload_to_cloud_and_index(
    State(app): State<App>,
    call: Call,
    body: JsonBody<UploadToCloudRequest>,
) -> Result<Response, Problem> {
    let asked = body.value;
    let id = environment_id(asked.environment_id)?;
    let input = PublishInput {
        path: path(asked.path)?,
        bucket: required("bucket", asked.bucket)?,
        destination: required("destination", asked.destination)?,
        execution_plan_id: asked.execution_plan_id.filter(|id| !id.is_empty()),
        task_id: asked.task_id.filter(|id| !id.is_empty()),
        metadata: BTreeMap::new(),
    };
    let mut faults = Faults::default();
    publishable(&input, &mut faults);
    faults.finish()?;
    let mut order = app.order(id, JobInput::Publish(input));
    order.idempotency = call.idempotency(&body.raw);
    let job = succeeded(app.run(&call, order, app.sync_wait()).await?)?;
    match &job.result {
        Some(JobResult::Published {
            artifact_id, uri, ..
        }) => Ok(done(
            &job,
            Indexed {
                artifact_id: artifact_id.clone(),
                gcs_uri: uri.clone(),
            },
        )),
        _ => Err(Problem::internal()),
    }
}
