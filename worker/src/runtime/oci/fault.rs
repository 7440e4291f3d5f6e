//! How what went wrong on this machine is said in the words of the port.

use std::fmt::Display;

use shared::environment::Reason;
use shared::ports::RuntimeError;

/// Something on this machine refused, and may not refuse for ever: no room, no descriptors, no permission yet.
pub(super) fn unavailable<E: Display>(doing: impl Display) -> impl FnOnce(E) -> RuntimeError {
    move |error| RuntimeError::Unavailable(format!("{doing}: {error}"))
}

/// It would fail again in the same way.
pub(super) fn failed(code: &str, message: impl Into<String>) -> RuntimeError {
    RuntimeError::Failed(Reason::new(code, message))
}
