//! Deletes an environment: its jobs first, then container, volume and records.

use shared::environment::EnvironmentEvent;
use shared::job::{JobResult, Outcome};
use shared::ports::Completion;

use crate::execute::{End, Task};
use crate::jobs::vacate;

pub(crate) async fn run(task: &Task) -> End {
    vacate::jobs_ended(task).await;
    let runtime = &task.context.runtime;
    vacate::until_done(task, || runtime.delete(&task.job.uid)).await;
    task.context.links.forget_all(&task.job.uid);
    End::Finish(Box::new(Completion {
        outcome: Outcome::success(JobResult::Lifecycle {}),
        chunks: Vec::new(),
        event: Some(EnvironmentEvent::Deleted),
        artifact: None,
    }))
}
