//! Starts a stopped or failed environment on the volume that it has.

use crate::execute::{End, Task};
use crate::jobs::bring_up::{self, How};

pub(crate) async fn run(task: &Task) -> End {
    bring_up::run(task, How::Start).await
}
