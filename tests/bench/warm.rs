//! From nothing to the first command's exit, from what is held ready against from nothing.

use std::collections::BTreeSet;

use tests::program::wait_until;

use crate::Failure;
use crate::ground::{Ground, WARM_UP};
use crate::report::{Report, Samples, Target};
use crate::service::Service;

const ROUNDS: usize = 40;

pub async fn measure(ground: &Ground, report: &mut Report) -> Result<(), Failure> {
    let rounds = ground.rounds(ROUNDS) + WARM_UP;
    // As many as are taken, so that none made meanwhile is needed, and two more, since the last may be starting yet.
    let held = rounds + 2;
    let asked = format!("host={held}");
    let warm = Service::start(&ground.program, &[("EM_WORKER__WARM", &asked)]).await?;
    let cold = Service::start(&ground.program, &[]).await?;
    wait_until("all are ready", async || ready(&warm).len() == held).await;
    let born = ready(&warm);
    let (mut ours, mut theirs) = (Samples::default(), Samples::default());
    for round in 0..rounds {
        let id = format!("env-{round}");
        let our_time = warm.first_exit(&id).await?;
        if !born.contains(warm.container(&id).await?.trim_start_matches("em-")) {
            return Err("a create did not take what was held ready".into());
        }
        let their_time = cold.first_exit(&id).await?;
        for service in [&warm, &cold] {
            service.delete(&id).await?;
        }
        if round >= WARM_UP {
            ours.push(our_time);
            theirs.push(their_time);
        }
    }
    report.ratio(
        "create to first exit, from what is held ready, `host` image",
        &ours,
        "from nothing",
        &theirs,
        Target::AtMost(0.2),
    );
    cold.stop().await?;
    warm.stop().await
}

/// The names of those that are ready.
fn ready(service: &Service) -> BTreeSet<String> {
    let entries = std::fs::read_dir(service.environments());
    let names = entries.into_iter().flatten().flatten();
    let names = names.filter_map(|entry| {
        let name = entry.file_name().into_string().ok()?;
        let ready = name.strip_prefix(".ready-")?;
        Some(ready.rsplit('-').next()?.to_owned())
    });
    names.collect()
}
