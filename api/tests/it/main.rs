//! The API over real HTTP, on the embedded store, queue and blobs, with a small worker that runs commands and files in
//! a folder of its own.

#![allow(
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests fail by panicking; clippy itself excepts only the tests"
)]

mod artifacts;
mod environments;
mod errors;
mod exec;
mod files;
mod fuzz;
mod idempotency;
mod openapi;
mod original;
mod output;
mod service;
mod stdin;
mod stream;
mod worker;
mod world;
