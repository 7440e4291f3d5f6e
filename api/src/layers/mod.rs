//! What surrounds every route: the request's id, the log line, the counters, the writing of errors, and the word that a
//! connection closes.

mod observe;
mod render;
mod request_id;
mod unread;

pub(crate) use observe::observe;
pub(crate) use render::{on_panic, render};
pub(crate) use unread::tell_of_close;
