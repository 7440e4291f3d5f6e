//! Work out: takes jobs from the queue, runs them on a runtime, writes down how they ended.
//!
//! ```text
//!   queue ──▶ intake ──▶ execute ──▶ jobs/KIND ──▶ links ──▶ runner, PID 1 of the environment
//!              slots      lease         │                    (start, seal, attach, files)
//!                           ▲           └──▶ runtime (create, start, stop, delete)
//!            takeover ──────┘
//!   heartbeat: I am alive      sweep: what nobody else looks after
//! ```
//!
//! Invariants: a worker acts on a job only under a lease, and writes only under its fence; a command is started only
//! where the runner says that it never was; a terminal state is written after the last byte of output; a worker that
//! cannot renew its heartbeat stops acting before anybody takes over.

pub mod runtime;

mod context;
mod distrust;
mod execute;
mod failpoint;
mod finish;
mod heartbeat;
mod intake;
mod jobs;
mod lifetimes;
mod links;
mod orphans;
mod reach;
mod republish;
mod restart;
mod sweep;
mod takeover;
mod watching;
mod worker;

pub use worker::{WorkerDeps, run};
