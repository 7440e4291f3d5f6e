//!

pub mod runtime;
