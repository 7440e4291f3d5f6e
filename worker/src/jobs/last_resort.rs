//! What is done where the end of a command is not confirmed: its container is killed, with all that runs in it.
//!
//! ```text
//!   note ──▶ kill ──▶ confirmed ──▶ the environment failed
//! ```
//!
//! The environment fails only once the kill is confirmed. The note before it is no fact: it tells the environment's other
//! jobs, whose connections break, to wait for what becomes of the kill. It stays until that is known, however often the kill
//! is tried, and is called off where the command's end is confirmed after all.

use shared::environment::{EnvironmentEvent, Reason};
use shared::ids::Incarnation;

use super::vacate;
use crate::execute::Task;

/// The code of jobs and environments that ended because a container had to be killed.
pub(crate) const ENVIRONMENT_KILLED: &str = "environment_killed";

/// What became of a kill.
pub(crate) enum Kill {
    /// Nothing of the container runs any more.
    Confirmed,
    /// The environment is not in the start in which the job ran; whatever runs there now is let be.
    NotItsOwn,
    /// It could not be done, or may not have been.
    NotYet(String),
}

/// Kills the container in which a job runs; not one that was started after it.
pub(crate) async fn kill(task: &Task) -> Kill {
    match task.is_in_its_environment().await {
        Ok(true) => {}
        Ok(false) => return Kill::NotItsOwn,
        Err(error) => return Kill::NotYet(error.to_string()),
    }
    let intent = Reason::new(
        Reason::BEING_KILLED,
        "the end of a command was not confirmed in time, so the environment is being killed",
    );
    vacate::note(task, intent).await;
    let container = task.environment.container.as_deref();
    if let Err(error) = task.context.runtime.kill(&task.job.uid, container).await {
        return Kill::NotYet(error.to_string());
    }
    task.context.links.forget_all(&task.job.uid);
    Kill::Confirmed
}

/// Calls off a kill that could not be done and is not needed any more.
pub(crate) async fn called_off(task: &Task) {
    let context = &task.context;
    let passed = EnvironmentEvent::Passed {
        code: Reason::BEING_KILLED.to_owned(),
    };
    let at = task.environment.at();
    let noted = context
        .store
        .environment_event(&at, task.job.generation, passed, context.clock.now())
        .await;
    if let Err(error) = noted {
        tracing::warn!(%error, "could not note that an environment is not killed");
    }
}

/// Lets the environment fail after a confirmed kill.
pub(crate) async fn environment_failed(
    task: &Task,
    incarnation: &Incarnation,
) -> Result<(), String> {
    let context = &task.context;
    let fault = EnvironmentEvent::Fault {
        incarnation: incarnation.clone(),
        reason: Reason::new(
            ENVIRONMENT_KILLED,
            "the end of a command was not confirmed in time, so the environment was killed",
        ),
    };
    let at = task.environment.at();
    let noted = context
        .store
        .environment_event(&at, task.job.generation, fault, context.clock.now())
        .await;
    let effects = noted.map_err(|error| error.to_string())?;
    context.publish(effects).await;
    Ok(())
}
