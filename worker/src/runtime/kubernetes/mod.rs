//! Environments as pods of a Kubernetes cluster.

pub mod access;
pub mod channel;
