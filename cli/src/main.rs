//! The program `environment-manager`.
//!
//! Reads the command line, runs the command, and turns its failure into one line and an exit code: 1 for a failure, 2
//! for a wrong command line.

#![forbid(unsafe_code)]

mod args;
mod config_command;
mod doctor;
mod failure;
mod image_command;
mod key_file;
mod keys;
mod print;
mod roles;
mod rootless;
mod serve;
mod signals;
mod wire;

use std::process::ExitCode;

use clap::Parser;

use crate::args::{Args, Command, ConfigCommand};
use crate::failure::Failure;

fn main() -> ExitCode {
    match run(&Args::parse().command) {
        Ok(code) => code,
        Err(failure) => {
            failure.report();
            ExitCode::FAILURE
        }
    }
}

fn run(command: &Command) -> Result<ExitCode, Failure> {
    match command {
        Command::Serve(settings) => return serve::serve(settings),
        Command::Doctor(settings) => return doctor::run(settings),
        Command::Unshare(args) => return rootless::unshare(&args.command),
        Command::Openapi => openapi()?,
        Command::Image(command) => image_command::run(command)?,
        Command::Config(ConfigCommand::Check(settings)) => config_command::check(settings)?,
        Command::Config(ConfigCommand::Show(settings)) => config_command::show(settings)?,
        Command::Version => print::line(&format!(
            "environment-manager {}",
            env!("CARGO_PKG_VERSION")
        ))?,
    }
    Ok(ExitCode::SUCCESS)
}

fn openapi() -> Result<(), Failure> {
    let document = api::openapi()
        .to_pretty_json()
        .map_err(|error| Failure::new("the OpenAPI document cannot be written", error))?;
    print::line(&document)
}
