//! `/exec_in_environment`: a script, its whole output, its exit code.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde::{Deserialize, Serialize};
use shared::ids::JobRef;
use shared::job::{Command, ExecResult, Job, JobInput, JobResult, JobState};
use shared::output::{Offsets, Stream};
use shared::ports::StoreError;
use utoipa::ToSchema;

use crate::extract::{Call, JsonBody};
use crate::legacy::strip::strip;
use crate::legacy::{Detail, done, environment_id, naming_job, not_done, required};
use crate::problem::Problem;
use crate::service::{App, Service};
use crate::validate::Faults;

/// Bytes of each stream that the answer holds at most.
const MAX_OUTPUT: usize = 16 << 20;

/// Bytes of each stream that are read at a time.
const WINDOW: u64 = 4 << 20;

/// Beyond every stream, so that nothing of it is read.
const NOWHERE: u64 = i64::MAX as u64;

/// The folder of commands that ask for none.
const DEFAULT_WORKDIR: &str = "/app";

/// A script and where to run it.
#[derive(Deserialize, ToSchema)]
pub(crate) struct ExecInEnvironmentRequest {
    #[schema(required, nullable = false)]
    environment_id: Option<String>,
    /// A script for `bash -c` where the image has bash, else for `sh -c`.
    #[schema(required, nullable = false)]
    command: Option<String>,
    /// Relative to `/app` or absolute; `/app` where it is not given.
    workdir: Option<String>,
    /// Seconds after which it is ended.
    timeout_seconds: Option<f64>,
}

/// How the script ended and what it wrote, without the white space around it.
#[derive(Serialize, ToSchema)]
pub(crate) struct Executed {
    stdout: String,
    stderr: String,
    exit_code: u32,
    /// Of a script that failed: its standard error, or a sentence.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    error: Option<String>,
    /// There only where the output is larger than the answer or the limit: the job has more of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    truncated: Option<bool>,
}

/// Runs a script and waits for its end.
#[utoipa::path(
    post, path = "/exec_in_environment", tag = "original",
    request_body = ExecInEnvironmentRequest,
    responses(
        (status = 200, description = "It exited", body = Executed),
        (status = 404, description = "There is no such environment", body = Detail),
        (status = 409, description = "The environment does not run", body = Detail),
        (status = 410, description = "The environment is being deleted, or was", body = Detail),
        (status = 422, description = "A field cannot be taken, or it cannot be started", body = Detail),
        (status = 503, description = "Nobody knows how it ended", body = Detail),
        (status = 504, description = "It takes longer than this endpoint waits, and goes on; or it was ended at its deadline", body = Detail),
    )
)]
pub(crate) async fn exec_in_environment(
    State(app): State<App>,
    call: Call,
    body: JsonBody<ExecInEnvironmentRequest>,
) -> Result<Response, Problem> {
    let asked = body.value;
    let id = environment_id(asked.environment_id)?;
    let command = Command::Bash(required("command", asked.command)?);
    let workdir = workdir(asked.workdir);
    let timeout = asked.timeout_seconds.map(whole_seconds);
    let mut faults = Faults::default();
    let input = app.exec(command, Some(workdir), timeout, &mut faults);
    faults.finish()?;
    let mut order = app.order(id, JobInput::Exec(input));
    order.idempotency = call.idempotency(&body.raw);
    let job = app.run(&call, order, app.sync_wait()).await?;
    let (result, exit_code) = exited(&job)?;
    let (stdout, stderr, whole) = app.whole_output(&job, result).await?;
    Ok(done(&job, executed(&stdout, &stderr, exit_code, whole)))
}

fn workdir(asked: Option<String>) -> String {
    match asked {
        Some(absolute) if absolute.starts_with('/') => absolute,
        Some(relative) if !relative.is_empty() => format!("{DEFAULT_WORKDIR}/{relative}"),
        _ => DEFAULT_WORKDIR.to_owned(),
    }
}

/// Seconds as the original's clients write them, rounded up; what is no length of time becomes one that is refused.
fn whole_seconds(seconds: f64) -> u64 {
    seconds.ceil() as u64
}

