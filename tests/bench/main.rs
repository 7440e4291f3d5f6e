//! How fast it is: each figure beside its peer, both measured in turns in one run, so that the machine's mood hits both.
//!
//! ```text
//!   bench PROGRAM PAGE [--quick] [--only oci|kubernetes|PART...]
//!
//!   part ── measures ──▶ Report ── its rows ──▶ Page   rows of parts that were not measured stay as they were
//!     └── asks for ────▶ Bench    the program, how thorough to be, and a cluster, brought up when first asked for
//! ```
//!
//! PROGRAM is the release build. A part that fails leaves its old rows and the others alone; the exit code tells.

mod asked;
mod cold;
mod exec;
mod files;
mod full;
mod ground;
mod idle;
mod kubernetes;
mod large;
mod output;
mod page;
mod parts;
mod peer;
mod report;
mod service;
mod submit;
mod warm;

use std::panic::AssertUnwindSafe;
use std::process::ExitCode;

use futures::FutureExt as _;

use asked::Asked;
use ground::Ground;
use page::Page;
use parts::Part;
use report::Report;

type Failure = Box<dyn std::error::Error + Send + Sync>;

#[tokio::main]
async fn main() -> ExitCode {
    let asked = match Asked::read(std::env::args().skip(1)) {
        Ok(asked) => asked,
        Err(wrong) => {
            eprintln!("bench: {wrong}\nusage: {}", asked::USAGE);
            return ExitCode::from(2);
        }
    };
    let ground = Ground::new(&asked);
    tokio::select! {
        all = run(&asked, &ground) => match all {
            Ok(true) => ExitCode::SUCCESS,
            Ok(false) => ExitCode::FAILURE,
            Err(error) => {
                eprintln!("bench: {error}");
                ExitCode::FAILURE
            }
        },
        // So that the cluster is taken down.
        _ = tokio::signal::ctrl_c() => ExitCode::FAILURE,
    }
}

/// Whether every part that was asked for was measured.
async fn run(asked: &Asked, ground: &Ground) -> Result<bool, Failure> {
    let mut page = Page::open(&asked.page)?;
    let mut all = true;
    for part in &asked.parts {
        match measured(part, ground).await {
            // What a few rounds say is nothing to keep.
            Ok(_) if asked.quick => {}
            Ok(report) => page.put(part, report)?,
            Err(error) => {
                eprintln!("bench: {}: {error}", part.name);
                all = false;
            }
        }
    }
    Ok(all)
}

/// The helpers of tests end by a panic where something is wrong.
async fn measured(part: &Part, ground: &Ground) -> Result<Report, Failure> {
    let mut report = Report::default();
    let measure = AssertUnwindSafe((part.measure)(ground, &mut report));
    match measure.catch_unwind().await {
        Ok(done) => done.map(|()| report),
        Err(_) => Err("it panicked".into()),
    }
}
