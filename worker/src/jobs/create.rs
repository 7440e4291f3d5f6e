//! Makes an environment: volume, container, and a PID 1 that answers.

use crate::execute::{End, Task};
use crate::jobs::bring_up::{self, How};

pub(crate) async fn run(task: &Task) -> End {
    bring_up::run(task, How::Create).await
}
