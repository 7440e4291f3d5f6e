//! A job, as callers read it.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Serialize;
use shared::ids::{EnvironmentId, JobId};
use shared::job::Job;
use shared::output::OutputCounts;
use utoipa::ToSchema;

use crate::views::input::InputView;
use crate::views::result::ResultView;

/// One unit of work on one environment.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Job)]
pub(crate) struct JobView {
    /// A UUID of version 7.
    #[schema(value_type = String, format = Uuid)]
    id: JobId,
    /// `create`, `start`, `stop`, `delete`, `exec`, `upload`, `download`, `list`, `remove`, `move`, `mkdir`, `pack`,
    /// `unpack` or `publish`.
    kind: &'static str,
    #[schema(value_type = String)]
    environment: EnvironmentId,
    /// `queued`, `running`, or an end: `succeeded`, `failed`, `cancelled`, `timed_out`, `lost`.
    state: &'static str,
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
    #[schema(value_type = Option<String>, format = DateTime)]
    started_at: Option<Timestamp>,
    #[schema(value_type = Option<String>, format = DateTime)]
    finished_at: Option<Timestamp>,
    /// How often a worker took it and did not give it back.
    attempts: u32,
    input: InputView,
    result: Option<ResultView>,
    /// Why it did not succeed.
    error: Option<ErrorView>,
    output: OutputView,
    /// The caller's own marks.
    labels: BTreeMap<String, String>,
}

/// Why a job did not succeed.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = JobError)]
pub(crate) struct ErrorView {
    /// Stable, in snake case.
    code: String,
    /// For people.
    message: String,
}

/// What is known of a job's output.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Output)]
pub(crate) struct OutputView {
    /// Bytes that it wrote.
    stdout_bytes: u64,
    /// Bytes that it wrote.
    stderr_bytes: u64,
    /// Whether the limit dropped some of them.
    truncated: bool,
    /// Whether the rest cannot be known any more, because the environment went.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    incomplete: Option<bool>,
}

impl JobView {
    pub(crate) fn of(job: &Job) -> Self {
        Self {
            id: job.id,
            kind: job.input.kind().as_str(),
            environment: job.environment.clone(),
            state: job.state.as_str(),
            created_at: job.created_at,
            started_at: job.started_at,
            finished_at: job.finished_at,
            attempts: job.attempts,
            input: InputView::of(&job.input),
            result: job.result.as_ref().and_then(ResultView::of),
            error: job.error.as_ref().map(|error| ErrorView {
                code: error.code.clone(),
                message: error.message.clone(),
            }),
            output: OutputView::of(&job.output),
            labels: job.labels.clone(),
        }
    }
}

impl OutputView {
    fn of(counts: &OutputCounts) -> Self {
        Self {
            stdout_bytes: counts.stdout.total,
            stderr_bytes: counts.stderr.total,
            truncated: counts.truncated(),
            incomplete: counts.incomplete.then_some(true),
        }
    }
}
