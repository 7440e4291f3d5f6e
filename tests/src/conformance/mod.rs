//! The conformance suites: one per port, which every adapter passes.

pub mod blobs;
pub mod queue;
pub mod store;
