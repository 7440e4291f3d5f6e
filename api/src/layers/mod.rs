//! What surrounds every route: the request's id, the log line, the counters, and the writing of errors.

mod observe;
mod render;
mod request_id;

pub(crate) use observe::observe;
pub(crate) use render::{on_panic, render};
