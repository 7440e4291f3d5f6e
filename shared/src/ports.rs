//! The four seams, on one screen: what the domain asks of the world.
//!
//! Each port is a narrow trait with one error type, chosen once from the settings as an `Arc<dyn …>`, and has one
//! conformance suite in `tests/` that every adapter passes.

mod runtime;

pub use runtime::{
    Holding, Lane, Placement, RunnerIo, Runtime, RuntimeError, RuntimeOffer, Sight, Started,
};
