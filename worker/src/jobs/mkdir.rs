//! Makes a folder.

use runner::proto::MakeFolderRequest;
use shared::job::{JobResult, Outcome};
use shared::octets::Octets;
use shared::ports::Lane;

use crate::execute::{End, Task};
use crate::jobs::files::{self, Effect};

pub(crate) async fn run(task: &Task, path: &Octets, parents: bool) -> End {
    files::run(
        task,
        Lane::Control,
        Effect::Changes,
        |mut client, permit| async move {
            let request = MakeFolderRequest {
                permit: Some(permit),
                path: path.0.clone(),
                parents,
            };
            let answer = files::in_time(files::ANSWER_TIME, client.make_folder(request));
            let reply = answer.await?.into_inner();
            Ok(End::outcome(Outcome::success(JobResult::MadeFolder {
                path: Octets(reply.path),
                made: reply.made,
            })))
        },
    )
    .await
}
