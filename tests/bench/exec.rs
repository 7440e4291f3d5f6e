//! A command in a live environment, over HTTP and durable, against `runc exec` of the same in the same container.

use crate::Failure;
use crate::ground::{Ground, WARM_UP};
use crate::peer;
use crate::report::{Report, Samples, Target, timed};
use crate::service::Service;

const ROUNDS: usize = 300;

pub async fn measure(ground: &Ground, report: &mut Report) -> Result<(), Failure> {
    let service = Service::start(&ground.program, &[]).await?;
    service.create("bench").await?;
    let container = peer::container_of("runc", &service.environments())?;
    let (mut ours, mut theirs) = (Samples::default(), Samples::default());
    for round in 0..ground.rounds(ROUNDS) + WARM_UP {
        let our_time = timed(service.exec("bench", &["true"])).await?;
        let their_time = container.exec_true()?;
        if round >= WARM_UP {
            ours.push(our_time);
            theirs.push(their_time);
        }
    }
    report.ratio(
        "`POST …/exec` of `true` with `Prefer: wait`",
        &ours,
        "`runc exec`",
        &theirs,
        Target::AtMost(0.3),
    );
    service.delete("bench").await?;
    service.stop().await
}
