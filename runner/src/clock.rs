//! Wall-clock time for records. Everything that measures or waits uses the monotonic clock instead.

use std::time::{SystemTime, UNIX_EPOCH};

/// Milliseconds since 1970 in UTC; 0 if the clock is before that.
#[allow(
    clippy::disallowed_methods,
    reason = "the runner has no injected clock: its records are told apart by id, never by time"
)]
pub(crate) fn unix_ms() -> i64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