/// The result of a command that exited; any other end is an error, since an exit code would be made up.
fn exited(job: &Job) -> Result<(&ExecResult, u32), Problem> {
    let ended_itself = matches!(job.state, JobState::Succeeded | JobState::Failed);
    match &job.result {
        Some(JobResult::Exec(result)) if ended_itself => match (result.exit_code, result.signal) {
            (Some(code), _) => Ok((result, code)),
            (None, Some(signal)) => Err(naming_job(Problem {
                job: Some(job.id),
                ..Problem::new(
                    // The command has run: nobody is told to try again.
                    StatusCode::UNPROCESSABLE_ENTITY,
                    "killed",
                    format!("signal {signal} ended the command"),
                )
            })),
            (None, None) => Err(not_done(job)),
        },
        _ => Err(not_done(job)),
    }
}

fn executed(stdout: &[u8], stderr: &[u8], exit_code: u32, whole: bool) -> Executed {
    let stdout = String::from_utf8_lossy(stdout);
    let stderr = String::from_utf8_lossy(stderr);
    let (stdout, stderr) = (strip(&stdout).to_owned(), strip(&stderr).to_owned());
    let error = (exit_code != 0).then(|| {
        if stderr.is_empty() {
            format!("Command failed with exit code {exit_code}")
        } else {
            stderr.clone()
        }
    });
    Executed {
        stdout,
        stderr,
        exit_code,
        error,
        truncated: (!whole).then_some(true),
    }
}

impl Service {
    /// Both streams and whether they are whole. The store is asked only where the result's preview left bytes out.
    async fn whole_output(
        &self,
        job: &Job,
        result: &ExecResult,
    ) -> Result<(Vec<u8>, Vec<u8>, bool), StoreError> {
        let (stdout, stderr) = (&result.stdout, &result.stderr);
        if stdout.omitted == 0 && stderr.omitted == 0 {
            let whole = !job.output.truncated() && !job.output.incomplete;
            return Ok((stdout.data.0.to_vec(), stderr.data.0.to_vec(), whole));
        }
        let (stdout, stderr) = self.stored_output(&job.at()).await?;
        let whole = stdout.len() as u64 == job.output.stdout.total
            && stderr.len() as u64 == job.output.stderr.total;
        Ok((stdout, stderr, whole))
    }

    async fn stored_output(&self, at: &JobRef) -> Result<(Vec<u8>, Vec<u8>), StoreError> {
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        let mut from = Offsets::default();
        loop {
            let chunks = self.deps.store.output(at, from, WINDOW).await?;
            if chunks.is_empty() {
                return Ok((stdout, stderr));
            }
            for chunk in chunks {
                let kept = match chunk.stream {
                    Stream::Stdout => &mut stdout,
                    Stream::Stderr => &mut stderr,
                };
                let room = MAX_OUTPUT - kept.len();
                kept.extend_from_slice(&chunk.data[..chunk.data.len().min(room)]);
                *from.of_mut(chunk.stream) = if kept.len() < MAX_OUTPUT {
                    chunk.end()
                } else {
                    NOWHERE
                };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(stdout: &str, stderr: &str, exit_code: u32, whole: bool) -> String {
        let executed = executed(stdout.as_bytes(), stderr.as_bytes(), exit_code, whole);
        serde_json::to_string(&executed).expect("serialises")
    }

    #[test]
    fn folders_and_times_are_taken_as_the_original_took_them() {
        assert_eq!(workdir(None), "/app");
        assert_eq!(workdir(Some(String::new())), "/app");
        assert_eq!(workdir(Some("src/x".to_owned())), "/app/src/x");
        assert_eq!(workdir(Some("/tmp".to_owned())), "/tmp");
        assert_eq!(whole_seconds(30.0), 30);
        assert_eq!(whole_seconds(0.2), 1);
        assert_eq!(whole_seconds(-3.0), 0);
        assert_eq!(whole_seconds(1e300), u64::MAX);
    }

    #[test]
    fn the_answer_has_the_bytes_that_its_clients_read() {
        assert_eq!(
            json("hi\n", " warn \n", 0, true),
            r#"{"stdout":"hi","stderr":"warn","exit_code":0}"#
        );
        assert_eq!(
            json("", "no\n", 3, true),
            r#"{"stdout":"","stderr":"no","exit_code":3,"error":"no"}"#
        );
        assert_eq!(
            json("out", " \n", 3, false),
            r#"{"stdout":"out","stderr":"","exit_code":3,"error":"Command failed with exit code 3","truncated":true}"#
        );
    }
}
