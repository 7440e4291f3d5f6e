//! Runs a command: at most once in its incarnation, every byte of its output, its own exit code.
//!
//! ```text
//!             first lease                     taken over, or a connection broke
//!                 │                                       │
//!                 │                                     Seal ──▶ a record ──────────┐
//!                 ▼                                       ▼                         ▼
//!               Start ◀────────────────────────── never started                  Attach from
//!                 └────────────────────────────────────────────────────────────▶ the store's end
//!                                                                                   │
//!        output ──▶ chunks ──▶ store                    the record ──▶ Finish ◀─────┘
//! ```
//!
//! The runner's final record is as good as a seal: an id that was started there can never be started again. A runner that
//! was started again on the records of the one before proves by a seal that a command never began, unless the machine
//! booted in between.

use std::time::{Duration, Instant};

use runner::proto::seal_reply::Fate;
use runner::proto::{JobRecord, SealRequest};
use shared::environment::Reason;
use shared::ids::{Fence, Incarnation};
use shared::job::{Begun, CancelRequest, ExecInput, JobError, JobState, Outcome};
use shared::ports::{Lane, StoreError};
use tonic::Code;

use crate::execute::{End, Task};
use crate::jobs::last_resort;
use crate::links::Link;
use crate::reach::{Backoff, Unreached, is_answer, reach};
use crate::restart;

mod attach;
mod copier;
mod ends;
mod feed;
mod outcome;
mod overdue;
mod start;

use copier::Copier;

/// Between TERM and KILL at a command's deadline.
const TIMEOUT_GRACE: Duration = Duration::from_secs(5);

/// How long after deadline and grace a confirmation may take before the whole container is killed.
const CONFIRM_TIME: Duration = Duration::from_secs(15);

/// How long after its deadline a job without contact is still looked for.
const NO_CONTACT_TIME: Duration = Duration::from_secs(600);

/// How long the runner may take to start a command.
const START_TIME: Duration = Duration::from_secs(30);

pub(crate) async fn run(task: &Task, input: &ExecInput) -> End {
    let Some(incarnation) = task.job.incarnation.clone() else {
        return End::outcome(Outcome::failure(
            "environment_failed",
            "the environment was not running when the job began",
        ));
    };
    let mut run = match Run::new(task, input, incarnation).await {
        Ok(run) => run,
        Err(end) => return end,
    };
    let mut backoff = Backoff::new(Duration::from_millis(20), Duration::from_secs(2));
    loop {
        match run.once().await {
            Step::End(end) => {
                if !matches!(end, End::Dropped) && run.leaves_a_kill() {
                    last_resort::called_off(task).await;
                }
                return end;
            }
            Step::Again(why) => {
                tracing::debug!(job = %task.at.job, why, "the connection to the environment broke")
            }
        }
        backoff.wait().await;
    }
}

/// The end of a job that was cancelled before its command was started.
fn cancelled(request: &CancelRequest) -> End {
    let error = JobError::new(request.code.clone(), request.message.clone());
    End::outcome(Outcome::ended(JobState::Cancelled, error))
}

/// When a command that has run for so long is ended, at the latest.
fn deadline(now: Instant, input: &ExecInput, ran: Duration) -> Instant {
    now + Duration::from_secs(input.timeout_seconds).saturating_sub(ran) + TIMEOUT_GRACE
}

/// What one connection brought.
enum Step {
    End(End),
    Again(String),
}

/// What a seal finds.
enum Sealed {
    /// The command was started.
    Started(Box<JobRecord>),
    /// There is no record of it. Where that is proven, it never began in its incarnation and never will.
    Never { proven: bool },
}

/// One lease of a command, over as many connections as it takes.
struct Run<'a> {
    task: &'a Task,
    input: &'a ExecInput,
    incarnation: Incarnation,
    /// Whether a start may have reached the runner, under this lease or an earlier one.
    maybe_started: bool,
    copier: Copier,
    cancel: Option<CancelRequest>,
    /// Why the incarnation ended, where another one has its records.
    restarted: Option<Reason>,
    /// When an end must have been confirmed.
    overdue: Instant,
    /// Whether the times here count from when the command began, rather than from the first lease.
    timed: bool,
    /// Whether the runner, after nobody could reach it, was given time again.
    had_more_time: bool,
    /// Whether a kill of the container for want of a confirmation was tried, and not confirmed.
    kill_begun: bool,
    /// Whether it was confirmed.
    killed: bool,
    /// Until when the end of a runner that is ending is waited for.
    ending_until: Option<Instant>,
    /// When a job without contact is given up.
    give_up: Instant,
}

