//! PID 1 of an environment, and the words that workers use to speak to it.
//!
//! Without the feature `server` this crate is only [`proto`], the wire contract, and its generated client: all that a
//! worker links. The program itself is `main.rs`.

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
