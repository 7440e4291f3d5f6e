//! Why a command failed, in one line, and what to do next.

use std::fmt::{self, Display};
use std::io::{Write, stderr};

use shared::config::ConfigError;

/// A command's failure, as a person reads it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    /// What failed and why, a line each.
    lines: Vec<String>,
    /// What to do next, where it is not said in the line.
    advice: Option<String>,
}

impl Failure {
    /// What failed, and the reason the system gave.
    pub(crate) fn new(what: impl Display, why: impl Display) -> Self {
        Self {
            lines: vec![format!("{what}: {why}")],
            advice: None,
        }
    }

    /// A failure that says already what to do next.
    pub(crate) fn told(error: &dyn std::error::Error) -> Self {
        Self {
            lines: vec![error.to_string()],
            advice: None,
        }
    }

    /// Adds what to do next.
    pub(crate) fn advise(mut self, advice: impl Into<String>) -> Self {
        self.advice = Some(advice.into());
        self
    }

    /// Writes it to standard error. A closed standard error is nothing that could be reported.
    pub(crate) fn report(&self) {
        let mut stderr = stderr().lock();
        for line in &self.lines {
            let _ = writeln!(stderr, "error: {line}");
        }
        if let Some(advice) = &self.advice {
            let _ = writeln!(stderr, "  next: {advice}");
        }
    }
}

impl Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.lines.join("; "))
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self {
            lines: error.faults.iter().map(ToString::to_string).collect(),
            advice: None,
        }
    }
}
