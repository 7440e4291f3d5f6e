//! Whose a life is, written down beside it.
//!
//! The record is the last file of a new life and is never changed after that: a folder without one that this instance
//! wrote is not this instance's, and is left alone.

use std::fs;
use std::io;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use shared::ids::{EnvironmentId, EnvironmentUid, InstanceId, TenantId};

use super::files;
use super::layout::Home;

/// What `environment.json` says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    /// The installation that made it.
    pub(super) instance: InstanceId,
    /// The owner.
    pub(super) tenant: TenantId,
    /// The caller's name.
    pub(super) environment: EnvironmentId,
    /// The life.
    pub(super) uid: EnvironmentUid,
    /// The host uid (and gid) of root inside; the others follow.
    pub(super) first_host_id: u32,
    /// When it was made.
    pub(super) created_at: Timestamp,
}

impl Record {
    /// The record of a life; nothing where there is none that can be read.
    pub(super) fn read(home: &Home) -> io::Result<Option<Self>> {
        match fs::read(home.record()) {
            Ok(bytes) => Ok(serde_json::from_slice(&bytes).ok()),
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
                ) =>
            {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    pub(super) fn write(&self, home: &Home) -> io::Result<()> {
        let bytes = serde_json::to_vec_pretty(self)?;
        files::write_whole(&home.record(), &bytes, 0o600)
    }
}
