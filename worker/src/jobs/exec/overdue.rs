//! A command whose end nobody confirmed in time.
//!
//! ```text
//!   late ──▶ the runtime cannot be asked ──▶ wait: what nobody can see is not proven
//!     │
//!     ├────▶ out of reach until now ───────▶ once more as long for the runner to tell how it ended
//!     │
//!     └────▶ the runner had its time ──────▶ note ──▶ kill ──▶ confirmed ──▶ the environment failed, the job timed out
//! ```
//!
//! The environment fails only once the kill is confirmed. The note before it tells the environment's other jobs, whose
//! connections break, what ended them.

use std::time::Instant;

use shared::environment::{EnvironmentEvent, Reason};
use shared::ports::RuntimeError;

use super::{CONFIRM_TIME, Run, Step, outcome};
use crate::execute::End;
use crate::jobs::vacate;

impl Run<'_> {
    /// The time for a confirmation is up; `since` then the runner is attached to, if it is.
    pub(super) async fn late(&mut self, since: Option<Instant>) -> Step {
        let context = &self.task.context;
        if let Err(RuntimeError::Unavailable(why)) =
            context.runtime.inspect(&self.task.job.uid).await
        {
            self.had_more_time = false;
            return Step::Again(why);
        }
        let now = context.clock.monotonic();
        let had_time =
            since.is_some_and(|since| now.saturating_duration_since(since) >= CONFIRM_TIME);
        if had_time || self.had_more_time {
            return self.kill_container().await;
        }
        self.had_more_time = true;
        self.overdue = now + CONFIRM_TIME;
        Step::Again("the runner is asked once more how the command ended".to_owned())
    }

    /// The container is killed, with all that runs in it; not one that was started after it.
    async fn kill_container(&mut self) -> Step {
        let task = self.task;
        match task.is_in_its_environment().await {
            Ok(true) => {}
            Ok(false) => {
                self.overdue = task.context.clock.monotonic() + CONFIRM_TIME;
                return Step::Again("its start of the environment has ended".to_owned());
            }
            Err(error) => return Step::Again(error.to_string()),
        }
        vacate::note(task, killed()).await;
        if let Err(error) = task.context.runtime.kill(&task.job.uid).await {
            vacate::note(task, Reason::new("retrying", error.to_string())).await;
            self.had_more_time = false;
            return Step::Again(error.to_string());
        }
        task.context.links.forget_all(&task.job.uid);
        self.killed = true;
        self.after_kill().await
    }

    /// The kill is confirmed.
    pub(super) async fn after_kill(&mut self) -> Step {
        let context = &self.task.context;
        let fault = EnvironmentEvent::Fault {
            incarnation: self.incarnation.clone(),
            reason: killed(),
        };
        let at = self.task.environment.at();
        let noted = context
            .store
            .environment_event(&at, self.task.job.generation, fault, context.clock.now())
            .await;
        match noted {
            Ok(effects) => context.publish(effects).await,
            Err(error) => return Step::Again(error.to_string()),
        }
        let (state, error) = outcome::of_unconfirmed(self.cancel.as_ref());
        let mut end = self.end_without_record(state, error).await;
        if let End::Finish(completion) = &mut end {
            completion.outcome.result = Some(outcome::unconfirmed(self.copier.previews()));
        }
        Step::End(end)
    }
}

fn killed() -> Reason {
    Reason::new(
        outcome::ENVIRONMENT_KILLED,
        "the end of a command was not confirmed in time, so the environment was killed",
    )
}
