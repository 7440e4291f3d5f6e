//! Stops an environment: its jobs first, then PID 1. The volume stays.

use std::time::Duration;

use shared::environment::EnvironmentEvent;
use shared::job::{JobResult, Outcome};
use shared::ports::Completion;

use crate::execute::{End, Task};
use crate::jobs::vacate;

/// Between TERM and KILL of PID 1, which needs little: its jobs have ended.
const GRACE: Duration = Duration::from_secs(5);

pub(crate) async fn run(task: &Task) -> End {
    vacate::jobs_ended(task).await;
    let runtime = &task.context.runtime;
    vacate::until_done(task, || runtime.stop(&task.job.uid, GRACE)).await;
    task.context.links.forget_all(&task.job.uid);
    End::Finish(Box::new(Completion {
        outcome: Outcome::success(JobResult::Lifecycle {}),
        chunks: Vec::new(),
        event: Some(EnvironmentEvent::Stopped),
        artifact: None,
    }))
}
