//! Gives a file or a folder another path.

use runner::proto::MoveFileRequest;
use shared::job::{JobResult, Outcome};
use shared::octets::Octets;
use shared::ports::Lane;

use crate::execute::{End, Task};
use crate::jobs::files::{self, Effect};

pub(crate) async fn run(task: &Task, from: &Octets, to: &Octets) -> End {
    files::run(
        task,
        Lane::Control,
        Effect::Changes,
        |mut client, permit| async move {
            let request = MoveFileRequest {
                permit: Some(permit),
                from: from.0.clone(),
                to: to.0.clone(),
            };
            let answer = files::in_time(files::ANSWER_TIME, client.move_file(request));
            let reply = answer.await?.into_inner();
            Ok(End::outcome(Outcome::success(JobResult::Moved {
                from: Octets(reply.from),
                to: Octets(reply.to),
            })))
        },
    )
    .await
}
