//! What the service costs while nothing happens, and how soon it is ready.

use std::time::{Duration, Instant};

use crate::Failure;
use crate::ground::Ground;
use crate::report::{Report, Samples, Target};
use crate::service::Service;

const STARTS: usize = 9;
const IDLE: Duration = Duration::from_secs(30);

pub async fn measure(ground: &Ground, report: &mut Report) -> Result<(), Failure> {
    let (program, starts) = (&ground.program, ground.rounds(STARTS));
    let mut ready = Samples::default();
    for _ in 0..starts {
        let service = Service::start(program, &[]).await?;
        ready.push(service.ready_after);
        service.stop().await?;
    }
    let service = Service::start(program, &[]).await?;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let (before, began) = (cpu_seconds(service.pid())?, Instant::now());
    tokio::time::sleep(IDLE).await;
    let share = (cpu_seconds(service.pid())? - before) / began.elapsed().as_secs_f64() * 100.0;
    let resident = resident_mib(service.pid())?;
    service.stop().await?;
    report.figure(
        "`serve` idle: resident",
        resident,
        " MiB",
        Target::AtMost(40.0),
        "after 32 s",
    );
    report.figure(
        "`serve` idle: share of a core",
        share,
        " %",
        Target::AtMost(1.0),
        "over 30 s",
    );
    let slowest = format!(
        "slowest of {starts}: {:.0} ms",
        ready.quantile(1.0).as_secs_f64() * 1e3
    );
    report.figure(
        "start to ready, new data folder",
        ready.quantile(0.5).as_secs_f64() * 1e3,
        " ms",
        Target::AtMost(200.0),
        &slowest,
    );
    Ok(())
}

fn resident_mib(pid: u32) -> Result<f64, Failure> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .ok_or("no VmRSS")?;
    Ok(line
        .split_whitespace()
        .next()
        .ok_or("no VmRSS")?
        .parse::<f64>()?
        / 1024.0)
}

/// User and system time of a process so far.
fn cpu_seconds(pid: u32) -> Result<f64, Failure> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields: Vec<_> = stat
        .rsplit(')')
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .collect();
    let ticks = fields.get(11).ok_or("no utime")?.parse::<f64>()?
        + fields.get(12).ok_or("no stime")?.parse::<f64>()?;
    let per_second =
        nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK)?.ok_or("no clock ticks")?;
    Ok(ticks / per_second as f64)
}
