//! What the runtime holds and no environment's record stands for, until it is removed.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::ids::EnvironmentUid;

/// Which part of a life it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OrphanKind {
    /// Its running processes.
    Container,
    /// Its files, and all else that it has.
    Volume,
}

impl OrphanKind {
    /// As callers read it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Container => "container",
            Self::Volume => "volume",
        }
    }
}

/// A part of a life without a record.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Orphan {
    /// The life, as the runtime names it.
    pub uid: EnvironmentUid,
    /// Which part.
    pub kind: OrphanKind,
    /// When it was first seen without a record.
    pub since: Timestamp,
    /// When it goes, unless a record is there by then.
    pub goes_at: Timestamp,
}
