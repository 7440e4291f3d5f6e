//! The runtimes that a worker can hold its environments on, each an adapter of [`shared::ports::Runtime`].

pub mod kubernetes;
pub mod oci;
mod pauses;
