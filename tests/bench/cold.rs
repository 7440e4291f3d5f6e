//! From nothing to the first command's exit, against `runc run` and `runc exec` of the same root.

use crate::Failure;
use crate::ground::{Ground, WARM_UP};
use crate::peer::Bundle;
use crate::report::{Report, Samples, Target};
use crate::service::Service;

const ROUNDS: usize = 40;

pub async fn measure(ground: &Ground, report: &mut Report) -> Result<(), Failure> {
    let service = Service::start(&ground.program, &[]).await?;
    let bundle = Bundle::new()?;
    let (mut ours, mut theirs) = (Samples::default(), Samples::default());
    for round in 0..ground.rounds(ROUNDS) + WARM_UP {
        let id = format!("cold-{round}");
        let our_time = service.first_exit(&id).await?;
        service.delete(&id).await?;
        let their_time = bundle.run(&id)? + bundle.exec_true(&id)?;
        bundle.delete(&id)?;
        if round >= WARM_UP {
            ours.push(our_time);
            theirs.push(their_time);
        }
    }
    report.ratio(
        "create to first exit, cold, `host` image",
        &ours,
        "`runc run` + `runc exec`",
        &theirs,
        Target::AtMost(1.2),
    );
    service.stop().await
}
