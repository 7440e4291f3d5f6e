//! The start of a command: asked of the runner once under each lease.

use runner::proto::start_request::Command as WireCommand;
use runner::proto::{self, Permit, StartRequest};
use shared::environment::Reason;
use shared::job::{Command, Outcome};
use tonic::Code;

use super::{Run, START_TIME, Step, TIMEOUT_GRACE};
use crate::execute::End;
use crate::failpoint::failpoint;
use crate::links::Link;

impl Run<'_> {
    /// Starts it, unless it was started before; that is as good.
    pub(super) async fn start(&mut self, link: &Link) -> Result<(), Step> {
        failpoint("before_start");
        if !self.task.context.may_act() {
            return Err(Step::End(End::Dropped));
        }
        self.maybe_started = true;
        let mut request = tonic::Request::new(self.start_request());
        request.set_timeout(START_TIME);
        match link.client.clone().start(request).await {
            Ok(_) => Ok(()),
            Err(status) => match status.code() {
                // Under this lease's fence, by a call whose answer did not arrive, or under an earlier one.
                Code::AlreadyExists => Ok(()),
                Code::Aborted => Err(Step::End(End::Dropped)),
                Code::FailedPrecondition => {
                    let reason = Reason::new("restarted", "the environment was restarted");
                    self.maybe_started = self.task.is_resumed();
                    Err(Step::End(self.gone(&reason).await))
                }
                Code::OutOfRange => Err(Step::End(self.misbehaved(status.message()).await)),
                Code::InvalidArgument | Code::ResourceExhausted => Err(Step::End(End::outcome(
                    Outcome::failure("start_refused", status.message()),
                ))),
                _ => Err(Step::Again(status.message().to_owned())),
            },
        }
    }

    fn start_request(&self) -> StartRequest {
        let environment = &self.task.environment.spec;
        let shell = |script: &str, prefer_bash| {
            WireCommand::Shell(proto::Shell {
                script: script.to_owned(),
                prefer_bash,
            })
        };
        let command = match &self.input.command {
            Command::Argv(args) => WireCommand::Argv(proto::Argv { args: args.clone() }),
            Command::Shell(script) => shell(script, false),
            Command::Bash(script) => shell(script, true),
        };
        let env = environment.env.reveal().chain(self.input.env.reveal());
        StartRequest {
            permit: Some(Permit {
                job_id: self.task.job.id.to_string(),
                fence: self.task.fence().0,
                incarnation: self.incarnation.to_string(),
            }),
            command: Some(command),
            env: env
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .collect(),
            workdir: self
                .input
                .workdir
                .clone()
                .or_else(|| environment.workdir.clone())
                .unwrap_or_default(),
            user: self.input.user.clone().unwrap_or_default(),
            stdin: self.input.stdin.clone().unwrap_or_default().0,
            stdin_open: self.input.stdin_open,
            timeout_ms: self.input.timeout_seconds.saturating_mul(1000),
            grace_ms: u64::try_from(TIMEOUT_GRACE.as_millis()).unwrap_or(u64::MAX),
            output_limit: self.input.output_limit,
        }
    }
}
