//! A namespace for a test, the adapter on it, and the look of an administrator.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube::api::{Api, ListParams};
use shared::clock::{Clock, SystemClock};
use shared::config::RuntimeSettings;
use shared::ids::{EnvironmentUid, InstanceId};
use shared::ports::Runtime;
use tests::cluster::{Cluster, Namespace, SMALL_IMAGE};
use tests::conformance::runtime::given::until;
use tests::conformance::runtime::{Bed, Does, Given};
use worker::runtime::kubernetes::access::{self, AccessSettings};
use worker::runtime::kubernetes::{KubernetesRuntime, KubernetesSettings};

/// A namespace of its own.
pub(crate) struct Bench {
    pub(crate) namespace: Namespace,
    kubeconfig: PathBuf,
}

impl Bench {
    pub(crate) async fn new() -> Self {
        Self::on(&Cluster::shared().await).await
    }

    pub(crate) async fn on(cluster: &Cluster) -> Self {
        Self::under(cluster, "restricted").await
    }

    /// In a namespace under a level of Pod Security.
    pub(crate) async fn under(cluster: &Cluster, security: &str) -> Self {
        Self {
            namespace: cluster.namespace_under(security).await,
            kubeconfig: cluster.kubeconfig().to_owned(),
        }
    }

    /// From now on adapters are opened by this one.
    pub(crate) fn use_kubeconfig(&mut self, path: &Path) {
        self.kubeconfig = path.to_owned();
    }

    /// The settings of the namespace, and nothing else.
    pub(crate) fn settings(&self) -> KubernetesSettings {
        KubernetesSettings {
            namespace: self.namespace.name().to_owned(),
            ..KubernetesSettings::new(&RuntimeSettings::default())
        }
    }

    /// Two adapters of one instance, as two workers have them.
    pub(crate) async fn open_twice(&self) -> [Arc<dyn Runtime>; 2] {
        let instance = InstanceId::from_random(rand::random());
        let one = self.open_as(self.settings(), instance.clone()).await;
        [one, self.open_as(self.settings(), instance).await]
    }

    /// The adapter for an instance of its own.
    pub(crate) async fn open(&self) -> Arc<dyn Runtime> {
        self.open_with(self.settings()).await
    }

    /// The adapter with these settings, once it sees the cluster.
    pub(crate) async fn open_with(&self, settings: KubernetesSettings) -> Arc<dyn Runtime> {
        let instance = InstanceId::from_random(rand::random());
        self.open_as(settings, instance).await
    }

    async fn open_as(
        &self,
        settings: KubernetesSettings,
        instance: InstanceId,
    ) -> Arc<dyn Runtime> {
        self.open_at(settings, instance, Arc::new(SystemClock))
            .await
    }

    /// The adapter for an instance, by a clock.
    pub(crate) async fn open_at(
        &self,
        settings: KubernetesSettings,
        instance: InstanceId,
        clock: Arc<dyn Clock>,
    ) -> Arc<dyn Runtime> {
        let access = AccessSettings {
            kubeconfig: Some(self.kubeconfig.clone()),
            ..AccessSettings::default()
        };
        let access = access::connect(&access).await.expect("a client");
        let runtime = KubernetesRuntime::open(access, settings, instance, clock);
        until(async || runtime.check().await.is_ok()).await;
        Arc::new(runtime)
    }

    pub(crate) async fn bed(&self) -> Bed {
        self.bed_with(self.open().await).await
    }

    pub(crate) async fn bed_with(&self, runtime: Arc<dyn Runtime>) -> Bed {
        Bed {
            runtime,
            foreign: self.open().await,
            image: SMALL_IMAGE.to_owned(),
            does: Does {
                keep_records: false,
                count_ooms_by_job: false,
                filter_calls: true,
                outlive_ooms: true,
            },
        }
    }

    pub(crate) async fn given(&self) -> Given {
        Given::new(self.bed().await)
    }

    /// The only pod of a life.
    pub(crate) async fn pod(&self, uid: &EnvironmentUid) -> Pod {
        let of_life = ListParams::default().labels(&format!("environment-manager/uid={uid}"));
        let pods: Api<Pod> = self.namespace.api();
        let mut found = pods.list(&of_life).await.expect("listed").items;
        assert_eq!(found.len(), 1, "one pod of a life");
        found.remove(0)
    }

    /// The claims of a life.
    pub(crate) async fn claims(&self, uid: &EnvironmentUid) -> Vec<PersistentVolumeClaim> {
        let of_life = ListParams::default().labels(&format!("environment-manager/uid={uid}"));
        let claims: Api<PersistentVolumeClaim> = self.namespace.api();
        claims.list(&of_life).await.expect("listed").items
    }

    /// What a failed case left would be seen by the next one; what the whole suite left is seen here.
    pub(crate) async fn assert_nothing_left(&self) {
        assert_eq!(self.namespace.objects().await, Vec::<String>::new());
    }
}
