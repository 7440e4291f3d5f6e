//! Jobs: looked at, listed, cancelled.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use shared::ids::{EnvironmentId, JobId, JobRef};
use shared::job::{CancelRequest, Job, JobKind, JobState};
use shared::ports::JobFilter;
use utoipa::ToSchema;

use crate::answer;
use crate::extract::{Call, JobPath, NoParams, OptionalBody, Params};
use crate::problem::{Problem, ProblemBody};
use crate::service::{App, Service};
use crate::validate::Faults;
use crate::views::{JobPage, JobView};

/// Seconds between the first signal and KILL where the caller says nothing.
const DEFAULT_GRACE_SECONDS: u64 = 5;

/// Seconds between the first signal and KILL at most.
const MAX_GRACE_SECONDS: u64 = 300;

/// The signals that a cancel may begin with.
const SIGNALS: [(&str, u32); 8] = [
    ("HUP", 1),
    ("INT", 2),
    ("QUIT", 3),
    ("ABRT", 6),
    ("KILL", 9),
    ("USR1", 10),
    ("USR2", 12),
    ("TERM", 15),
];

/// How a job shall be ended.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct CancelBody {
    /// The signal to begin with: `TERM` (the default), `INT`, `HUP`, `QUIT`, `ABRT`, `USR1`, `USR2`, `KILL`, or its
    /// number.
    signal: Option<SignalIn>,
    /// Seconds until the rest is killed; 5 where it is not given, 300 at most.
    grace_seconds: Option<u64>,
}

/// A signal's name, with or without `SIG`, or its number.
#[derive(Deserialize, ToSchema)]
#[serde(untagged, expecting = "must be a signal's name or number")]
#[schema(as = Signal)]
pub(crate) enum SignalIn {
    Number(u32),
    Name(String),
}

impl SignalIn {
    fn number(&self) -> Option<u32> {
        SIGNALS
            .iter()
            .find(|(name, number)| match self {
                Self::Number(asked) => asked == number,
                Self::Name(asked) => asked.strip_prefix("SIG").unwrap_or(asked) == *name,
            })
            .map(|(_, number)| *number)
    }
}

