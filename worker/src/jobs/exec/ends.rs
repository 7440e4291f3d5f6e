//! How a command ends: by its runner's record, or without one, and then as what is proven.

use std::time::Duration;

use runner::proto::seal_reply::Fate;
use runner::proto::{Cause, JobRecord};
use shared::environment::{EnvironmentEvent, Reason};
use shared::job::{JobError, JobState, Outcome};
use shared::output::OutputCounts;
use shared::ports::Completion;

use super::{Run, Step, outcome};
use crate::distrust::RUNNER_MISBEHAVED;
use crate::execute::End;
use crate::jobs::last_resort::ENVIRONMENT_KILLED;
use crate::links::Link;
use crate::reach::Backoff;

/// How long a runner that ends its commands may take to end itself.
const ENDING_TIME: Duration = Duration::from_secs(60);

/// How long the kill of a container that is gone may take to be confirmed.
const KILL_TIME: Duration = Duration::from_secs(60);

impl Run<'_> {
    /// The end of the command as the runner recorded it.
    pub(super) async fn recorded(&mut self, record: &JobRecord) -> Step {
        let sound = outcome::sound(record, &self.task.job.id);
        if let Err(why) = sound.and_then(|()| self.copier.matches(record)) {
            return Step::End(self.misbehaved(&why).await);
        }
        if record.cause() == Cause::RunnerRestarted && self.restarted.is_none() {
            return self.ending().await;
        }
        let outcome = outcome::of_record(
            record,
            self.cancel.as_ref(),
            self.restarted.as_ref(),
            self.copier.previews(),
        );
        self.finished(outcome)
    }

    pub(super) fn finished(&mut self, outcome: Outcome) -> Step {
        Step::End(End::Finish(Box::new(Completion {
            outcome,
            chunks: self.copier.take(),
            event: None,
            artifact: None,
        })))
    }

    /// A runner that was started again kept less of the output than had arrived: it was cut off before all of it was on
    /// the disk. Its record still tells how the command ended; the output is what arrived.
    pub(super) async fn record_alone(&mut self, link: &Link) -> Step {
        let record = match self.sealed(link, self.task.fence()).await {
            Ok(Fate::Record(record)) => record,
            Ok(Fate::NeverStarted(_) | Fate::Tombstone(_)) => return self.vanished().await,
            Err(step) => return step,
        };
        if let Err(why) = outcome::sound(&record, &self.task.job.id) {
            return Step::End(self.misbehaved(&why).await);
        }
        let mut outcome = outcome::of_record(
            &record,
            self.cancel.as_ref(),
            self.restarted.as_ref(),
            self.copier.previews(),
        );
        outcome.output = OutputCounts {
            incomplete: true,
            ..self.copier.arrived()
        };
        self.finished(outcome)
    }

    /// Its own runner ended the command because it is ending itself. Why is for the runtime to say, once it has seen it.
    pub(super) async fn ending(&mut self) -> Step {
        let now = self.task.context.clock.monotonic();
        let until = *self.ending_until.get_or_insert(now + ENDING_TIME);
        if now < until {
            return self.broke("the runner is ending".to_owned()).await;
        }
        let reason = Reason::new("environment_gone", "the environment's runner has ended");
        Step::End(self.lost(&reason).await)
    }

    /// The incarnation is proven gone.
    pub(super) async fn gone(&mut self, reason: &Reason) -> End {
        let context = &self.task.context;
        let at = self.task.environment.at();
        let killed = self.killed_by_another().await;
        let fault = EnvironmentEvent::Fault {
            incarnation: self.incarnation.clone(),
            reason: killed.clone().unwrap_or_else(|| reason.clone()),
        };
        match context
            .store
            .environment_event(&at, self.task.job.generation, fault, context.clock.now())
            .await
        {
            Ok(effects) => context.publish(effects).await,
            Err(error) => tracing::warn!(%error, "could not note that an environment went"),
        }
        let killed = killed.is_some();
        if self.cancel.is_none() {
            self.cancel = self.task.requested_cancel().await;
        }
        let (state, error) =
            outcome::of_gone(reason, self.cancel.as_ref(), killed, self.maybe_started);
        self.end_without_record(state, error).await
    }

    /// Whether the environment may still be told to be killed on behalf of this job, by this lease or an earlier one.
    pub(super) fn leaves_a_kill(&self) -> bool {
        let inherited = self.task.is_resumed() && self.task.environment.is_being_killed();
        (self.kill_begun || inherited) && !self.killed
    }

    /// Why the environment was killed, if another job of it had that done. One that is about to is waited for.
    pub(super) async fn killed_by_another(&self) -> Option<Reason> {
        let context = &self.task.context;
        let until = context.clock.monotonic() + KILL_TIME;
        let mut backoff = Backoff::new(Duration::from_millis(20), Duration::from_secs(1));
        loop {
            let found = context.store.environment(&self.task.environment.at()).await;
            let found = found.ok().flatten()?;
            if found.uid != self.task.job.uid {
                return None;
            }
            if !found.is_being_killed() || context.clock.monotonic() >= until {
                let killed = |reason: &Reason| reason.code == ENVIRONMENT_KILLED;
                return found.reason.filter(killed);
            }
            backoff.wait().await;
        }
    }

    /// Nobody knows any more what became of it, unless it cannot have begun.
    pub(super) async fn lost(&mut self, reason: &Reason) -> End {
        let state = if self.maybe_started {
            JobState::Lost
        } else {
            JobState::Failed
        };
        let error = JobError::new(reason.code.clone(), reason.message.clone());
        self.end_without_record(state, error).await
    }

    pub(super) async fn misbehaved(&mut self, why: &str) -> End {
        let error = JobError::new(
            RUNNER_MISBEHAVED,
            format!("the environment's runner answered wrongly: {why}"),
        );
        self.end_without_record(JobState::Failed, error).await
    }

    /// What is known of a command whose record cannot be had: the output that arrived, marked as incomplete if anything
    /// may have run.
    pub(super) async fn end_without_record(&mut self, state: JobState, error: JobError) -> End {
        let mut outcome = Outcome::ended(state, error);
        outcome.output = OutputCounts {
            incomplete: self.maybe_started,
            ..self.copier.arrived()
        };
        End::Finish(Box::new(Completion {
            outcome,
            chunks: self.copier.take(),
            event: None,
            artifact: None,
        }))
    }
}
