//! An artifact, as callers read it.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Serialize;
use shared::artifact::Artifact;
use shared::ids::{ArtifactId, EnvironmentId, JobId};
use utoipa::ToSchema;

use crate::views::text::Texts;

/// A file that was copied out of an environment and indexed.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Artifact)]
pub(crate) struct ArtifactView {
    #[schema(value_type = String)]
    id: ArtifactId,
    /// The job that published it.
    #[schema(value_type = String, format = Uuid)]
    job: JobId,
    #[schema(value_type = String)]
    environment: EnvironmentId,
    /// Its path in the environment.
    path: String,
    /// `base64` where the path is not UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    encoding: Option<&'static str>,
    bucket: String,
    /// Its name in the bucket.
    object: String,
    /// Where its bytes are.
    uri: String,
    /// In bytes.
    size: u64,
    /// Of the content, in hexadecimal.
    sha256: String,
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
    agent_name: String,
    execution_plan_id: Option<String>,
    task_id: Option<String>,
    metadata: BTreeMap<String, String>,
}

impl ArtifactView {
    pub(crate) fn of(artifact: &Artifact) -> Self {
        let texts = Texts::of([&artifact.path]);
        Self {
            id: artifact.id.clone(),
            job: artifact.job,
            environment: artifact.environment.clone(),
            path: texts.show(&artifact.path),
            encoding: texts.encoding(),
            bucket: artifact.bucket.clone(),
            object: artifact.object.clone(),
            uri: artifact.uri.clone(),
            size: artifact.size,
            sha256: artifact.sha256.clone(),
            created_at: artifact.created_at,
            agent_name: artifact.agent_name.clone(),
            execution_plan_id: artifact.execution_plan_id.clone(),
            task_id: artifact.task_id.clone(),
            metadata: artifact.metadata.clone(),
        }
    }
}