impl<'a> Run<'a> {
    async fn new(
        task: &'a Task,
        input: &'a ExecInput,
        incarnation: Incarnation,
    ) -> Result<Self, End> {
        let now = task.context.clock.monotonic();
        let ran = task.job.started_at.map_or(Duration::ZERO, |since| {
            task.context
                .clock
                .now()
                .duration_since(since)
                .try_into()
                .unwrap_or_default()
        });
        let deadline = deadline(now, input, ran);
        let copier = if task.is_resumed() {
            // A store that cannot be read now leaves the lease to a later takeover.
            Copier::resumed(task, input.output_limit)
                .await
                .map_err(|_| End::Dropped)?
        } else {
            Copier::fresh(input.output_limit)
        };
        Ok(Self {
            task,
            input,
            incarnation,
            maybe_started: task.is_resumed(),
            copier,
            cancel: None,
            restarted: None,
            overdue: deadline + CONFIRM_TIME,
            timed: false,
            had_more_time: false,
            kill_begun: false,
            killed: false,
            ending_until: None,
            give_up: deadline + NO_CONTACT_TIME,
        })
    }

    /// Connects, finds out what became of the command, starts it if it never was, follows it.
    async fn once(&mut self) -> Step {
        if self.killed {
            return self.after_kill().await;
        }
        if self.task.context.clock.monotonic() >= self.give_up {
            let reason = Reason::new("no_contact", "there was no contact with the environment");
            return Step::End(self.lost(&reason).await);
        }
        let (task, overdue) = (self.task, self.overdue);
        let reached = tokio::select! {
            biased;
            reached = reach(task, &self.incarnation, Lane::Control, self.give_up) => reached,
            request = task.cancelled(), if self.cancel.is_none() => {
                self.set_cancel(request);
                return self.cancelled_out_of_reach();
            }
            () = tokio::time::sleep_until(overdue.into()), if self.maybe_started => {
                return self.late(None).await;
            }
        };
        let link = match reached {
            Ok(link) => link,
            Err(Unreached::Gone(reason)) if self.kill_begun => {
                return self.gone_while_killed(&reason).await;
            }
            Err(Unreached::Gone(reason)) => return Step::End(self.gone(&reason).await),
            Err(Unreached::Replaced(link)) => return self.replaced(&link).await,
            Err(Unreached::TooLong(why)) => {
                let reason = Reason::new(
                    "no_contact",
                    format!("there was no contact with the environment: {why}"),
                );
                return Step::End(self.lost(&reason).await);
            }
        };
        let step = self.over(&link).await;
        if matches!(step, Step::Again(_)) {
            let links = &self.task.context.links;
            links.forget(&self.task.job.uid, Lane::Control, &link);
        }
        step
    }

    /// Another start of PID 1 answers. Where it is one of the same container it still has the command's record and
    /// output; a command that was never sent begins there.
    async fn replaced(&mut self, link: &Link) -> Step {
        let task = self.task;
        let (environment, generation) = (&task.environment, task.job.generation);
        let noted = restart::noted(
            &task.context,
            environment,
            generation,
            &self.incarnation,
            link,
        )
        .await;
        let reason = match noted {
            Ok(Some(reason)) => reason,
            Ok(None) => {
                let reason = Reason::new("restarted", "the environment was restarted");
                return Step::End(self.gone(&reason).await);
            }
            Err(why) => return Step::Again(why),
        };
        if !self.maybe_started {
            return Step::End(self.never_began());
        }
        match self.seal(link).await {
            Ok(Sealed::Started(_)) => {
                self.restarted = Some(reason);
                self.attach(link).await
            }
            Ok(Sealed::Never { proven: true }) => {
                self.look_for_cancel().await;
                Step::End(self.never_began())
            }
            // A record may have been lost with the machine.
            Ok(Sealed::Never { proven: false }) => {
                let (state, error) =
                    outcome::of_gone(&reason, self.cancel.as_ref(), false, self.maybe_started);
                Step::End(self.end_without_record(state, error).await)
            }
            Err(step) => step,
        }
    }

    /// The end of a lease under which nothing was started: another may begin it, unless nobody wants it any more.
    fn never_began(&self) -> End {
        match &self.cancel {
            Some(request) => cancelled(request),
            None => End::HandBack(Begun::Never),
        }
    }

    /// Takes in a cancel that nobody waits for just now.
    async fn look_for_cancel(&mut self) {
        if self.cancel.is_none()
            && let Some(request) = self.task.requested_cancel().await
        {
            self.set_cancel(request);
        }
    }

