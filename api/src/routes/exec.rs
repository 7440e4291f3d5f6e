//! Commands.

use std::collections::BTreeMap;

use axum::extract::State;
use axum::response::Response;
use serde::Deserialize;
use shared::job::{Command, ExecInput, JobInput};
use shared::secret::EnvVars;
use shared::staging::INLINE_BYTES;
use utoipa::ToSchema;

use crate::answer;
use crate::extract::{Call, EnvironmentPath, JsonBody, NoParams};
use crate::problem::{Problem, ProblemBody};
use crate::routes::requests::{CommandIn, Env, OctetsIn};
use crate::service::{App, Service};
use crate::validate::Faults;
use crate::views::JobView;

/// A command and how to run it.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ExecRequest {
    /// A script for `sh -c`, or a program with its arguments.
    #[schema(required, nullable = false)]
    command: Option<CommandIn>,
    /// Variables beside the environment's own.
    #[schema(value_type = Option<BTreeMap<String, String>>)]
    env: Option<Env>,
    /// Folder to start in, absolute; the environment's where it is not given.
    workdir: Option<String>,
    /// Name or number of a user of the image; refused where the runtime cannot honour it.
    user: Option<String>,
    /// Standard input, 256 KiB at most; more goes into a file. Empty where it is not given.
    stdin: Option<OctetsIn>,
    /// Whether more input may follow by `POST /v1/jobs/{id}/stdin`; if not, it ends with `stdin`.
    stdin_open: Option<bool>,
    /// Seconds after which it is ended.
    timeout_seconds: Option<u64>,
    /// The caller's own marks.
    labels: Option<BTreeMap<String, String>>,
}

/// Runs a command.
#[utoipa::path(
    post, path = "/v1/environments/{env}/exec", tag = "jobs",
    request_body = ExecRequest,
    params(
        ("env" = String, Path, description = "The environment"),
        ("Prefer" = Option<String>, Header, description = "`wait=N`: wait up to N seconds, 300 at most"),
        ("Idempotency-Key" = Option<String>, Header, description = "Repeats of the same request answer the first one's job"),
    ),
    responses(
        (status = 200, description = "The job has ended", body = JobView),
        (status = 202, description = "The job is accepted", body = JobView),
        (status = 400, description = "Not JSON", body = ProblemBody, content_type = "application/problem+json"),
        (status = 404, description = "There is no such environment", body = ProblemBody, content_type = "application/problem+json"),
        (status = 409, description = "The environment is stopped or failed", body = ProblemBody, content_type = "application/problem+json"),
        (status = 410, description = "The environment is being deleted, or was", body = ProblemBody, content_type = "application/problem+json"),
        (status = 422, description = "Some fields cannot be taken", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn submit(
    State(app): State<App>,
    call: Call,
    EnvironmentPath(id): EnvironmentPath,
    _: NoParams,
    body: JsonBody<ExecRequest>,
) -> Result<Response, Problem> {
    let (input, labels) = app.checked_exec(body.value)?;
    let mut order = app.order(id, JobInput::Exec(input));
    order.labels = labels;
    order.idempotency = call.idempotency(&body.raw);
    let job = app.run(&call, order, call.prefer.wait_or(0)).await?;
    Ok(answer::job(call.prefer, &job))
}

impl Service {
    fn checked_exec(
        &self,
        asked: ExecRequest,
    ) -> Result<(ExecInput, BTreeMap<String, String>), Problem> {
        let mut faults = Faults::default();
        let command = match asked.command {
            Some(CommandIn::Script(script)) => Command::Shell(script),
            Some(CommandIn::Argv(argv)) => Command::Argv(argv),
            None => return Err(Problem::invalid("command", "is missing")),
        };
        let env = asked.env.map(EnvVars::from).unwrap_or_default();
        faults.env(&env);
        if let Some(user) = &asked.user {
            faults.user(user, &self.deps.offer);
        }
        let stdin = asked
            .stdin
            .and_then(|stdin| faults.take("stdin", stdin.octets()));
        faults.unless(
            stdin
                .as_ref()
                .is_none_or(|stdin| stdin.len() <= INLINE_BYTES),
            "stdin",
            "must be at most 256 KiB: write more to a file",
        );
        let labels = asked.labels.unwrap_or_default();
        faults.labels("labels", &labels);
        let mut input = self.exec(command, asked.workdir, asked.timeout_seconds, &mut faults);
        faults.finish()?;
        input.env = env;
        input.user = asked.user;
        input.stdin = stdin;
        input.stdin_open = asked.stdin_open.unwrap_or(false);
        Ok((input, labels))
    }

    /// A command with the service's limits, checked as far as every way to ask for one has it.
    pub(crate) fn exec(
        &self,
        command: Command,
        workdir: Option<String>,
        timeout_seconds: Option<u64>,
        faults: &mut Faults,
    ) -> ExecInput {
        match &command {
            Command::Shell(script) | Command::Bash(script) => faults.command(&[script.as_str()]),
            Command::Argv(argv) => {
                faults.command(&argv.iter().map(String::as_str).collect::<Vec<_>>());
            }
        }
        if let Some(workdir) = &workdir {
            faults.workdir(workdir);
        }
        let limits = &self.deps.settings.limits;
        let most = limits.exec_timeout_max_seconds;
        let timeout_seconds = timeout_seconds.unwrap_or(limits.exec_timeout_seconds.min(most));
        faults.unless(
            (1..=most).contains(&timeout_seconds),
            "timeout_seconds",
            &format!("must be from 1 to {most}"),
        );
        ExecInput {
            command,
            env: EnvVars::default(),
            workdir,
            user: None,
            stdin: None,
            stdin_open: false,
            timeout_seconds,
            output_limit: limits.output_bytes.0,
        }
    }
}
