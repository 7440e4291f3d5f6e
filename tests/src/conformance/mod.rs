//! One suite per port, which every adapter passes.
//!
//! A suite takes a function that makes an empty adapter. What has to outlive the adapter, such as a folder, is held by
//! the caller.

pub mod blobs;
pub mod queue;
pub mod runtime;
pub mod store;
