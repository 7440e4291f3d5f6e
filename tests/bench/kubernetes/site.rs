//! A namespace for one part, and the service with its environments in it.

use std::path::Path;

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use kube::api::{Api, ListParams};
use tests::cluster::{Cluster, Namespace, SMALL_IMAGE};

use super::kubectl::{self, Kubectl};
use crate::Failure;
use crate::ground::Ground;
use crate::service::Service;

/// The annotation with the caller's name of an environment.
const ENVIRONMENT: &str = "environment-manager/environment";

/// A namespace of a part's own; deleted with all that is in it at the end.
pub struct Site {
    cluster: Cluster,
    pub namespace: Namespace,
}

impl Site {
    pub async fn new(ground: &Ground) -> Self {
        let cluster = ground.cluster().await.clone();
        let namespace = cluster.namespace().await;
        Self { cluster, namespace }
    }

    /// The service with its environments in the namespace; those that name no image get the small one.
    pub async fn serve(&self, ground: &Ground, more: &[(&str, &str)]) -> Result<Service, Failure> {
        let kubeconfig = self
            .kubeconfig()
            .to_str()
            .ok_or("a path that is not UTF-8")?;
        let mut settings = vec![
            ("KUBECONFIG", kubeconfig),
            ("EM_RUNTIME__KIND", "kubernetes"),
            ("EM_RUNTIME__NAMESPACE", self.namespace.name()),
            ("EM_RUNTIME__DEFAULT_IMAGE", SMALL_IMAGE),
        ];
        settings.extend_from_slice(more);
        Service::start(&ground.program, &settings).await
    }

    pub fn kubeconfig(&self) -> &Path {
        self.cluster.kubeconfig()
    }

    /// The API server's record of requests; none where the cluster is of another making.
    pub fn audit_log(&self) -> Option<std::path::PathBuf> {
        self.cluster.audit_log()
    }

    pub async fn kubectl(&self) -> Result<Kubectl, Failure> {
        let server = self.namespace.client().apiserver_version().await?;
        let server = kubectl::minor(&server.minor).ok_or("a server without a version")?;
        Kubectl::new(self.kubeconfig(), self.namespace.name(), server)
    }

    pub fn pods(&self) -> Api<Pod> {
        self.namespace.api()
    }

    /// The name of an environment's pod.
    pub async fn pod_of(&self, environment: &str) -> Result<String, Failure> {
        let pods = self.pods().list(&ListParams::default()).await?;
        let of_it = |pod: &&Pod| {
            pod.annotations()
                .get(ENVIRONMENT)
                .is_some_and(|id| id == environment)
        };
        let pod = pods
            .iter()
            .find(of_it)
            .ok_or("an environment without a pod")?;
        Ok(pod.name_any())
    }
}
