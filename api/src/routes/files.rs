//! Folders listed, files and folders removed.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use shared::job::{JobInput, JobResult};
use shared::octets::Octets;

use crate::answer;
use crate::extract::{Call, EnvironmentPath, Params};
use crate::problem::{Problem, ProblemBody};
use crate::service::App;
use crate::validate::Faults;
use crate::views::{JobView, ListingView, RemovedView, name_in_token};

/// Levels that one list descends at most.
const MAX_DEPTH: u64 = 64;

/// Lists a folder, by name.
#[utoipa::path(
    get, path = "/v1/environments/{env}/files", tag = "files",
    params(
        ("env" = String, Path, description = "The environment"),
        ("path" = Option<String>, Query, description = "The folder, relative to `/app` or absolute; percent-encoded bytes need not be UTF-8"),
        ("depth" = Option<u32>, Query, description = "Levels to descend: 1 to 64; 1, the folder itself, where it is not given"),
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
    let wait = call
        .prefer
        .wait_or(app.deps.settings.server.sync_wait_seconds);
    let job = app.run(&call, app.order(id, input), wait).await?;
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
    let wait = call
        .prefer
        .wait_or(app.deps.settings.server.sync_wait_seconds);
    let job = app.run(&call, app.order(id, input), wait).await?;
    answer::result(call.prefer, &job, |result| match result {
        JobResult::Removed { path, removed } => {
            Some(Json(RemovedView::of(path, *removed)).into_response())
        }
        _ => None,
    })
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
