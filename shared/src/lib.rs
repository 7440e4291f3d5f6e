//! The middle of the Environment Manager: its domain, its ports, their embedded adapters.
//!
//! Read in this order:
//!
//! 1. [`job`] and [`environment`]: the two kinds of thing, as plain values with pure transitions.
//! 2. [`admission`]: what a request does to them.
//! 3. [`lease`]: who may act on a job, and until when.
//! 4. [`ports`]: what the domain asks of the world.

#![forbid(unsafe_code)]

pub mod admission;
pub mod artifact;
pub mod cidr;
pub mod clock;
pub mod config;
pub mod data_dir;
pub mod directory_blobs;
pub mod embedded_queue;
pub mod environment;
pub mod ids;
pub mod job;
pub mod key;
pub mod lease;
pub mod octets;
pub mod orphan;
pub mod output;
pub mod ports;
pub mod rabbitmq_queue;
pub mod resources;
pub mod room;
pub mod secret;
pub mod sqlite;
pub mod staging;
pub mod stdin;
pub mod telemetry;
