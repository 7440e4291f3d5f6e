//! The laws of the domain, tried with random sequences of everything that can happen.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "everything here is a part of tests: what is wrong shall end them"
)]

mod admission;
mod environment_machine;
mod given;
mod intake;
mod job_machine;
