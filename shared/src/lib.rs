//! The middle of the Environment Manager: its domain, its ports, their embedded adapters.

pub mod environment;
pub mod ids;
pub mod ports;
pub mod resources;
pub mod secret;
