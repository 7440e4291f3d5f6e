//! PID 1 of an environment, and the words that workers use to speak to it.
//!
//! Without the feature `server` this crate is only [`proto`], the wire contract, and its generated client: all that a
//! worker links. With it, it is the program `em-runner`:
//!
//! ```text
//!  worker ──gRPC over a Unix socket──▶ init (PID 1, not dumpable, its own uid)
//!                                       │ service    one call each, thin
//!                                       │ jobs       records, output, deadlines; one driver task per job
//!                                       │ files      with the rights of the environment's user
//!                                       │ reap       orphans
//!                                       ▼
//!                                      supervise (one per job, child subreaper, PID 1's uid)
//!                                       ▼
//!                                      the command and its tree (the user's uid, no capabilities)
//! ```
//!
//! The supervisor exists so that whatever the command forks, however it detaches, stays under one process as long as
//! the job runs; PID 1 would else mix the orphans of all jobs.

/// The wire contract, generated from `proto/runner.proto`: read that file first.
#[allow(
    missing_docs,
    clippy::all,
    clippy::pedantic,
    unreachable_pub,
    reason = "generated code"
)]
pub mod proto {
    tonic::include_proto!("environment_manager.runner.v1");
}

/// Bytes of each output stream's end that are kept beyond a job's output limit.
pub const TAIL_BYTES: u64 = 64 * 1024;

/// The largest `data` of a frame in either direction, in bytes.
pub const MAX_FRAME_BYTES: usize = 256 * 1024;

/// The largest frame of HTTP/2 that either end takes, in bytes: with the least, what is large costs each end and everything
/// between them sixteen times as many steps.
pub const HTTP2_FRAME_BYTES: u32 = 256 * 1024;

/// The largest message in either direction, in bytes.
pub const MAX_MESSAGE_BYTES: usize = 4 * 1024 * 1024;

/// Says something on standard error. Unlike `eprintln!` it does not panic where that cannot be written, such as on a full
/// disk, which PID 1 must outlive.
#[cfg(feature = "server")]
macro_rules! complain {
    ($($words:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stderr(), $($words)*);
    }};
}
#[cfg(feature = "server")]
pub(crate) use complain;

#[cfg(feature = "server")]
mod args;
#[cfg(feature = "server")]
mod clock;
#[cfg(feature = "server")]
mod command;
#[cfg(feature = "server")]
mod connect;
#[cfg(feature = "server")]
mod files;
#[cfg(feature = "server")]
mod ids;
#[cfg(feature = "server")]
mod init;
#[cfg(feature = "server")]
mod install;
#[cfg(feature = "server")]
mod jobs;
#[cfg(feature = "server")]
mod peer;
#[cfg(feature = "server")]
mod program;
#[cfg(feature = "server")]
mod reap;
#[cfg(feature = "server")]
mod service;
#[cfg(feature = "server")]
mod socket;
#[cfg(feature = "server")]
mod sys;

#[cfg(feature = "server")]
pub use program::run;
