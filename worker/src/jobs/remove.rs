//! Removes a file or a folder.

use std::time::Duration;

use runner::proto::RemoveFileRequest;
use shared::job::{JobResult, Outcome};
use shared::octets::Octets;
use shared::ports::Lane;

use crate::execute::{End, Task};
use crate::jobs::files::{self, Effect};

/// How long a removal may take: a folder may hold millions of files.
const REMOVE_TIME: Duration = Duration::from_mins(10);

pub(crate) async fn run(task: &Task, path: &Octets, recursive: bool) -> End {
    files::run(
        task,
        Lane::Control,
        Effect::Changes,
        |mut client, permit| async move {
            let request = RemoveFileRequest {
                permit: Some(permit),
                path: path.0.clone(),
                recursive,
            };
            let answer = files::in_time(REMOVE_TIME, client.remove_file(request));
            let reply = answer.await?.into_inner();
            Ok(End::outcome(Outcome::success(JobResult::Removed {
                path: Octets(reply.path),
                removed: reply.removed,
            })))
        },
    )
    .await
}
