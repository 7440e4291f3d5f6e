//! The program `em-runner`: see [`runner`] for what it is and [`runner::run`] for its command line.

fn main() -> std::process::ExitCode {
    runner::run(std::env::args_os().skip(1))
}
