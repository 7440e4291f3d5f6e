//! Whose a life is, written down beside it.
//!
//! The record is the last file of a new life: a folder without one that this instance wrote is not this instance's, and is
//! left alone. It is written anew once at most, when what was held ready becomes somebody's. Container, cgroups and so on
//! keep the name that they were born with, which the record knows before and after that.

use std::fs;
use std::io;
use std::path::Path;

use jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use shared::ids::{EnvironmentId, EnvironmentUid, InstanceId, TenantId};
use shared::ports::Placement;

use super::files;
use super::image::{ImageId, Person};
use super::layout::Home;

/// What `environment.json` says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    /// The installation that made it.
    pub(super) instance: InstanceId,
    /// Whose it is; nobody's while it is held ready.
    #[serde(flatten)]
    pub(super) owner: Option<Owner>,
    /// The life, or what is held ready.
    pub(super) uid: EnvironmentUid,
    /// What it was called when it was held ready, if it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) born: Option<EnvironmentUid>,
    /// The host uid (and gid) of root inside; the others follow.
    pub(super) first_host_id: u32,
    /// When it was made.
    pub(super) created_at: Timestamp,
}

/// Whose a life is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Owner {
    /// The owner.
    pub(super) tenant: TenantId,
    /// The caller's name.
    pub(super) environment: EnvironmentId,
}

impl Owner {
    /// Who asked for it.
    pub(super) fn of(placement: &Placement) -> Self {
        Self {
            tenant: placement.tenant.clone(),
            environment: placement.environment.clone(),
        }
    }
}

/// Which image a life stands on, and who its user is: in a file of its own, there before the record is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct LifeImage {
    /// The image.
    pub(super) id: ImageId,
    /// Who runs commands and owns the volume.
    pub(super) user: Person,
}

impl LifeImage {
    /// That of the life in this folder; nothing where it stands on this machine's own programs.
    pub(super) fn read(home: &Path) -> io::Result<Option<Self>> {
        read(&home.join("image.json"))
    }

    pub(super) fn write(&self, home: &Path) -> io::Result<()> {
        let bytes = serde_json::to_vec_pretty(self)?;
        files::write_whole(&home.join("image.json"), &bytes, 0o600)
    }
}

impl Record {
    /// The record of a life; nothing where there is none that can be read.
    pub(super) fn read(home: &Home) -> io::Result<Option<Self>> {
        read(&home.record())
    }

    /// What it was born with: all names but that of its folder come from it.
    pub(super) fn name(&self) -> &EnvironmentUid {
        self.born.as_ref().unwrap_or(&self.uid)
    }

    /// The OCI runtime's name of its container.
    pub(super) fn container(&self) -> String {
        format!("em-{}", self.name())
    }

    /// The name of its cgroup, the same in every hierarchy.
    pub(super) fn cgroup(&self) -> String {
        format!("environment-manager-{}-{}", self.instance, self.name())
    }

    /// The name of the cgroup of what carries its network.
    pub(super) fn network_cgroup(&self) -> String {
        format!("{}-network", self.cgroup())
    }

    pub(super) fn write(&self, home: &Home) -> io::Result<()> {
        let bytes = serde_json::to_vec_pretty(self)?;
        files::write_whole(&home.record(), &bytes, 0o600)
    }
}

fn read<T: DeserializeOwned>(path: &Path) -> io::Result<Option<T>> {
    match fs::read(path) {
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
