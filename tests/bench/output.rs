//! Large output of a command that has ended, read in windows and as events, against the same through `runc exec`.

use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::Failure;
use crate::ground::Ground;
use crate::large::{self, GROWTH, Large, NAME, expect, size_of};
use crate::peer;
use crate::report::{Report, Samples, Target, timed};
use crate::service::Service;

const ROUNDS: usize = 5;

/// Bytes of a window: the most that there are.
const WINDOW: u64 = 4 << 20;

pub async fn measure(ground: &Ground, report: &mut Report) -> Result<(), Failure> {
    let large = Large::new(ground.large())?;
    let service = Service::start(&ground.program, &[]).await?;
    service.create("bench").await?;
    let container = peer::container_of("runc", &service.environments())?;
    large::upload(&service, "bench", &large).await?;
    let job = service.exec("bench", &["cat", NAME]).await?;
    let job = job["id"].as_str().ok_or("a job without an id")?;
    let (mut windows, mut events) = (Samples::default(), Samples::default());
    let mut theirs = Samples::default();
    let before = service.forget_peak()?;
    for _ in 0..ground.rounds(ROUNDS) {
        windows.push(timed(by_windows(&service, job, &large)).await?);
        events.push(timed(by_events(&service, job, &large)).await?);
        theirs.push(container.read(&["cat", &format!("/app/{NAME}")], large.size)?);
    }
    let grown = service.peak()?.saturating_sub(before);
    let size = large.named();
    for (how, ours) in [("windows of 4 MiB", &windows), ("events", &events)] {
        report.speed(
            &format!("{size} of output of a command that has ended, as {how}"),
            ours,
            "`runc exec … cat`",
            &theirs,
            Target::AtLeast(0.5),
        );
    }
    report.growth(
        &format!("growth of the service by reads of {size} of output"),
        grown,
        GROWTH,
    );
    service.delete("bench").await?;
    service.stop().await
}

/// What is looked at in a window.
#[derive(Deserialize)]
struct Window {
    #[serde(rename = "stdout")]
    _stdout: IgnoredAny,
    next_stdout_offset: u64,
    done: bool,
}

async fn by_windows(service: &Service, job: &str, large: &Large) -> Result<(), Failure> {
    let mut at = 0;
    loop {
        let url = format!("/v1/jobs/{job}/output?stdout_offset={at}&limit={WINDOW}");
        let response = service.request(reqwest::Method::GET, &url).send().await?;
        let body = response.error_for_status()?.bytes().await?;
        let window: Window = serde_json::from_slice(&body)?;
        if (body.len() as u64) < window.next_stdout_offset - at {
            return Err("a window without its bytes".into());
        }
        at = window.next_stdout_offset;
        if window.done {
            return expect(at, large.size);
        }
    }
}

async fn by_events(service: &Service, job: &str, large: &Large) -> Result<(), Failure> {
    let size = size_of(service, &format!("/v1/jobs/{job}/output/stream")).await?;
    // The content stands in events, with a frame around each.
    if size >= large.size {
        Ok(())
    } else {
        Err("the output is not whole".into())
    }
}
