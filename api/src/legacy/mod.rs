//! The original endpoints, kept to the byte that their clients read.
//!
//! Each submits a job like any other, waits for it, and answers its result; its id is in `X-Job-Id`. Errors are
//! `{"detail": …}`. Unlike under `/v1`, unknown fields are ignored, as the original service did.

mod create;
mod delete;
mod download;
mod exec;
mod list;
mod publish;
mod strip;
mod upload;

use std::time::Duration;

use serde::Serialize;
use shared::ids::EnvironmentId;
use shared::job::{Job, JobState};
use utoipa::ToSchema;

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};

use crate::answer;
use crate::problem::Problem;
use crate::service::Service;
use crate::validate::Faults;

pub(crate) use create::{__path_create_environment, create_environment};
pub(crate) use delete::{__path_delete_environment, delete_environment};
pub(crate) use download::{__path_download_from_environment, download_from_environment};
pub(crate) use exec::{__path_exec_in_environment, exec_in_environment};
pub(crate) use list::{__path_list_files_in_environment, list_files_in_environment};
pub(crate) use publish::{__path_upload_to_cloud_and_index, upload_to_cloud_and_index};
pub(crate) use upload::{__path_upload_to_environment, upload_to_environment};

/// The paths whose errors are `{"detail": …}`.
const ORIGINAL: [&str; 8] = [
    "/create_environment",
    "/delete_environment",
    "/exec_in_environment",
    "/upload_to_environment",
    "/download_from_environment",
    "/list_files_in_environment",
    "/upload_to_cloud_and_index",
    "/status",
];

/// Whether a path is one of the original endpoints.
pub(crate) fn is_original(path: &str) -> bool {
    ORIGINAL.contains(&path)
}

/// An error of an original endpoint.
#[derive(Serialize, ToSchema)]
pub(crate) struct Detail {
    /// What went wrong.
    detail: String,
}

/// A required text field of a body.
fn required(field: &'static str, value: Option<String>) -> Result<String, Problem> {
    value.ok_or_else(|| Problem::invalid(field, "is missing"))
}

/// The required field `environment_id`.
fn environment_id(value: Option<String>) -> Result<EnvironmentId, Problem> {
    let text = required("environment_id", value)?;
    Ok(EnvironmentId::new(text).map_err(|error| ("environment_id", error))?)
}

/// A file's path, required.
fn path(value: Option<String>) -> Result<shared::octets::Octets, Problem> {
    let path = required("path", value)?.into();
    let mut faults = Faults::default();
    faults.path("path", &path);
    faults.finish()?;
    Ok(path)
}

/// A 200 that is the end of a job.
fn done(job: &Job, body: impl Serialize) -> Response {
    answer::of_job(job.id, Json(body).into_response())
}

/// Why a job is not the answer: it goes on, or it did not succeed. The detail names the job.
fn not_done(job: &Job) -> Problem {
    if job.state.is_terminal() {
        return naming_job(Problem::of_end(job));
    }
    Problem {
        job: Some(job.id),
        ..Problem::new(
            StatusCode::GATEWAY_TIMEOUT,
            "timed_out",
            format!(
                "it takes longer than this endpoint waits; it goes on as job {}",
                job.id
            ),
        )
    }
}

/// The same error, whose detail names the job, since these clients read nothing else.
fn naming_job(problem: Problem) -> Problem {
    match problem.job {
        Some(job) => Problem {
            detail: format!("{} (job {job})", problem.detail),
            ..problem
        },
        None => problem,
    }
}

/// The job, if it succeeded.
fn succeeded(job: Job) -> Result<Job, Problem> {
    if job.state == JobState::Succeeded {
        Ok(job)
    } else {
        Err(not_done(&job))
    }
}

impl Service {
    /// How long an original endpoint other than create waits.
    fn sync_wait(&self) -> Duration {
        Duration::from_secs(self.deps.settings.server.sync_wait_seconds)
    }
}
