//! A command in a live environment, over HTTP and durable, against the OCI runtime's own `exec` of the same in the same
//! container.

use crate::Failure;
use crate::ground::{Ground, WARM_UP};
use crate::peer;
use crate::report::{Report, Samples, Target, timed};
use crate::service::Service;

const ROUNDS: usize = 300;

/// With `runc`.
pub async fn measure(ground: &Ground, report: &mut Report) -> Result<(), Failure> {
    let (ours, theirs) = samples(ground, "runc", &[]).await?;
    report.ratio(
        "`POST …/exec` of `true` with `Prefer: wait`",
        &ours,
        "`runc exec`",
        &theirs,
        Target::AtMost(0.3),
    );
    Ok(())
}

/// With `crun`, the fastest there is.
pub async fn measure_on_crun(ground: &Ground, report: &mut Report) -> Result<(), Failure> {
    let (ours, theirs) = samples(ground, "crun", &[("EM_RUNTIME__BINARY", "crun")]).await?;
    report.ratio(
        "`POST …/exec` of `true` in an environment of `crun`",
        &ours,
        "`crun exec`",
        &theirs,
        Target::AtMost(1.0),
    );
    Ok(())
}

/// How long `true` takes through a service of these variables, and by its OCI runtime alone, in turn.
async fn samples(
    ground: &Ground,
    binary: &'static str,
    variables: &[(&str, &str)],
) -> Result<(Samples, Samples), Failure> {
    let service = Service::start(&ground.program, variables).await?;
    service.create("bench").await?;
    let container = peer::container_of(binary, &service.environments())?;
    let (mut ours, mut theirs) = (Samples::default(), Samples::default());
    for round in 0..ground.rounds(ROUNDS) + WARM_UP {
        let our_time = timed(service.exec("bench", &["true"])).await?;
        let their_time = container.exec_true()?;
        if round >= WARM_UP {
            ours.push(our_time);
            theirs.push(their_time);
        }
    }
    service.delete("bench").await?;
    service.stop().await?;
    Ok((ours, theirs))
}
