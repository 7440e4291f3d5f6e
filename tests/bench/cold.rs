//! From nothing to the first command's exit, against `runc run` and `runc exec` of the same root.

use std::path::Path;
use std::time::Instant;

use serde_json::json;

use crate::Failure;
use crate::peer::Bundle;
use crate::report::{Report, Samples, Target};
use crate::service::Service;

const ROUNDS: usize = 40;

pub async fn measure(program: &Path, report: &mut Report) -> Result<(), Failure> {
    let service = Service::start(program, &[]).await?;
    let bundle = Bundle::new()?;
    let (mut ours, mut theirs) = (Samples::default(), Samples::default());
    for round in 0..ROUNDS + 3 {
        let id = format!("cold-{round}");
        let began = Instant::now();
        service
            .post("/v1/environments", &json!({"id": id}), false)
            .await?;
        service.exec(&id, &["true"]).await?;
        let our_time = began.elapsed();
        service.delete(&id).await?;
        let began = Instant::now();
        bundle.run(&id)?;
        bundle.exec_true(&id)?;
        let their_time = began.elapsed();
        bundle.delete(&id)?;
        if round >= 3 {
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
