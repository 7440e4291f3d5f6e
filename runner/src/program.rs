//! Chooses what this start of the program is.

use std::ffi::OsString;
use std::process::ExitCode;

use crate::args::{self, Command};

/// Runs the program with its arguments (without its name) and answers its exit code.
///
/// ```text
/// em-runner init --state DIR (--listen-fd N | --listen PATH) --volume DIR --uid N --gid N
///                [--cgroup-fd N] [--memory-cgroup-fd N] [--cpu-cgroup-fd N]
///                [--own-procs-fd N]... [--command-procs-fd N]... [--processes N]
/// em-runner connect PATH
/// em-runner install FOLDER [HOME]
/// em-runner --version
/// ```
/// `em-runner supervise` is for the program itself: the supervisor of one job.
pub fn run(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let outcome = match args::parse(arguments) {
        Ok(Command::Init(settings)) => {
            crate::init::run(&settings).map_err(|error| error.to_string())
        }
        Ok(Command::Supervise) => {
            crate::command::supervise::run().map_err(|error| error.to_string())
        }
        Ok(Command::Connect(path)) => crate::connect::run(&path).map_err(|error| error.to_string()),
        Ok(Command::Install { folder, home }) => {
            crate::install::run(&folder, home.as_deref()).map_err(|error| error.to_string())
        }
        Ok(Command::Version) => print_version(),
        Err(error) => {
            crate::complain!("em-runner: {error}");
            return ExitCode::from(2);
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            crate::complain!("em-runner: {error}");
            ExitCode::FAILURE
        }
    }
}

fn print_version() -> Result<(), String> {
    use std::io::Write;
    writeln!(std::io::stdout(), "em-runner {}", env!("CARGO_PKG_VERSION"))
        .map_err(|error| error.to_string())
}
