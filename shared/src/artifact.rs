//! A file that was copied out of an environment and indexed.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::ids::{ArtifactId, EnvironmentId, JobId, TenantId};
use crate::octets::Octets;

/// One published file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Artifact {
    /// Derived from the publish job's id.
    pub id: ArtifactId,
    /// The owner.
    pub tenant: TenantId,
    /// The job that published it.
    pub job: JobId,
    /// Where it came from.
    pub environment: EnvironmentId,
    /// Its path there.
    pub path: Octets,
    /// The bucket that holds it.
    pub bucket: String,
    /// Its name in the bucket.
    pub object: String,
    /// Where its bytes are, as other services read it (`gs://…`, `file://…`).
    pub uri: String,
    /// In bytes.
    pub size: u64,
    /// Of the content, in hexadecimal.
    pub sha256: String,
    /// When it was indexed.
    pub created_at: Timestamp,
    /// The name under which this service is known to others.
    pub agent_name: String,
    /// The plan whose task refers to it.
    pub execution_plan_id: Option<String>,
    /// The task of that plan.
    pub task_id: Option<String>,
    /// The caller's own words about it.
    #[serde(default)]
    pub metadata: BTreeMap<String, String>,
}
