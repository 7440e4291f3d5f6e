//! The original endpoint for commands, against the same endpoint made of FastAPI and Python's Kubernetes client.

use serde_json::{Value, json};

use super::python::Python;
use super::site::Site;
use crate::Failure;
use crate::ground::{Ground, WARM_UP};
use crate::report::{Report, Samples, Target, timed};
use crate::service::Service;

const ROUNDS: usize = 100;
const COMMAND: &str = "echo said";

pub async fn measure(ground: &Ground, report: &mut Report) -> Result<(), Failure> {
    let site = Site::new(ground).await;
    let service = site.serve(ground, &[]).await?;
    service.create("bench").await?;
    let pod = site.pod_of("bench").await?;
    let python = Python::start(&site).await?;
    let (mut ours, mut theirs) = (Samples::default(), Samples::default());
    for round in 0..ground.rounds(ROUNDS) + WARM_UP {
        let our_time = timed(async { expect(&exec(&service).await?) }).await?;
        let their_time = timed(async { expect(&python.exec(&pod, COMMAND).await?) }).await?;
        if round >= WARM_UP {
            ours.push(our_time);
            theirs.push(their_time);
        }
    }
    report.ratio(
        "`POST /exec_in_environment`",
        &ours,
        "FastAPI and Python's `stream()`",
        &theirs,
        Target::AtMost(0.2),
    );
    service.delete("bench").await?;
    service.stop().await
}

async fn exec(service: &Service) -> Result<Value, Failure> {
    let body = json!({"environment_id": "bench", "command": COMMAND});
    service.post("/exec_in_environment", &body, false).await
}

fn expect(answer: &Value) -> Result<(), Failure> {
    if answer["exit_code"] == 0 && answer["stdout"].as_str().map(str::trim) == Some("said") {
        Ok(())
    } else {
        Err(format!("an answer that does not fit: {answer}").into())
    }
}
