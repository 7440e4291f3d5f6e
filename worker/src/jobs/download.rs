//! Reads a file, or what is wanted of it: into the job itself while it is small, else into parts that the API streams as
//! they appear.

use shared::job::{JobResult, Outcome, Wanted};
use shared::octets::Octets;
use shared::ports::Lane;

use crate::execute::{End, Task};
use crate::jobs::files::{self, Effect, keep, read};

pub(crate) async fn run(task: &Task, path: &Octets, wanted: &Wanted) -> End {
    if task.job.progress.is_some() {
        return keep::interrupted();
    }
    files::run(
        task,
        Lane::Bulk,
        Effect::Reads,
        |client, _permit| async move {
            let (head, bytes) = read::open_wanted(client, path, wanted, read::most(task)).await?;
            let content = keep::keep(task, Some(head.clone()), bytes).await?;
            Ok(End::outcome(Outcome::success(JobResult::Downloaded {
                head,
                content,
            })))
        },
    )
    .await
}