    /// Takes in a request to end the job; from then on its end must be confirmed soon, or the container is killed.
    fn set_cancel(&mut self, request: CancelRequest) {
        let grace = Duration::from_secs(request.grace_seconds);
        let by = self.task.context.clock.monotonic() + grace + CONFIRM_TIME;
        self.overdue = self.overdue.min(by);
        self.cancel = Some(request);
    }

    /// Counts the command's time as its runner does, once per lease: it may have begun long after the first lease, and a
    /// wall clock may have been set meanwhile.
    fn runs_since(&mut self, ran: Duration) {
        if std::mem::replace(&mut self.timed, true) {
            return;
        }
        let deadline = deadline(self.task.context.clock.monotonic(), self.input, ran);
        self.give_up = deadline + NO_CONTACT_TIME;
        let overdue = deadline + CONFIRM_TIME;
        self.overdue = match &self.cancel {
            Some(_) => self.overdue.min(overdue),
            None => overdue,
        };
    }

    /// A job that is cancelled while its environment cannot be reached: one that cannot have been started has ended.
    fn cancelled_out_of_reach(&self) -> Step {
        match &self.cancel {
            Some(request) if !self.maybe_started => Step::End(cancelled(request)),
            _ => Step::Again("cancelled while the environment cannot be reached".to_owned()),
        }
    }

    async fn over(&mut self, link: &Link) -> Step {
        if self.maybe_started {
            match self.seal(link).await {
                Ok(Sealed::Started(record)) => {
                    self.runs_since(Duration::from_millis(record.duration_ms));
                    return self.attach(link).await;
                }
                Ok(Sealed::Never { .. }) => self.look_for_cancel().await,
                Err(step) => return step,
            }
        }
        if let Some(request) = self.cancel.clone() {
            return self.cancelled_before_start(link, &request).await;
        }
        match self.start(link).await {
            Ok(()) => {
                self.runs_since(Duration::ZERO);
                self.attach(link).await
            }
            Err(step) => step,
        }
    }

    /// Nothing was started, and nothing may be once the job has ended: not by a call of this very lease either, whose
    /// answer did not arrive and which the runner has not come to yet.
    async fn cancelled_before_start(&mut self, link: &Link, request: &CancelRequest) -> Step {
        if !self.maybe_started {
            return Step::End(cancelled(request));
        }
        match self.sealed(link, self.task.above_fence()).await {
            Ok(Fate::NeverStarted(_)) => Step::End(cancelled(request)),
            Ok(Fate::Record(_) | Fate::Tombstone(_)) => {
                Step::Again("it was started after all".to_owned())
            }
            Err(step) => step,
        }
    }

    /// Raises the runner's floor to this lease's fence, and tells whether the command was started there.
    async fn seal(&mut self, link: &Link) -> Result<Sealed, Step> {
        match self.sealed(link, self.task.fence()).await? {
            Fate::Record(record) => Ok(Sealed::Started(Box::new(record))),
            Fate::NeverStarted(never) => Ok(Sealed::Never {
                proven: never.proven,
            }),
            Fate::Tombstone(_) => {
                let reason = Reason::new(
                    "record_gone",
                    "the environment holds no record of the command any more",
                );
                Err(Step::End(self.lost(&reason).await))
            }
        }
    }

    async fn sealed(&mut self, link: &Link, fence: Fence) -> Result<Fate, Step> {
        let request = SealRequest {
            job_id: self.task.job.id.to_string(),
            fence: fence.0,
            incarnation: self.incarnation.to_string(),
        };
        let mut request = tonic::Request::new(request);
        request.set_timeout(START_TIME);
        match link.client.clone().seal(request).await {
            Ok(reply) => match reply.into_inner().fate {
                Some(fate) => Ok(fate),
                None => Err(Step::End(self.misbehaved("its seal says nothing").await)),
            },
            Err(status) if status.code() == Code::Aborted => Err(Step::End(End::Dropped)),
            Err(status) if is_answer(&status) => {
                Err(Step::End(self.misbehaved(status.message()).await))
            }
            Err(status) => Err(Step::Again(status.message().to_owned())),
        }
    }

    /// Moves what arrived into the store.
    async fn flush(&mut self) -> Result<(), Step> {
        let chunks = self.copier.take();
        if chunks.is_empty() {
            return Ok(());
        }
        let context = &self.task.context;
        match context
            .store
            .append_output(&self.task.at, self.task.fence(), chunks.clone())
            .await
        {
            Ok(()) => Ok(()),
            Err(StoreError::Fenced) => Err(Step::End(End::Dropped)),
            Err(error) => {
                // Kept, to be written with what follows; the runner has it as well.
                self.copier.put_back(chunks, context.clock.monotonic());
                Err(Step::Again(error.to_string()))
            }
        }
    }
}
