//! What the adapter needs to know of the cluster and of the pods that it makes.

use std::time::Duration;

use shared::config::{NodeSelector, PodSecurity, RuntimeSettings, Tolerations};

/// The runner's image where none is set: made by this version, so that the worker and its runners fit together.
const RUNNER_IMAGE: &str = concat!("environment-manager:", env!("CARGO_PKG_VERSION"));

/// How pods and claims are made. What is `None` is left to the cluster.
#[derive(Debug, Clone, PartialEq)]
pub struct KubernetesSettings {
    /// Where all of them are.
    pub namespace: String,
    /// The class of the claims.
    pub storage_class: Option<String>,
    /// The runtime class of the pods.
    pub runtime_class: Option<String>,
    /// The account that the pods run as.
    pub service_account: Option<String>,
    /// Which nodes they may run on.
    pub node_selector: NodeSelector,
    /// Which taints they tolerate.
    pub tolerations: Tolerations,
    /// The secret with which their images are pulled.
    pub image_pull_credentials: Option<String>,
    /// Their priority class.
    pub priority_class: Option<String>,
    /// What they may do.
    pub security: PodSecurity,
    /// The image that holds the runner.
    pub runner_image: String,
    /// How long a pod may take until its container runs.
    pub start_time: Duration,
}

impl KubernetesSettings {
    /// The adapter's part of the section `runtime`.
    pub fn new(settings: &RuntimeSettings) -> Self {
        Self {
            namespace: settings.namespace.clone(),
            storage_class: filled(&settings.storage_class),
            runtime_class: filled(&settings.runtime_class),
            service_account: filled(&settings.service_account),
            node_selector: settings.node_selector.clone(),
            tolerations: settings.tolerations.clone(),
            image_pull_credentials: filled(&settings.image_pull_credentials),
            priority_class: filled(&settings.priority_class),
            security: settings.security,
            runner_image: filled(&settings.runner_image).unwrap_or_else(|| RUNNER_IMAGE.to_owned()),
            start_time: Duration::from_secs(settings.start_seconds),
        }
    }
}

fn filled(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}
