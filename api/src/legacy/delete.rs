//! `/delete_environment`: afterwards nothing of it is left, whatever was there.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use shared::environment::Phase;
use shared::ids::EnvironmentId;
use shared::job::{JobInput, JobState};
use utoipa::ToSchema;

use crate::extract::{Call, JsonBody};
use crate::legacy::create::unless_refused;
use crate::legacy::{Detail, done, environment_id, not_done};
use crate::problem::Problem;
use crate::service::App;
use crate::wait::Patience;

/// Looks at the environment at most; each finds it changed by somebody else since the one before.
const MAX_ROUNDS: usize = 32;

/// Which environment.
#[derive(Deserialize, ToSchema)]
pub(crate) struct DeleteEnvironmentRequest {
    #[schema(required, nullable = false)]
    environment_id: Option<String>,
}

/// Nothing of it is left.
#[derive(Serialize, ToSchema)]
pub(crate) struct DeletedEnvironment {
    #[schema(value_type = String)]
    deleted: EnvironmentId,
}

/// Deletes an environment with its volume; one that is not there is deleted already.
#[utoipa::path(
    post, path = "/delete_environment", tag = "original",
    request_body = DeleteEnvironmentRequest,
    responses(
        (status = 200, description = "Nothing of it is left", body = DeletedEnvironment),
        (status = 422, description = "A field cannot be taken", body = Detail),
        (status = 503, description = "It cannot be deleted", body = Detail),
        (status = 504, description = "It takes longer than this endpoint waits; the job goes on", body = Detail),
    )
)]
pub(crate) async fn delete_environment(
    State(app): State<App>,
    call: Call,
    body: JsonBody<DeleteEnvironmentRequest>,
) -> Result<Response, Problem> {
    let id = environment_id(body.value.environment_id)?;
    let at = call.environment(id.clone());
    let patience = Patience::of(app.sync_wait());
    for _ in 0..MAX_ROUNDS {
        let environment = app.deps.store.environment(&at).await?;
        let job = match environment {
            None => return Ok(Json(DeletedEnvironment { deleted: id }).into_response()),
            Some(gone) if gone.phase == Phase::Deleted => {
                return Ok(Json(DeletedEnvironment { deleted: id }).into_response());
            }
            Some(going) if going.phase == Phase::Deleting => app.leading(&at, &going).await?,
            Some(_) => {
                let mut order = app.order(id.clone(), JobInput::Delete {});
                order.idempotency = call.idempotency(&body.raw);
                unless_refused(app.submit(&call, order).await)?
            }
        };
        let Some(job) = job else { continue };
        let job = app.follow(*job, patience.left()).await?;
        return if job.state == JobState::Succeeded {
            Ok(done(&job, DeletedEnvironment { deleted: id }))
        } else {
            Err(not_done(&job))
        };
    }
    Err(Problem::unavailable(
        "others change the environment all the time: try again",
    ))
}
