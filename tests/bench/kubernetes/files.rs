//! A large file in and out of a pod, against one exec stream as it is and against `kubectl cp`.

use super::bare::Stream;
use super::kubectl::Kubectl;
use super::port;
use super::site::Site;
use crate::Failure;
use crate::ground::Ground;
use crate::large::{self, GROWTH, Large, NAME};
use crate::report::{Report, Samples, Target};

const ROUNDS: usize = 3;

pub async fn measure(ground: &Ground, report: &mut Report) -> Result<(), Failure> {
    let large = Large::new(ground.large())?;
    let site = Site::new(ground).await;
    let service = site.serve(ground, &[]).await?;
    service.create("bench").await?;
    let (kubectl, pod) = (site.kubectl().await?, site.pod_of("bench").await?);
    let access = port::access(&site).await?;
    let bare = Stream {
        client: access.exec,
        namespace: site.namespace.name().to_owned(),
        pod: pod.clone(),
    };
    let home = format!("{pod}:/app");
    let inside = format!("{home}/by-kubectl");
    let source = large
        .path()
        .to_str()
        .ok_or("a path that is not UTF-8")?
        .to_owned();
    let copy = format!("{source}-back");

    let mut up: [Samples; 3] = Default::default();
    let mut growth = Vec::new();
    let before = service.forget_peak()?;
    for _ in 0..ground.rounds(ROUNDS) {
        up[0].push(large::upload(&service, "bench", &large).await?);
        settle().await?;
        up[1].push(bare.up("/app/bare", &large).await?);
        settle().await?;
        up[2].push(kubectl.run(&["cp", &source, &inside])?);
        settle().await?;
    }
    growth.push(("uploads", service.peak()?.saturating_sub(before)));
    let mut down: [Samples; 3] = Default::default();
    let before = service.forget_peak()?;
    for _ in 0..ground.rounds(ROUNDS) {
        down[0].push(large::download(&service, "bench", &large).await?);
        down[1].push(bare.down(&format!("/app/{NAME}"), &large).await?);
        down[2].push(kubectl.run(&["cp", &inside, &copy])?);
        settle().await?;
    }
    growth.push(("downloads", service.peak()?.saturating_sub(before)));

    rows(report, "upload", &large, &kubectl, &up, 0.5);
    rows(report, "download", &large, &kubectl, &down, 0.8);
    for (of, bytes) in growth {
        let what = format!("growth of the service by {of} of {}", large.named());
        report.growth(&what, bytes, GROWTH);
    }
    service.delete("bench").await?;
    service.stop().await
}

/// Puts on the disk what was written: a peer leaves that to whoever comes next, in whose measured time it would fall.
async fn settle() -> Result<(), Failure> {
    Ok(tokio::task::spawn_blocking(nix::unistd::sync).await?)
}

fn rows(
    report: &mut Report,
    way: &str,
    large: &Large,
    by: &Kubectl,
    samples: &[Samples; 3],
    least: f64,
) {
    let what = format!("{way} of {}", large.named());
    let [ours, bare, kubectl] = samples;
    let by_itself = "one exec stream of `cat` by itself, read or written at the WebSocket";
    report.speed(&what, ours, by_itself, bare, Target::AtLeast(least));
    let copied = format!("`kubectl cp` of {}", by.version);
    report.speed(&what, ours, &copied, kubectl, Target::AtLeast(1.0));
}
