//! A command in a live environment, over HTTP and durable, against `runc exec` of the same in the same container.

use std::path::Path;
use std::time::Instant;

use serde_json::json;

use crate::Failure;
use crate::peer;
use crate::report::{Report, Samples, Target};
use crate::service::Service;

const ROUNDS: usize = 300;

pub async fn measure(program: &Path, report: &mut Report) -> Result<(), Failure> {
    let service = Service::start(program, &[]).await?;
    service
        .post("/v1/environments", &json!({"id": "bench"}), true)
        .await?;
    let container = peer::container_of(&service.environments())?;
    let (mut ours, mut theirs) = (Samples::default(), Samples::default());
    for round in 0..ROUNDS + 20 {
        let began = Instant::now();
        service.exec("bench", &["true"]).await?;
        let our_time = began.elapsed();
        let began = Instant::now();
        container.exec_true()?;
        let their_time = began.elapsed();
        if round >= 20 {
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
