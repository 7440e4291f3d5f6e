//! An environment, as callers read it: what was asked for, and how it is.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Serialize;
use shared::environment::{Egress, Environment};
use shared::ids::{EnvironmentId, JobId};
use utoipa::ToSchema;

/// An isolated place to run commands in.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Environment)]
pub(crate) struct EnvironmentView {
    /// The caller's name for it.
    #[schema(value_type = String)]
    id: EnvironmentId,
    spec: SpecView,
    status: StatusView,
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
    /// The job that began its life.
    #[schema(value_type = String, format = Uuid)]
    created_by: JobId,
}

/// What was asked for, with the defaults filled in.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = EnvironmentSpec)]
pub(crate) struct SpecView {
    image: String,
    /// Names of the variables.
    env: Vec<String>,
    labels: BTreeMap<String, String>,
    resources: ResourcesView,
    network: NetworkView,
    workdir: Option<String>,
    ttl_seconds: Option<u64>,
    idle_timeout_seconds: Option<u64>,
}

/// Limits.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Resources)]
pub(crate) struct ResourcesView {
    /// Processors, such as `1` or `500m`.
    cpu: String,
    /// Bytes, such as `512Mi`.
    memory: String,
    /// Bytes of the volume, such as `10Gi`.
    storage: String,
    /// Processes and threads.
    pids: u32,
}

/// Network.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Network)]
pub(crate) struct NetworkView {
    /// `none`, `internet` or `cluster`.
    #[schema(value_type = String)]
    egress: Egress,
}

/// How an environment is.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = EnvironmentStatus)]
pub(crate) struct StatusView {
    /// `pending`, `creating`, `running`, `stopping`, `stopped`, `failed`, `deleting` or `deleted`.
    phase: &'static str,
    /// Why it is so: stable, in snake case.
    reason: Option<String>,
    /// Why it is so: for people.
    message: Option<String>,
    /// Since when.
    #[schema(value_type = String, format = DateTime)]
    since: Timestamp,
    /// Limits of the spec that cannot be enforced here.
    limits_not_enforced: Vec<String>,
    /// The runtime's name of its container or pod, while there is one.
    container: Option<String>,
    /// The cluster's namespace, where it is on one.
    namespace: Option<String>,
    /// The name of its volume there.
    volume: Option<String>,
}

impl EnvironmentView {
    pub(crate) fn of(environment: &Environment) -> Self {
        let spec = &environment.spec;
        let reason = environment.reason.as_ref();
        let place = environment.place.as_ref();
        Self {
            id: environment.id.clone(),
            spec: SpecView {
                image: spec.image.clone(),
                env: spec.env.names(),
                labels: spec.labels.clone(),
                resources: ResourcesView {
                    cpu: spec.resources.cpu.to_string(),
                    memory: spec.resources.memory.to_string(),
                    storage: spec.resources.storage.to_string(),
                    pids: spec.resources.pids,
                },
                network: NetworkView {
                    egress: spec.egress,
                },
                workdir: spec.workdir.clone(),
                ttl_seconds: spec.ttl_seconds,
                idle_timeout_seconds: spec.idle_timeout_seconds,
            },
            status: StatusView {
                phase: environment.phase.as_str(),
                reason: reason.map(|reason| reason.code.clone()),
                message: reason.map(|reason| reason.message.clone()),
                since: environment.since,
                limits_not_enforced: environment.limits_not_enforced.clone(),
                container: environment.container.clone(),
                namespace: place.map(|place| place.namespace.clone()),
                volume: place.map(|place| place.volume.clone()),
            },
            created_at: environment.created_at,
            created_by: environment.created_by,
        }
    }
}
