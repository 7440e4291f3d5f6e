//! How a stream ended, and what was complained of before: for a person's eyes, so short, and never taken for an answer.

use std::fmt;

use serde::Deserialize;
use tokio_tungstenite::tungstenite;

use super::frames::Malformed;

/// Bytes of complaints that are kept: the last ones.
const COMPLAINT_BYTES: usize = 2048;

/// Bytes of a status that are looked at.
const STATUS_BYTES: usize = 64 * 1024;

/// Characters of somebody else's words that are repeated.
const QUOTED: usize = 512;

/// How a stream ended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum End {
    /// `connect` ended well: the runner closed its side.
    #[error("the runner closed the connection")]
    Success,
    /// `connect` failed, or never ran.
    #[error("{0}")]
    Failure(String),
    /// Nothing is known: it was cut.
    #[error("the stream ended without a status")]
    NoStatus,
    /// The connection broke.
    #[error("the stream broke: {0}")]
    Broken(String),
    /// The server does not speak the protocol.
    #[error("the server sent {0}")]
    Malformed(String),
}

impl From<&tungstenite::Error> for End {
    fn from(error: &tungstenite::Error) -> Self {
        Self::Broken(error.to_string())
    }
}

impl From<Malformed> for End {
    fn from(malformed: Malformed) -> Self {
        Self::Malformed(malformed.to_string())
    }
}

/// The part of a `Status` object that says how it went.
#[derive(Deserialize)]
struct Status {
    status: Option<String>,
    #[serde(default)]
    message: String,
}

impl End {
    /// Reads the message of the status channel. What is no success is a failure.
    pub(super) fn of_status(bytes: &[u8]) -> Self {
        if bytes.len() > STATUS_BYTES {
            return Self::Malformed(format!("a status of {} bytes", bytes.len()));
        }
        match serde_json::from_slice::<Status>(bytes) {
            Ok(Status { status, .. }) if status.as_deref() == Some("Success") => Self::Success,
            Ok(Status { message, .. }) => Self::Failure(quoted(&message)),
            Err(_) => Self::Malformed("a status that is none".to_owned()),
        }
    }

    /// The same with what was complained of before.
    pub(super) fn with(self, complaints: &Complaints) -> Self {
        match self {
            Self::Failure(message) if !complaints.0.is_empty() => {
                Self::Failure(format!("{message} ({complaints})"))
            }
            Self::NoStatus if !complaints.0.is_empty() => {
                Self::Broken(format!("no status came ({complaints})"))
            }
            other => other,
        }
    }
}

/// The last of what came on standard error.
#[derive(Debug, Default)]
pub(super) struct Complaints(Vec<u8>);

impl Complaints {
    pub(super) fn add(&mut self, bytes: &[u8]) {
        let bytes = bytes
            .get(bytes.len().saturating_sub(COMPLAINT_BYTES)..)
            .unwrap_or_default();
        self.0.extend_from_slice(bytes);
        self.0.drain(..self.0.len().saturating_sub(COMPLAINT_BYTES));
    }
}

impl fmt::Display for Complaints {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&quoted(&String::from_utf8_lossy(&self.0)))
    }
}

/// A stranger's words on one line, without control characters, cut where they grow long.
fn quoted(text: &str) -> String {
    let visible = |character: char| match character {
        character if character.is_control() => ' ',
        character => character,
    };
    text.trim().chars().take(QUOTED).map(visible).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_success_is_one() {
        assert_eq!(End::of_status(br#"{"status":"Success"}"#), End::Success);
        let failure = br#"{"status":"Failure","message":"it\nended","code":500}"#;
        assert_eq!(End::of_status(failure), End::Failure("it ended".to_owned()));
        for nothing in [&b""[..], b"{", b"[]", b"\"Success\"", &vec![b' '; 70_000]] {
            assert!(
                matches!(End::of_status(nothing), End::Malformed(_)),
                "{nothing:?}"
            );
        }
        assert!(matches!(End::of_status(b"{}"), End::Failure(_)));
    }

    #[test]
    fn complaints_are_bounded_and_keep_the_end() {
        let mut complaints = Complaints::default();
        complaints.add(&[b'a'; 10 * COMPLAINT_BYTES]);
        assert_eq!(complaints.0.len(), COMPLAINT_BYTES);
        complaints.add(b"\x1b[31mend");
        assert_eq!(complaints.0.len(), COMPLAINT_BYTES);
        assert!(complaints.0.ends_with(b"end"));
        let mut few = Complaints::default();
        few.add(b"\x1b[31mend\xff");
        let told = End::NoStatus.with(&few).to_string();
        assert!(told.contains("[31mend") && !told.contains('\x1b'), "{told}");
    }
}
