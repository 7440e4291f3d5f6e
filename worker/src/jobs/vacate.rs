//! What stop and delete share: an environment whose jobs have ended, and a runtime that has done it.

use std::future::Future;
use std::time::Duration;

use shared::environment::{EnvironmentEvent, Reason};
use shared::job::JobState;
use shared::ports::RuntimeError;

use crate::execute::Task;
use crate::reach::Backoff;

/// How long the workers of the environment's other jobs get to end them; all of those were asked to in the commit that
/// accepted this job. What has not ended then ends with the container.
const ENDING_TIME: Duration = Duration::from_secs(15);

/// Returns when no other job of the environment runs, or their time is up.
pub(crate) async fn jobs_ended(task: &Task) {
    let ended = async {
        let mut backoff = Backoff::new(Duration::from_millis(20), Duration::from_millis(500));
        loop {
            match task.context.store.open_jobs(&task.environment.at()).await {
                Ok(open) => {
                    let other = open
                        .iter()
                        .find(|job| job.id != task.job.id && job.state == JobState::Running);
                    let Some(other) = other else { return };
                    // Made before the job is read again: its end is not missed.
                    let mut watch = task.context.store.watch(&other.at());
                    if matches!(task.context.store.job(&other.at()).await, Ok(Some(job)) if !job.state.is_terminal())
                    {
                        watch.changed().await;
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "could not list the jobs of an environment");
                    backoff.wait().await;
                }
            }
        }
    };
    let ended = tokio::time::timeout(ENDING_TIME, ended);
    if task.waiting(ended).await.is_err() {
        tracing::warn!(environment = %task.job.environment, "jobs did not end in time: they end with the container");
    }
    task.context.links.forget_all(&task.job.uid);
}

/// Repeats what the runtime cannot do now until it is done, and notes why it takes long.
pub(crate) async fn until_done<F, Fut>(task: &Task, mut operation: F)
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<(), RuntimeError>>,
{
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(30));
    while let Err(error) = operation().await {
        tracing::warn!(environment = %task.job.environment, %error, "the runtime could not do it yet");
        note(task, hindrance(error)).await;
        task.waiting(backoff.wait()).await;
    }
}

/// What keeps the runtime from doing it.
fn hindrance(error: RuntimeError) -> Reason {
    match error {
        RuntimeError::Failed(reason) => reason,
        other => Reason::new("retrying", other.to_string()),
    }
}

/// Lets the environment's status say what holds the job up. A note that is lost changes nothing.
pub(crate) async fn note(task: &Task, reason: Reason) {
    let noted = task
        .context
        .store
        .environment_event(
            &task.environment.at(),
            task.job.generation,
            EnvironmentEvent::Note(reason),
            task.context.clock.now(),
        )
        .await;
    if let Err(error) = noted {
        tracing::debug!(%error, "could not note why an environment takes long");
    }
}
