//! Figures, and what is asked of them.

use std::time::{Duration, Instant};

use crate::Failure;

/// Does something that must succeed; how long it took.
pub async fn timed<T>(what: impl Future<Output = Result<T, Failure>>) -> Result<Duration, Failure> {
    let began = Instant::now();
    what.await?;
    Ok(began.elapsed())
}

/// Measured durations of one thing.
#[derive(Default)]
pub struct Samples(Vec<Duration>);

impl Samples {
    pub fn push(&mut self, sample: Duration) {
        self.0.push(sample);
    }

    /// The value below which `share` of the samples lie.
    pub fn quantile(&self, share: f64) -> Duration {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        let last = sorted.len().saturating_sub(1);
        sorted
            .get((last as f64 * share).round() as usize)
            .copied()
            .unwrap_or_default()
    }

    fn show(&self) -> String {
        format!(
            "p50 {}, p99 {} (n = {})",
            shown(self.quantile(0.5)),
            shown(self.quantile(0.99)),
            self.0.len()
        )
    }
}

fn shown(duration: Duration) -> String {
    if duration < Duration::from_secs(1) {
        format!("{:.2} ms", duration.as_secs_f64() * 1000.0)
    } else {
        format!("{:.2} s", duration.as_secs_f64())
    }
}

/// What is asked of a figure.
#[derive(Clone, Copy)]
pub enum Target {
    AtMost(f64),
    AtLeast(f64),
}

impl Target {
    fn is_met(self, value: f64) -> bool {
        match self {
            Self::AtMost(most) => value <= most,
            Self::AtLeast(least) => value >= least,
        }
    }

    fn show(self, unit: &str) -> String {
        match self {
            Self::AtMost(most) => format!("≤ {most}{unit}"),
            Self::AtLeast(least) => format!("≥ {least}{unit}"),
        }
    }
}

/// The figures of one part.
#[derive(Default)]
pub struct Report {
    rows: Vec<String>,
}

impl Report {
    /// A ratio of two measurements of the same run.
    pub fn ratio(
        &mut self,
        what: &str,
        ours: &Samples,
        peer_name: &str,
        peer: &Samples,
        target: Target,
    ) {
        let ratio = ours.quantile(0.5).as_secs_f64() / peer.quantile(0.5).as_secs_f64();
        let detail = format!("{}; {peer_name}: {}", ours.show(), peer.show());
        self.row(
            what,
            &format!("{ratio:.3} ×"),
            &target.show(" ×"),
            target.is_met(ratio),
            &detail,
        );
    }

    /// How fast something is as a share of its peer's speed.
    pub fn speed(
        &mut self,
        what: &str,
        ours: &Samples,
        peer_name: &str,
        peer: &Samples,
        target: Target,
    ) {
        let ratio = peer.quantile(0.5).as_secs_f64() / ours.quantile(0.5).as_secs_f64();
        let detail = format!("{}; {peer_name}: {}", ours.show(), peer.show());
        self.row(
            what,
            &format!("{ratio:.3} ×"),
            &target.show(" ×"),
            target.is_met(ratio),
            &detail,
        );
    }

    /// Memory that a process grew by, of which it may have so many MiB.
    pub fn growth(&mut self, what: &str, bytes: u64, most: f64) {
        let mebibytes = bytes as f64 / f64::from(1 << 20);
        self.figure(
            what,
            mebibytes,
            " MiB",
            Target::AtMost(most),
            "peak of resident memory",
        );
    }

    /// A figure with a unit.
    pub fn figure(&mut self, what: &str, value: f64, unit: &str, target: Target, detail: &str) {
        self.row(
            what,
            &format!("{value:.2}{unit}"),
            &target.show(unit),
            target.is_met(value),
            detail,
        );
    }

    fn row(&mut self, what: &str, value: &str, target: &str, met: bool, detail: &str) {
        let verdict = if met { "met" } else { "**missed**" };
        let row = format!("{what} | {value} | {target} | {verdict} | {detail} |");
        println!("{row}");
        self.rows.push(row);
    }

    /// The rows of the part's table.
    pub fn rows(self) -> Vec<String> {
        self.rows
    }
}
