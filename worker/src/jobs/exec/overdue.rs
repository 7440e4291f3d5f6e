//! A command whose end nobody confirmed in time.
//!
//! ```text
//!   late ──▶ the runtime cannot be asked ──▶ wait: what nobody can see is not proven
//!     │
//!     ├────▶ out of reach until now ───────▶ once more as long for the runner to tell how it ended
//!     │
//!     └────▶ the runner had its time ──────▶ the container is killed ──▶ the job timed out
//! ```

use std::time::Instant;

use shared::environment::Reason;
use shared::ports::RuntimeError;

use super::{CONFIRM_TIME, Run, Step, outcome};
use crate::execute::End;
use crate::jobs::last_resort::{self, Kill};

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

    async fn kill_container(&mut self) -> Step {
        match last_resort::kill(self.task).await {
            Kill::Confirmed => {
                self.killed = true;
                self.after_kill().await
            }
            Kill::NotItsOwn => {
                self.overdue = self.task.context.clock.monotonic() + CONFIRM_TIME;
                Step::Again("its start of the environment has ended".to_owned())
            }
            Kill::NotYet(why) => {
                self.kill_begun = true;
                self.had_more_time = false;
                Step::Again(why)
            }
        }
    }

    /// It is gone, perhaps by a kill that was tried and not confirmed: then that is told as what ended it.
    pub(super) async fn gone_while_killed(&mut self, reason: &Reason) -> Step {
        match last_resort::kill(self.task).await {
            Kill::Confirmed => {
                self.killed = true;
                self.after_kill().await
            }
            Kill::NotItsOwn => Step::End(self.gone(reason).await),
            Kill::NotYet(why) => Step::Again(why),
        }
    }

    /// The kill is confirmed.
    pub(super) async fn after_kill(&mut self) -> Step {
        if let Err(why) = last_resort::environment_failed(self.task, &self.incarnation).await {
            return Step::Again(why);
        }
        let (state, error) = outcome::of_unconfirmed(self.cancel.as_ref());
        let mut end = self.end_without_record(state, error).await;
        if let End::Finish(completion) = &mut end {
            completion.outcome.result = Some(outcome::unconfirmed(self.copier.previews()));
        }
        Step::End(end)
    }
}
