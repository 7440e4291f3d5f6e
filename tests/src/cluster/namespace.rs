//! A namespace of one test.

use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{
    Event, Namespace as Object, PersistentVolume, PersistentVolumeClaim, Pod, ServiceAccount,
};
use kube::api::{Api, DeleteParams, ListParams, LogParams, PostParams};
use kube::{Client, Resource, ResourceExt as _};
use serde_json::json;

use super::picture;
use crate::program::wait_until;

/// The part of a volume that an environment sees.
const HOME: &str = "app";

/// A new namespace under a level of Pod Security. When it is dropped it is deleted with all that is in it; when the
/// test has failed, what is in it is shown first.
pub struct Namespace {
    kubeconfig: PathBuf,
    name: String,
    client: Client,
}

impl Namespace {
    pub(super) async fn new(kubeconfig: &Path, security: &str) -> Self {
        let client = super::client(kubeconfig).await;
        let name = format!("test-{:016x}", rand::random::<u64>());
        let labels = json!({
            "environment-manager.test": "true",
            "pod-security.kubernetes.io/enforce": security,
            "pod-security.kubernetes.io/enforce-version": "latest",
        });
        let object = json!({ "metadata": { "name": name, "labels": labels } });
        let object: Object = serde_json::from_value(object).expect("a namespace");
        Api::all(client.clone())
            .create(&PostParams::default(), &object)
            .await
            .expect("created");
        // Pods are refused as long as their account is not there.
        let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), &name);
        wait_until("the namespace has its account", async || {
            accounts.get("default").await.is_ok()
        })
        .await;
        Self {
            kubeconfig: kubeconfig.to_owned(),
            name,
            client,
        }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A client of the administrator.
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// The names of all pods and claims in it.
    pub async fn objects(&self) -> Vec<String> {
        let all = ListParams::default();
        let pods = self.api::<Pod>().list(&all).await.expect("listed");
        let claims = self.api::<PersistentVolumeClaim>().list(&all).await;
        let pods = pods.iter().map(|pod| format!("pod {}", pod.name_any()));
        let claims = claims.expect("listed").items.into_iter();
        let claims = claims.map(|claim| format!("claim {}", claim.name_any()));
        pods.chain(claims).collect()
    }

    /// The only pod in it.
    pub async fn pod(&self) -> Pod {
        let pods = self.api::<Pod>().list(&ListParams::default()).await;
        let mut pods = pods.expect("listed").items;
        assert_eq!(pods.len(), 1, "{pods:?}");
        pods.remove(0)
    }

    /// All that the API server tells of its pods and claims, their events and the logs of their containers.
    pub async fn told(&self) -> String {
        let all = ListParams::default();
        let pods: Api<Pod> = self.api();
        let found = pods.list(&all).await.expect("listed");
        let claims = self.api::<PersistentVolumeClaim>().list(&all).await;
        let events = self.api::<Event>().list(&all).await.expect("listed");
        let mut told = json!([found, claims.expect("listed"), events]).to_string();
        for pod in &found {
            let log = pods.logs(&pod.name_any(), &LogParams::default()).await;
            told.push_str(&log.expect("its log"));
        }
        told
    }

    /// Where on the node the volumes of its claims lie, as far as environments see them.
    pub async fn volumes(&self) -> Vec<PathBuf> {
        let all = ListParams::default();
        let claims = self.api::<PersistentVolumeClaim>().list(&all).await;
        let volumes: Api<PersistentVolume> = Api::all(self.client.clone());
        let mut found = Vec::new();
        for claim in claims.expect("listed") {
            let name = claim.spec.and_then(|spec| spec.volume_name);
            let volume = volumes
                .get(&name.expect("it is bound"))
                .await
                .expect("read");
            let spec = volume.spec.expect("a spec");
            let local = spec.local.map(|local| local.path);
            let path = local.or(spec.host_path.map(|host| host.path));
            found.push(Path::new(&path.expect("it lies on the node")).join(HOME));
        }
        found
    }

    /// The objects of a kind in it.
    pub fn api<K>(&self) -> Api<K>
    where
        K: Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.client.clone(), &self.name)
    }
}

impl Drop for Namespace {
    /// On a thread and a runtime of its own: the test's may be ending.
    fn drop(&mut self) {
        let failed = std::thread::panicking();
        let (kubeconfig, name) = (self.kubeconfig.clone(), self.name.clone());
        let cleaning = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime");
            runtime.block_on(clear(&kubeconfig, &name, failed));
        });
        if cleaning.join().is_err() {
            eprintln!("the namespace {} stays", self.name);
        }
    }
}

async fn clear(kubeconfig: &Path, name: &str, failed: bool) {
    let client = super::client(kubeconfig).await;
    if failed {
        eprintln!("{}", picture::of(&client, name).await);
    }
    let namespaces: Api<Object> = Api::all(client);
    namespaces
        .delete(name, &DeleteParams::background())
        .await
        .expect("deleted");
}
