//! HTTP in: routes, auth, waiting. It knows nothing of containers.
//!
//! ```text
//!            layers/                    extract/            routes/, legacy/
//!   request ─▶ id, log, count ─▶ key ─▶ body, query, … ──▶ one file per resource
//!                                                              │ submit: one commit, then a hint to the queue
//!                                                              ▼
//!   answer ◀── problem.rs: every error ◀── views/ ◀───────── store ◀── wait: watch, read, wait again
//! ```
//!
//! Invariants: `202` is answered only after a durable commit; what is answered is built from `views`, never from the
//! stored records, so that no value of a variable leaves the service; every error becomes a response in one place,
//! `problem.rs`; whatever a caller sends, the answer is never a 500.
//!
//! Start reading at `router.rs`: every route on one screen.

#![forbid(unsafe_code)]

mod answer;
mod auth;
mod document;
mod download;
mod extract;
mod layers;
mod legacy;
mod problem;
mod router;
mod routes;
mod serve;
mod service;
mod stage;
mod submit;
mod validate;
mod views;
mod wait;

pub use document::openapi;
pub use router::router;
pub use serve::serve;
pub use service::{ApiDeps, Check, ReadyCheck};
