//! The answers that many routes share: a job, finished or not.

use axum::Json;
use axum::http::header::{LOCATION, RETRY_AFTER};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use shared::ids::JobId;
use shared::job::{Job, JobResult, JobState};

use crate::extract::Prefer;
use crate::problem::{Problem, X_JOB_ID};
use crate::views::JobView;

const PREFERENCE_APPLIED: HeaderName = HeaderName::from_static("preference-applied");

/// Seconds after which a caller may look at an unfinished job again.
const POLL_SECONDS: u64 = 1;

/// A job that a call made or changed: `200` if it has ended, else `202` with where to look.
pub(crate) fn job(prefer: Prefer, job: &Job) -> Response {
    let finished = job.state.is_terminal();
    let mut headers = HeaderMap::new();
    put(&mut headers, LOCATION, format!("/v1/jobs/{}", job.id));
    if let Some(applied) = prefer.applied(finished) {
        put(&mut headers, PREFERENCE_APPLIED, applied);
    }
    let status = if finished {
        StatusCode::OK
    } else {
        headers.insert(RETRY_AFTER, HeaderValue::from(POLL_SECONDS));
        StatusCode::ACCEPTED
    };
    (status, headers, Json(JobView::of(job))).into_response()
}

/// The end of a job whose result is the answer itself: what `show` makes of it, `202` where it has not ended, an error
/// where it did not succeed.
pub(crate) fn result(
    prefer: Prefer,
    ended: &Job,
    show: impl FnOnce(&JobResult) -> Option<Response>,
) -> Result<Response, Problem> {
    if !ended.state.is_terminal() {
        return Ok(job(prefer, ended));
    }
    match (ended.state, &ended.result) {
        (JobState::Succeeded, Some(result)) => {
            let response = show(result).ok_or_else(Problem::internal)?;
            Ok(of_job(ended.id, waited(prefer, response)))
        }
        _ => Err(Problem::of_end(ended)),
    }
}

/// A response to a call that only waited: what was applied of its preferences.
pub(crate) fn waited(prefer: Prefer, mut response: Response) -> Response {
    if let Some(applied) = prefer.applied(true) {
        put(response.headers_mut(), PREFERENCE_APPLIED, applied);
    }
    response
}

/// A response that is the end of a job, naming it.
pub(crate) fn of_job(job: JobId, mut response: Response) -> Response {
    put(response.headers_mut(), X_JOB_ID, job.to_string());
    response
}

fn put(headers: &mut HeaderMap, name: HeaderName, value: String) {
    if let Ok(value) = HeaderValue::try_from(value) {
        headers.insert(name, value);
    }
}
