//! What the adapter's own tests start from.

use std::collections::BTreeMap;

use shared::config::RuntimeSettings;
use shared::environment::{Egress, EnvironmentSpec};
use shared::ids::{EnvironmentId, EnvironmentUid, Generation, InstanceId, TenantId};
use shared::ports::Placement;
use shared::resources::{ByteSize, Cpu, Resources};
use shared::secret::EnvVars;

use super::settings::KubernetesSettings;

pub(super) fn instance() -> InstanceId {
    InstanceId::new("instance22").unwrap()
}

pub(super) fn settings() -> KubernetesSettings {
    KubernetesSettings {
        // The version is not what these tests are about.
        runner_image: "environment-manager:VERSION".to_owned(),
        ..KubernetesSettings::new(&RuntimeSettings::default())
    }
}

pub(super) fn placement() -> Placement {
    Placement {
        tenant: TenantId::default_tenant(),
        environment: EnvironmentId::new("A.b_c").unwrap(),
        uid: EnvironmentUid::new("abcdefgh22").unwrap(),
        generation: Generation(3),
        spec: EnvironmentSpec {
            image: "debian:stable-slim".to_owned(),
            env: EnvVars::default(),
            labels: BTreeMap::new(),
            resources: Resources {
                cpu: Cpu { millis: 1500 },
                memory: ByteSize(512 << 20),
                storage: ByteSize(1 << 30),
                pids: 256,
            },
            egress: Egress::Internet,
            workdir: None,
            ttl_seconds: None,
            idle_timeout_seconds: None,
        },
    }
}
