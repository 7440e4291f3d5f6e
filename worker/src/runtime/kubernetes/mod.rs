//! Environments as pods of a Kubernetes cluster, each with a claim for its volume.

pub mod access;
pub mod channel;
mod settings;

pub use settings::KubernetesSettings;
