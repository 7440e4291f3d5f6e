//! What the process tells of itself: one log, on standard error, as text for people or JSON for programs.
//!
//! Standard output stays free for what a command answers. No secret reaches a log: values that must not be printed are
//! [`crate::secret::Secret`]s, which do not print themselves; and what a library would tell of the bytes that it carries is
//! left out at every level.

use std::io::IsTerminal;

use tracing::{Level, Metadata};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::config::{LogFormat, TelemetrySettings};

/// The library of the streams to environments in pods. It traces every frame with what is in it.
const TELLS_ALL: &str = "tungstenite";

/// Why logging cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The level is neither a level nor a filter.
    #[error(
        "{level:?} is neither a level (error, warn, info, debug, trace) nor a filter such as info,worker=debug"
    )]
    Level {
        /// As it was written.
        level: String,
    },
    /// Logging was begun before in this process.
    #[error("logging has begun already")]
    Begun,
}

/// Begins to log, for the rest of the process's life.
pub fn begin(settings: &TelemetrySettings) -> Result<(), TelemetryError> {
    let terminal = std::io::stderr().is_terminal();
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter(&settings.level)?)
        .with_writer(std::io::stderr)
        // Told on standard error too, such a failure would be a panic of whoever had something to say.
        .log_internal_errors(false)
        .with_ansi(terminal);
    let text = match settings.log {
        LogFormat::Text => true,
        LogFormat::Json => false,
        LogFormat::Auto => terminal,
    };
    let begun = if text {
        log.finish().with(filter_fn(is_told)).try_init()
    } else {
        log.json()
            .flatten_event(true)
            .with_span_list(false)
            .finish()
            .with(filter_fn(is_told))
            .try_init()
    };
    begun.map_err(|_| TelemetryError::Begun)
}

/// Whether an event is told where the settings have it told.
fn is_told(metadata: &Metadata<'_>) -> bool {
    *metadata.level() < Level::TRACE || !metadata.target().starts_with(TELLS_ALL)
}

/// Reads a level, or a filter per module.
pub(crate) fn filter(level: &str) -> Result<EnvFilter, TelemetryError> {
    // A word that is no level would be taken for a module's name, and nothing would be logged.
    let is_word = level.bytes().all(|byte| byte.is_ascii_alphanumeric());
    let is_level = level.parse::<tracing::Level>().is_ok() || level == "off";
    EnvFilter::try_new(level)
        .ok()
        .filter(|_| !is_word || is_level)
        .ok_or_else(|| TelemetryError::Level {
            level: level.to_owned(),
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_and_filters_are_read_and_typing_errors_refused() {
        for good in [
            "info",
            "off",
            "DEBUG",
            "warn,worker=debug",
            "shared::sqlite=trace",
        ] {
            assert!(filter(good).is_ok(), "{good}");
        }
        for bad in ["", "loud", "inof", "worker=loud", "a=b=c"] {
            assert!(filter(bad).is_err(), "{bad}");
        }
    }
}
