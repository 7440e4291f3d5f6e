//! Reads a folder as an archive: into the job itself while it is small, else into parts that the API streams as they
//! appear.

use shared::job::{JobResult, Outcome};
use shared::octets::Octets;
use shared::ports::Lane;

use crate::execute::{End, Task};
use crate::jobs::files::{self, Effect, keep, read};

pub(crate) async fn run(task: &Task, path: &Octets) -> End {
    if task.job.progress.is_some() {
        return keep::interrupted();
    }
    files::run(
        task,
        Lane::Bulk,
        Effect::Reads,
        |client, _permit| async move {
            let (path, bytes) = read::pack(client, path).await?;
            let content = keep::keep(task, None, bytes).await?;
            Ok(End::outcome(Outcome::success(JobResult::Packed {
                path,
                content,
            })))
        },
    )
    .await
}
