//! Places where tests can freeze or end the whole process, as a machine would.
//!
//! Compiled only with the feature `failpoints`; `EM_FAILPOINT=NAME:stop` stops the process there (SIGSTOP),
//! `NAME:kill` kills it.

#[cfg(feature = "failpoints")]
pub(crate) fn failpoint(name: &str) {
    use nix::sys::signal::{Signal, raise};
    let Ok(set) = std::env::var("EM_FAILPOINT") else {
        return;
    };
    let signal = match set.split_once(':') {
        Some((at, "stop")) if at == name => Signal::SIGSTOP,
        Some((at, "kill")) if at == name => Signal::SIGKILL,
        _ => return,
    };
    if let Err(error) = raise(signal) {
        tracing::error!(%error, "a failpoint could not raise its signal");
    }
}

#[cfg(not(feature = "failpoints"))]
pub(crate) fn failpoint(_name: &str) {}
