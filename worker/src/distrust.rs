//! The end of an environment whose runner was caught lying.
//!
//! PID 1 is a program of this service; one that breaks its contract is not any more, whatever else it says. Its environment
//! fails with that reason and its container is killed, so that no later job believes it. The volume stays, and a start
//! gives it a new PID 1.

use shared::environment::{EnvironmentEvent, Reason};
use shared::job::Outcome;

use crate::execute::Task;

/// The code of jobs and environments whose runner broke its contract.
pub(crate) const RUNNER_MISBEHAVED: &str = "runner_misbehaved";

/// Fails the job's environment if the job has found that its runner lies. What of it cannot be done now is done by the
/// next job that finds it.
pub(crate) async fn after(task: &Task, outcome: &Outcome) {
    let error = outcome.error.as_ref();
    let (Some(error), Some(incarnation)) = (
        error.filter(|error| error.code == RUNNER_MISBEHAVED),
        task.job.incarnation.clone(),
    ) else {
        return;
    };
    let context = &task.context;
    match task.is_in_its_environment().await {
        Ok(true) => {}
        Ok(false) => return,
        Err(error) => {
            tracing::warn!(%error, "could not see whether an environment was started again");
            return;
        }
    }
    tracing::warn!(
        environment = %task.job.environment,
        job = %task.at.job,
        why = error.message,
        "an environment's runner lies: ending the environment"
    );
    let fault = EnvironmentEvent::Fault {
        incarnation,
        reason: Reason::new(RUNNER_MISBEHAVED, error.message.clone()),
    };
    let noted = context
        .store
        .environment_event(
            &task.environment.at(),
            task.job.generation,
            fault,
            context.clock.now(),
        )
        .await;
    match noted {
        Ok(effects) => context.publish(effects).await,
        Err(error) => tracing::warn!(%error, "could not note that an environment failed"),
    }
    let container = task.environment.container.as_deref();
    if let Err(error) = context.runtime.kill(&task.job.uid, container).await {
        tracing::warn!(%error, "could not kill an environment");
    }
    context.links.forget_all(&task.job.uid);
}
