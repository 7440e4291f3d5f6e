//! What the tests of the whole workspace share: the conformance suites of the ports, and the real program under test.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "everything here is a part of tests: what is wrong shall end them"
)]

pub mod conformance;
pub mod program;
