//! Folders listed and made, files and folders moved and removed.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use shared::job::{JobInput, JobResult};
use shared::octets::Octets;
use utoipa::ToSchema;

use crate::answer;
use crate::extract::{Call, EnvironmentPath, JsonBody, NoParams, Params};
use crate::problem::{Problem, ProblemBody};
use crate::routes::requests::OctetsIn;
use crate::service::{App, Service};
use crate::validate::Faults;
use crate::views::{JobView, ListingView, MadeFolderView, MovedView, RemovedView, name_in_token};

/// Levels that one list descends at most.
const MAX_DEPTH: u64 = 16;

/// Lists a folder, by name.
#[utoipa::path(
    get, path = "/v1/environments/{env}/files", tag = "files",
    params(
        ("env" = String, Path, description = "The environment"),
        ("path" = Option<String>, Query, description = "The folder, relative to `/app` or absolute; percent-encoded bytes need not be UTF-8"),
        ("depth" = Option<u32>, Query, description = "Levels to descend: 1 to 16; 1, the folder itself, where it is not given"),
        ("page_size" = Option<u32>, Query, description = "1 to 1000; 100 where it is not given"),
        ("page_token" = Option<String>, Query, description = "From the page before"),
        ("Prefer" = Option<String>, Header, description = "`wait=N`: wait up to N seconds, 300 at most"),
    ),
    responses(
        (status = 200, description = "One page", body = ListingView),
        (status = 202, description = "It takes longer than the caller waits: the job has it", body = JobView),
        (status = 404, description = "There is no such folder or environment", body = ProblemBody, content_type = "application/problem+json"),
        (status = 409, description = "It is no folder, or the environment does not run", body = ProblemBody, content_type = "application/problem+json"),
        (status = 422, description = "A parameter cannot be taken", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn list(
    State(app): State<App>,
    call: Call,
    EnvironmentPath(id): EnvironmentPath,
    params: Params,
) -> Result<Response, Problem> {
    params.only(&["path", "depth", "page_size", "page_token"])?;
    let after = params
        .with("page_token", "a token of this list", name_in_token)?
        .unwrap_or_default();
    let depth = params.number("depth", 1..=MAX_DEPTH)?;
    let input = JobInput::List {
        path: path_of(&params, Some("."))?,
        depth: depth
            .and_then(|depth| u32::try_from(depth).ok())
            .unwrap_or(1),
        after,
        limit: params.page_size()?,
    };
    let job = app
        .run(&call, app.order(id, input), app.file_wait(&call))
        .await?;
    answer::result(call.prefer, &job, |result| match result {
        JobResult::Listed {
            path,
            entries,
            more,
        } => Some(Json(ListingView::of(path, entries, *more)).into_response()),
        _ => None,
    })
}

/// Removes a file, or a folder with what is in it.
#[utoipa::path(
    delete, path = "/v1/environments/{env}/files", tag = "files",
    params(
        ("env" = String, Path, description = "The environment"),
        ("path" = String, Query, description = "The file or folder, relative to `/app` or absolute; percent-encoded bytes need not be UTF-8"),
        ("recursive" = Option<bool>, Query, description = "Whether a folder goes with what is in it"),
        ("Prefer" = Option<String>, Header, description = "`wait=N`: wait up to N seconds, 300 at most"),
    ),
    responses(
        (status = 200, description = "It is removed", body = RemovedView),
        (status = 202, description = "It takes longer than the caller waits: the job has it", body = JobView),
        (status = 403, description = "It may not be removed", body = ProblemBody, content_type = "application/problem+json"),
        (status = 404, description = "There is no such file or environment", body = ProblemBody, content_type = "application/problem+json"),
        (status = 409, description = "It is a folder that is not empty, or the environment does not run", body = ProblemBody, content_type = "application/problem+json"),
        (status = 422, description = "A parameter cannot be taken", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn delete(
    State(app): State<App>,
    call: Call,
    EnvironmentPath(id): EnvironmentPath,
    params: Params,
) -> Result<Response, Problem> {
    params.only(&["path", "recursive"])?;
    let input = JobInput::Remove {
        path: path_of(&params, None)?,
        recursive: params.flag("recursive")?,
    };
    let job = app
        .run(&call, app.order(id, input), app.file_wait(&call))
        .await?;
    answer::result(call.prefer, &job, |result| match result {
        JobResult::Removed { path, removed } => {
            Some(Json(RemovedView::of(path, *removed)).into_response())
        }
        _ => None,
    })
}

/// What to move, and where to.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct MoveRequest {
    /// The file or folder, relative to `/app` or absolute.
    #[schema(required, nullable = false)]
    from: Option<OctetsIn>,
    /// Its new path, not the folder to put it into; a file there is replaced.
    #[schema(required, nullable = false)]
    to: Option<OctetsIn>,
}

/// Gives a file or folder another path, at once; folders on the way are made.
#[utoipa::path(
    post, path = "/v1/environments/{env}/files/move", tag = "files",
    request_body = MoveRequest,
    params(
        ("env" = String, Path, description = "The environment"),
        ("Prefer" = Option<String>, Header, description = "`wait=N`: wait up to N seconds, 300 at most"),
        ("Idempotency-Key" = Option<String>, Header, description = "Repeats of the same request answer the first one's job"),
    ),
    responses(
        (status = 200, description = "It is moved", body = MovedView),
        (status = 202, description = "It takes longer than the caller waits: the job has it", body = JobView),
        (status = 403, description = "It may not be moved", body = ProblemBody, content_type = "application/problem+json"),
        (status = 404, description = "There is no such file or environment", body = ProblemBody, content_type = "application/problem+json"),
        (status = 409, description = "A folder that is not empty is there, or the environment does not run", body = ProblemBody, content_type = "application/problem+json"),
        (status = 422, description = "A field cannot be taken, or the paths are on different file systems", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn move_file(
    State(app): State<App>,
    call: Call,
    EnvironmentPath(id): EnvironmentPath,
    _: NoParams,
    body: JsonBody<MoveRequest>,
) -> Result<Response, Problem> {
    let mut faults = Faults::default();
    let from = path_in(&mut faults, "from", body.value.from);
    let to = path_in(&mut faults, "to", body.value.to);
    faults.finish()?;
    let mut order = app.order(id, JobInput::Move { from, to });
    order.idempotency = call.idempotency(&body.raw);
    let job = app.run(&call, order, app.file_wait(&call)).await?;
    answer::result(call.prefer, &job, |result| match result {
        JobResult::Moved { from, to } => Some(Json(MovedView::of(from, to)).into_response()),
        _ => None,
    })
}

/// Which folder to make.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct MkdirRequest {
    /// The folder, relative to `/app` or absolute.
    #[schema(required, nullable = false)]
    path: Option<OctetsIn>,
    /// Whether those above it are made too, and one that is there is no error; `false` where it is not given.
    parents: Option<bool>,
}

/// Makes a folder.
#[utoipa::path(
    post, path = "/v1/environments/{env}/files/mkdir", tag = "files",
    request_body = MkdirRequest,
    params(
        ("env" = String, Path, description = "The environment"),
        ("Prefer" = Option<String>, Header, description = "`wait=N`: wait up to N seconds, 300 at most"),
        ("Idempotency-Key" = Option<String>, Header, description = "Repeats of the same request answer the first one's job"),
    ),
    responses(
        (status = 200, description = "It is there", body = MadeFolderView),
        (status = 202, description = "It takes longer than the caller waits: the job has it", body = JobView),
        (status = 403, description = "It may not be made", body = ProblemBody, content_type = "application/problem+json"),
        (status = 404, description = "There is no such environment, or no folder above it", body = ProblemBody, content_type = "application/problem+json"),
        (status = 409, description = "Something is there, or the environment does not run", body = ProblemBody, content_type = "application/problem+json"),
        (status = 422, description = "A field cannot be taken", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn mkdir(
    State(app): State<App>,
    call: Call,
    EnvironmentPath(id): EnvironmentPath,
    _: NoParams,
    body: JsonBody<MkdirRequest>,
) -> Result<Response, Problem> {
    let mut faults = Faults::default();
    let path = path_in(&mut faults, "path", body.value.path);
    faults.finish()?;
    let parents = body.value.parents.unwrap_or(false);
    let mut order = app.order(id, JobInput::Mkdir { path, parents });
    order.idempotency = call.idempotency(&body.raw);
    let job = app.run(&call, order, app.file_wait(&call)).await?;
    answer::result(call.prefer, &job, |result| match result {
        JobResult::MadeFolder { path, made } => {
            Some(Json(MadeFolderView::of(path, *made)).into_response())
        }
        _ => None,
    })
}

impl Service {
    /// How long a file route waits where the caller says nothing.
    pub(crate) fn file_wait(&self, call: &Call) -> Duration {
        let default = self.deps.settings.server.sync_wait_seconds;
        call.prefer.wait_or(default)
    }
}

/// A path of a body; what is wrong with it is noted.
fn path_in(faults: &mut Faults, field: &str, path: Option<OctetsIn>) -> Octets {
    let Some(path) = path else {
        faults.add(field, "is missing");
        return Octets::default();
    };
    let path = faults.take(field, path.octets()).unwrap_or_default();
    faults.path(field, &path);
    path
}

/// The parameter `path`; `default` where it is not given.
pub(super) fn path_of(params: &Params, default: Option<&'static str>) -> Result<Octets, Problem> {
    let path = params
        .octets("path")
        .or(default.map(Octets::from))
        .ok_or_else(|| Problem::invalid("path", "is missing"))?;
    let mut faults = Faults::default();
    faults.path("path", &path);
    faults.finish()?;
    Ok(path)
}