/// Looks at a job; with `Prefer: wait=N` waits for its end.
#[utoipa::path(
    get, path = "/v1/jobs/{id}", tag = "jobs",
    params(
        ("id" = String, Path, description = "The job"),
        ("Prefer" = Option<String>, Header, description = "`wait=N`: wait up to N seconds for its end, 300 at most"),
    ),
    responses(
        (status = 200, description = "The job", body = JobView),
        (status = 404, description = "There is none", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn get(
    State(app): State<App>,
    call: Call,
    JobPath(id): JobPath,
    _: NoParams,
) -> Result<Response, Problem> {
    let job = app.job(&call.job(id)).await?;
    let job = app.follow(job, call.prefer.wait_or(0)).await?;
    let response = Json(JobView::of(&job)).into_response();
    Ok(answer::waited(call.prefer, response))
}

/// Lists jobs, newest first. Those that only read (`download`, `list`) are left out unless their kind is asked for.
#[utoipa::path(
    get, path = "/v1/jobs", tag = "jobs",
    params(
        ("environment" = Option<String>, Query, description = "Only those on this environment"),
        ("kind" = Option<String>, Query, description = "Only those of this kind; not together with `state` or `label`"),
        ("state" = Option<String>, Query, description = "Only those in this state; not together with `kind` or `label`"),
        ("label" = Option<String>, Query, description = "Only those with this label, as `name=value`; not together with `kind` or `state`"),
        ("page_size" = Option<u32>, Query, description = "1 to 1000; 100 where it is not given"),
        ("page_token" = Option<String>, Query, description = "From the page before"),
    ),
    responses(
        (status = 200, description = "One page", body = JobPage),
        (status = 422, description = "A parameter cannot be taken", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn list(
    State(app): State<App>,
    call: Call,
    params: Params,
) -> Result<Json<JobPage>, Problem> {
    params.only(&[
        "environment",
        "kind",
        "state",
        "label",
        "page_size",
        "page_token",
    ])?;
    params.at_most_one(&["kind", "state", "label"])?;
    let kinds = JobKind::ALL.map(JobKind::as_str).join(", ");
    let states = JobState::ALL.map(JobState::as_str).join(", ");
    let environment = match params.text("environment")? {
        Some(text) => Some(EnvironmentId::new(text).map_err(|error| ("environment", error))?),
        None => None,
    };
    let filter = JobFilter {
        environment,
        kind: params.with("kind", &format!("one of {kinds}"), JobKind::parse)?,
        state: params.with("state", &format!("one of {states}"), JobState::parse)?,
        label: params.label()?,
    };
    let page = params.page()?;
    let page = app.deps.store.jobs(&call.tenant, &filter, page).await?;
    Ok(Json(JobPage {
        jobs: page.items.iter().map(JobView::of).collect(),
        next_page_token: page.next.unwrap_or_default(),
    }))
}

/// Asks for a job's end. One that has ended is left as it is.
#[utoipa::path(
    post, path = "/v1/jobs/{id}/cancel", tag = "jobs",
    request_body = Option<CancelBody>,
    params(
        ("id" = String, Path, description = "The job"),
        ("Prefer" = Option<String>, Header, description = "`wait=N`: wait up to N seconds for its end, 300 at most"),
    ),
    responses(
        (status = 200, description = "The job has ended", body = JobView),
        (status = 202, description = "It was asked to end", body = JobView),
        (status = 404, description = "There is none", body = ProblemBody, content_type = "application/problem+json"),
        (status = 422, description = "Some fields cannot be taken", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn cancel(
    State(app): State<App>,
    call: Call,
    JobPath(id): JobPath,
    _: NoParams,
    body: OptionalBody<CancelBody>,
) -> Result<Response, Problem> {
    let asked = body.value;
    let mut faults = Faults::default();
    let signal = asked.signal.map_or(Some(0), |signal| signal.number());
    let grace_seconds = asked.grace_seconds.unwrap_or(DEFAULT_GRACE_SECONDS);
    faults.unless(
        signal.is_some(),
        "signal",
        "must be one of HUP, INT, QUIT, ABRT, KILL, USR1, USR2, TERM, or its number",
    );
    faults.unless(
        grace_seconds <= MAX_GRACE_SECONDS,
        "grace_seconds",
        "must be at most 300",
    );
    faults.finish()?;
    let request = CancelRequest {
        signal: signal.unwrap_or_default(),
        grace_seconds,
        code: "cancelled".to_owned(),
        message: "cancelled on request".to_owned(),
    };
    let now = app.deps.clock.now();
    let job = app.deps.store.cancel(&call.job(id), request, now).await?;
    let job = job.ok_or_else(|| unknown(id))?;
    let job = app.follow(job, call.prefer.wait_or(0)).await?;
    Ok(answer::job(call.prefer, &job))
}

impl Service {
    /// A job of the caller's.
    pub(crate) async fn job(&self, at: &JobRef) -> Result<Job, Problem> {
        let found = self.deps.store.job(at).await?;
        found.ok_or_else(|| unknown(at.job))
    }
}

fn unknown(id: JobId) -> Problem {
    Problem::not_found(format!("there is no job {id}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_are_named_or_numbered() {
        for (signal, number) in [
            (SignalIn::Name("TERM".to_owned()), Some(15)),
            (SignalIn::Name("SIGKILL".to_owned()), Some(9)),
            (SignalIn::Number(2), Some(2)),
            (SignalIn::Number(0), None),
            (SignalIn::Number(11), None),
            (SignalIn::Name("SEGV".to_owned()), None),
            (SignalIn::Name(String::new()), None),
        ] {
            assert_eq!(signal.number(), number);
        }
    }
}
