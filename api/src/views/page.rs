//! Pages of lists. An empty token ends a list.

use serde::Serialize;
use utoipa::ToSchema;

use crate::views::{ArtifactView, EnvironmentView, JobView};

/// Environments, by id.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct EnvironmentPage {
    pub(crate) environments: Vec<EnvironmentView>,
    /// Where the next page begins; empty at the end.
    pub(crate) next_page_token: String,
}

/// Jobs, newest first.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct JobPage {
    pub(crate) jobs: Vec<JobView>,
    /// Where the next page begins; empty at the end.
    pub(crate) next_page_token: String,
}

/// Artifacts, newest first.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ArtifactPage {
    pub(crate) artifacts: Vec<ArtifactView>,
    /// Where the next page begins; empty at the end.
    pub(crate) next_page_token: String,
}
