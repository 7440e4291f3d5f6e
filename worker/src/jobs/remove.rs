//! Removes a file or a folder.

use runner::proto::RemoveFileRequest;
use shared::job::{JobResult, Outcome};
use shared::octets::Octets;
use shared::ports::Lane;

use crate::execute::{End, Task};
use crate::jobs::files::{self, Effect};

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
            let reply = client.remove_file(request).await?.into_inner();
            Ok(End::outcome(Outcome::success(JobResult::Removed {
                path: Octets(reply.path),
                removed: reply.removed,
            })))
        },
    )
    .await
}
