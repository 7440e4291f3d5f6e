//! A large file in and out, against `tar` through `runc exec`. Both sides have it on the disk when they say so.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::Failure;
use crate::ground::Ground;
use crate::large::{self, GROWTH, Large, NAME};
use crate::peer::{self, Container};
use crate::report::{Report, Samples, Target};
use crate::service::Service;

const ROUNDS: usize = 5;

pub async fn measure(ground: &Ground, report: &mut Report) -> Result<(), Failure> {
    let large = Large::new(ground.large())?;
    let service = Service::start(&ground.program, &[]).await?;
    service.create("bench").await?;
    let container = peer::container_of("runc", &service.environments())?;
    upload(ground, &service, &container, &large, report).await?;
    download(ground, &service, &container, &large, report).await?;
    service.delete("bench").await?;
    service.stop().await
}

async fn upload(
    ground: &Ground,
    service: &Service,
    container: &Container,
    large: &Large,
    report: &mut Report,
) -> Result<(), Failure> {
    let (mut ours, mut theirs) = (Samples::default(), Samples::default());
    let before = service.forget_peak()?;
    for _ in 0..ground.rounds(ROUNDS) {
        ours.push(large::upload(service, "bench", large).await?);
        theirs.push(tar_in(container, large)?);
    }
    report.speed(
        &format!("upload of {}", large.named()),
        &ours,
        "`tar` through `runc exec`, then `sync` of the file",
        &theirs,
        Target::AtLeast(0.5),
    );
    report.growth(
        &format!("growth of the service by uploads of {}", large.named()),
        service.peak()?.saturating_sub(before),
        GROWTH,
    );
    Ok(())
}

fn tar_in(container: &Container, large: &Large) -> Result<Duration, Failure> {
    let began = Instant::now();
    let mut packing = Command::new("tar")
        .arg("-C")
        .arg(large.folder())
        .args(["-cf", "-", NAME])
        .stdout(Stdio::piped())
        .spawn()?;
    let archive = packing.stdout.take().ok_or("no pipe")?;
    let script = format!("cd /app && tar -xf - && sync {NAME}");
    let unpacked = container
        .exec(&["sh", "-c", &script])
        .stdin(archive)
        .status()?;
    if unpacked.success() && packing.wait()?.success() {
        Ok(began.elapsed())
    } else {
        Err("the peer's upload failed".into())
    }
}

async fn download(
    ground: &Ground,
    service: &Service,
    container: &Container,
    large: &Large,
    report: &mut Report,
) -> Result<(), Failure> {
    let (mut ours, mut theirs) = (Samples::default(), Samples::default());
    let before = service.forget_peak()?;
    for _ in 0..ground.rounds(ROUNDS) {
        ours.push(large::download(service, "bench", large).await?);
        let archive = ["tar", "-C", "/app", "-cf", "-", NAME];
        theirs.push(container.read(&archive, large.size)?);
    }
    report.speed(
        &format!("download of {}", large.named()),
        &ours,
        "`tar` through `runc exec`",
        &theirs,
        Target::AtLeast(0.5),
    );
    report.growth(
        &format!("growth of the service by downloads of {}", large.named()),
        service.peak()?.saturating_sub(before),
        GROWTH,
    );
    Ok(())
}
