//! What is wrong with the settings, and where each of them came from.

use std::fmt;
use std::path::PathBuf;

/// Where a setting's value was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Nowhere: it is the program's own.
    Default,
    /// In this file.
    File(PathBuf),
    /// In the environment variable of this name.
    Variable(String),
    /// In this flag of the command line.
    Flag(&'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path) => write!(f, "file {}", path.display()),
            Self::Variable(name) => write!(f, "variable {name}"),
            Self::Flag(flag) => write!(f, "flag {flag}"),
        }
    }
}

/// One thing that is wrong: which setting, from where, why, and what to write instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{at}: {message}")]
pub struct Fault {
    /// The key and its origin.
    pub at: String,
    /// What is wrong and what helps.
    pub message: String,
}

impl Fault {
    /// A fault of the setting `key` whose value came from `origin`.
    pub(super) fn of(key: &str, origin: &Origin, message: impl Into<String>) -> Self {
        Self {
            at: format!("{key} ({origin})"),
            message: message.into(),
        }
    }

    /// A fault of a whole source, such as a file that cannot be read.
    pub(super) fn of_source(origin: &Origin, message: impl Into<String>) -> Self {
        Self {
            at: origin.to_string(),
            message: message.into(),
        }
    }
}

/// Settings that cannot be used: everything that is wrong with them at once, at least one fault.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct ConfigError {
    /// In the order of the sources, then of the keys.
    pub faults: Vec<Fault>,
}

impl From<Fault> for ConfigError {
    fn from(fault: Fault) -> Self {
        Self {
            faults: vec![fault],
        }
    }
}

/// One fault a line.
impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, fault) in self.faults.iter().enumerate() {
            let separator = if index == 0 { "" } else { "\n" };
            write!(f, "{separator}{fault}")?;
        }
        Ok(())
    }
}
