//! Large content: in, out, and as output, each against the same through `runc exec`.

use std::io::Read as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use serde_json::json;

use crate::Failure;
use crate::peer::{self, Container};
use crate::report::{Report, Samples, Target};
use crate::service::Service;

const GIB: u64 = 1 << 30;
const ROUNDS: usize = 3;

/// Most that the service may grow by while it moves a GiB, in MiB.
const GROWTH: f64 = 32.0;

pub async fn measure(program: &Path, report: &mut Report) -> Result<(), Failure> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("large");
    write_large(&file)?;
    let service = Service::start(program, &[]).await?;
    service
        .post("/v1/environments", &json!({"id": "bench"}), true)
        .await?;
    let container = peer::container_of(&service.environments())?;
    upload(&service, &container, &file, report).await?;
    download(&service, &container, report).await?;
    output(&service, &container, report).await?;
    service.delete("bench").await?;
    service.stop().await
}

/// A GiB that does not compress to nothing.
fn write_large(path: &Path) -> Result<(), Failure> {
    let block: Vec<u8> = (0..1_u64 << 20)
        .map(|at| b'a' + (at.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 59) as u8 % 26)
        .collect();
    let mut file = std::fs::File::create(path)?;
    for _ in 0..GIB >> 20 {
        std::io::Write::write_all(&mut file, &block)?;
    }
    Ok(())
}

async fn upload(
    service: &Service,
    container: &Container,
    file: &Path,
    report: &mut Report,
) -> Result<(), Failure> {
    let (mut ours, mut theirs) = (Samples::default(), Samples::default());
    let before = service.forget_peak()?;
    for _ in 0..ROUNDS {
        let began = Instant::now();
        let source = pieces_of(file)?;
        let url = "/v1/environments/bench/files/content?path=large";
        let request = service.request(reqwest::Method::PUT, url);
        let request = request.header("Prefer", "wait=300");
        let body = reqwest::Body::wrap_stream(source);
        request.body(body).send().await?.error_for_status()?;
        ours.push(began.elapsed());
        theirs.push(tar_in(container, file)?);
    }
    report.speed(
        "upload of 1 GiB",
        &ours,
        "`tar` through `runc exec`",
        &theirs,
        Target::AtLeast(0.5),
    );
    report.growth(
        "growth of the service by uploads of 1 GiB",
        service.peak()?.saturating_sub(before),
        GROWTH,
    );
    Ok(())
}

/// A file's bytes in pieces of a MiB.
fn pieces_of(
    file: &Path,
) -> Result<impl futures::Stream<Item = std::io::Result<Vec<u8>>> + Send + use<>, Failure> {
    let mut file = std::fs::File::open(file)?;
    let pieces = std::iter::from_fn(move || {
        let mut piece = vec![0; 1 << 20];
        match file.read(&mut piece) {
            Ok(0) => None,
            read => Some(read.map(|read| {
                piece.truncate(read);
                piece
            })),
        }
    });
    Ok(futures::stream::iter(pieces))
}

fn tar_in(container: &Container, file: &Path) -> Result<Duration, Failure> {
    let began = Instant::now();
    let folder = file.parent().ok_or("a file in no folder")?;
    let mut packing = Command::new("tar")
        .arg("-C")
        .arg(folder)
        .args(["-cf", "-", "large"])
        .stdout(Stdio::piped())
        .spawn()?;
    let archive = packing.stdout.take().ok_or("no pipe")?;
    let unpacked = container
        .exec(&["tar", "-C", "/app", "-xf", "-"])
        .stdin(archive)
        .status()?;
    if unpacked.success() && packing.wait()?.success() {
        Ok(began.elapsed())
    } else {
        Err("the peer's upload failed".into())
    }
}

async fn download(
    service: &Service,
    container: &Container,
    report: &mut Report,
) -> Result<(), Failure> {
    let (mut ours, mut theirs) = (Samples::default(), Samples::default());
    let before = service.forget_peak()?;
    for _ in 0..ROUNDS {
        let began = Instant::now();
        let url = "/v1/environments/bench/files/content?path=large";
        let response = service.request(reqwest::Method::GET, url).send().await?;
        let mut bytes = response.error_for_status()?.bytes_stream();
        let mut size = 0;
        while let Some(piece) = bytes.next().await {
            size += piece?.len() as u64;
        }
        expect(size)?;
        ours.push(began.elapsed());
        theirs.push(read_all(
            container,
            &["tar", "-C", "/app", "-cf", "-", "large"],
        )?);
    }
    report.speed(
        "download of 1 GiB",
        &ours,
        "`tar` through `runc exec`",
        &theirs,
        Target::AtLeast(0.5),
    );
    report.growth(
        "growth of the service by downloads of 1 GiB",
        service.peak()?.saturating_sub(before),
        GROWTH,
    );
    Ok(())
}

async fn output(
    service: &Service,
    container: &Container,
    report: &mut Report,
) -> Result<(), Failure> {
    let job = service.exec("bench", &["cat", "large"]).await?;
    let id = job["id"].as_str().ok_or("a job without an id")?;
    let (mut ours, mut theirs) = (Samples::default(), Samples::default());
    let before = service.forget_peak()?;
    for _ in 0..ROUNDS {
        let began = Instant::now();
        let url = format!("/v1/jobs/{id}/output/stream");
        let response = service.request(reqwest::Method::GET, &url).send().await?;
        let mut bytes = response.error_for_status()?.bytes_stream();
        let mut size = 0;
        while let Some(piece) = bytes.next().await {
            size += piece?.len() as u64;
        }
        if size < GIB {
            return Err("the output is not whole".into());
        }
        ours.push(began.elapsed());
        theirs.push(read_all(container, &["cat", "/app/large"])?);
    }
    report.speed(
        "1 GiB of output, as events",
        &ours,
        "`runc exec … cat`",
        &theirs,
        Target::AtLeast(0.5),
    );
    report.growth(
        "growth of the service by reads of 1 GiB of output",
        service.peak()?.saturating_sub(before),
        GROWTH,
    );
    Ok(())
}

fn expect(size: u64) -> Result<(), Failure> {
    if size == GIB {
        Ok(())
    } else {
        Err(format!("{size} bytes of {GIB}").into())
    }
}

/// How long it takes to read all that a command in the container writes.
fn read_all(container: &Container, command: &[&str]) -> Result<Duration, Failure> {
    let began = Instant::now();
    let mut child = container.exec(command).stdout(Stdio::piped()).spawn()?;
    let mut pipe = child.stdout.take().ok_or("no pipe")?;
    let (mut buffer, mut size) = (vec![0; 1 << 20], 0);
    loop {
        match pipe.read(&mut buffer)? {
            0 => break,
            read => size += read as u64,
        }
    }
    if size >= GIB && child.wait()?.success() {
        Ok(began.elapsed())
    } else {
        Err("the peer's read failed".into())
    }
}
