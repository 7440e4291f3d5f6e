//! How fast it is: each figure beside its peer, both measured in turns in one run, so that the machine's mood hits both.
//!
//! `bench PROGRAM OUT` measures the release build at PROGRAM and writes the Markdown page OUT. The peers are `runc` by
//! itself and the store alone.

mod cold;
mod exec;
mod full;
mod idle;
mod peer;
mod report;
mod service;
mod submit;
mod transfer;

use std::path::PathBuf;
use std::process::ExitCode;

use report::Report;

type Failure = Box<dyn std::error::Error + Send + Sync>;

#[tokio::main]
async fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1).map(PathBuf::from);
    let (Some(program), Some(out)) = (arguments.next(), arguments.next()) else {
        eprintln!("usage: bench PROGRAM OUT");
        return ExitCode::from(2);
    };
    match run(&program)
        .await
        .and_then(|report| Ok(std::fs::write(out, report.page())?))
    {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(program: &std::path::Path) -> Result<Report, Failure> {
    let mut report = Report::default();
    exec::measure(program, &mut report).await?;
    cold::measure(program, &mut report).await?;
    submit::measure(program, &mut report).await?;
    idle::measure(program, &mut report).await?;
    transfer::measure(program, &mut report).await?;
    full::measure(program, &mut report).await?;
    Ok(report)
}
