//! On a cluster: against a new exec per command, by kube-rs, by `kubectl` and by Python's client.

mod bare;
pub mod create;
pub mod endpoint;
pub mod exec;
pub mod files;
pub mod idle;
mod kubectl;
mod port;
mod python;
mod site;
