//! The cluster of the tests is a real one, and leaves nothing behind.

use std::path::Path;
use std::process::Command;

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube::Api;
use kube::api::{DeleteParams, PostParams};
use serde_json::json;
use tests::cluster::{Cluster, DEBIAN_IMAGE, NEVER_CLASS, Namespace, Part, SMALL_IMAGE};
use tests::program::{processes_with, wait_until};

/// A pod that Pod Security `restricted` admits; it runs the script, and has the claim `volume` at `/app`.
fn pod(image: &str, script: &str) -> Pod {
    let confined =
        json!({ "allowPrivilegeEscalation": false, "capabilities": { "drop": ["ALL"] } });
    let pod = json!({
        "metadata": { "name": "pod" },
        "spec": {
            "automountServiceAccountToken": false,
            "dnsPolicy": "Default",
            "restartPolicy": "Never",
            "securityContext": {
                "runAsNonRoot": true, "runAsUser": 1000, "runAsGroup": 1000, "fsGroup": 1000,
                "seccompProfile": { "type": "RuntimeDefault" },
            },
            "containers": [{
                "name": "main", "image": image, "command": ["sh", "-c", script], "securityContext": confined,
                "volumeMounts": [{ "name": "volume", "mountPath": "/app" }],
            }],
            "volumes": [{ "name": "volume", "persistentVolumeClaim": { "claimName": "volume" } }],
        },
    });
    serde_json::from_value(pod).expect("a pod")
}

fn claim(class: Option<&str>) -> PersistentVolumeClaim {
    let claim = json!({
        "metadata": { "name": "volume" },
        "spec": {
            "accessModes": ["ReadWriteOnce"], "storageClassName": class,
            "resources": { "requests": { "storage": "1Gi" } },
        },
    });
    serde_json::from_value(claim).expect("a claim")
}

async fn run(namespace: &Namespace, class: Option<&str>, image: &str, script: &str) {
    let new = PostParams::default();
    namespace
        .api()
        .create(&new, &claim(class))
        .await
        .expect("claimed");
    namespace
        .api()
        .create(&new, &pod(image, script))
        .await
        .expect("created");
}

async fn phase(namespace: &Namespace) -> String {
    let pod: Pod = namespace.api().get("pod").await.expect("there");
    pod.status
        .and_then(|status| status.phase)
        .unwrap_or_default()
}

async fn until_phase(namespace: &Namespace, wanted: &str) {
    wait_until("the pod has come so far", async || {
        phase(namespace).await == wanted
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restricted_pod_writes_to_its_volume_and_the_volume_goes_with_its_claim() {
    let namespace = Cluster::shared().await.namespace().await;
    let script = "[ $(id -u) = 1000 ] && echo kept > /app/file && python3 -m pip --version";
    run(&namespace, None, DEBIAN_IMAGE, script).await;
    until_phase(&namespace, "Succeeded").await;
    let claims: Api<PersistentVolumeClaim> = namespace.api();
    let volume = claims
        .get("volume")
        .await
        .expect("there")
        .spec
        .expect("a spec")
        .volume_name
        .expect("bound");
    let pods: Api<Pod> = namespace.api();
    pods.delete("pod", &DeleteParams::default())
        .await
        .expect("deleted");
    claims
        .delete("volume", &DeleteParams::default())
        .await
        .expect("deleted");
    let volumes: Api<k8s_openapi::api::core::v1::PersistentVolume> = Api::all(namespace.client());
    wait_until("the volume is gone", async || {
        volumes.get_opt(&volume).await.expect("answered").is_none()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_restricted_is_refused() {
    let namespace = Cluster::shared().await.namespace().await;
    let mut pod = pod(SMALL_IMAGE, "true");
    pod.spec.as_mut().expect("a spec").security_context = None;
    let refused = namespace.api().create(&PostParams::default(), &pod).await;
    assert!(matches!(refused, Err(kube::Error::Api(status)) if status.code == 403));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_of_the_class_never_keeps_its_pod_pending() {
    let namespace = Cluster::shared().await.namespace().await;
    run(&namespace, Some(NEVER_CLASS), SMALL_IMAGE, "true").await;
    wait_until("the scheduler says why", async || {
        let pod: Pod = namespace.api().get("pod").await.expect("there");
        let conditions = pod
            .status
            .and_then(|status| status.conditions)
            .unwrap_or_default();
        conditions
            .iter()
            .any(|condition| condition.reason.as_deref() == Some("Unschedulable"))
    })
    .await;
    assert_eq!(phase(&namespace).await, "Pending");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_route_reaches_the_cluster_through_a_proxy() {
    let cluster = Cluster::shared().await;
    let route = cluster.route().await;
    let kubeconfig = kube::config::Kubeconfig::read_from(route.kubeconfig()).expect("a kubeconfig");
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &Default::default())
        .await
        .expect("usable");
    let client = kube::Client::try_from(config).expect("a client");
    client.apiserver_version().await.expect("answered");
    assert!(route.proxy.carried() > 0);
}

/// Commands of `tests/cluster` on a folder.
fn script(name: &str, folder: &Path) -> std::process::Output {
    let script = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("cluster")
        .join(name);
    Command::new(script)
        .arg(folder)
        .output()
        .expect("bash is there")
}

/// What of a cluster is on this machine.
fn traces(folder: &Path) -> Vec<String> {
    let find = Command::new("bash")
        .arg("-c")
        .arg(
            "id=em$(printf %s \"$0\" | sha256sum | cut -c1-8); find /sys/fs/cgroup -maxdepth 2 -name $id; \
             ip -o link show | grep $id; grep -F \"$0\" /proc/mounts; ls -d \"$0\"",
        )
        .arg(folder)
        .output()
        .expect("bash is there");
    let mut traces: Vec<String> = String::from_utf8_lossy(&find.stdout)
        .lines()
        .map(str::to_owned)
        .collect();
    let processes = processes_with(folder.to_str().expect("UTF-8"));
    traces.extend(processes.iter().map(|pid| format!("process {pid}")));
    traces
}

#[tokio::test(flavor = "multi_thread")]
async fn it_outlives_trouble_and_a_crash_leaves_nothing() {
    let cluster = Cluster::own().await;
    let folder = cluster
        .kubeconfig()
        .parent()
        .expect("its folder")
        .to_owned();
    let namespace = cluster.namespace().await;
    run(&namespace, None, SMALL_IMAGE, "trap '' TERM; sleep 1000").await;
    until_phase(&namespace, "Running").await;

    let server = cluster.part(Part::ApiServer);
    server.kill().await;
    let pods: Api<Pod> = namespace.api();
    pods.get("pod").await.expect_err("nobody serves");
    server.start().await;
    until_phase(&namespace, "Running").await;

    for part in [Part::Kubelet, Part::Containerd, Part::Scheduler] {
        cluster.part(part).kill().await;
    }
    cluster.part(Part::Etcd).pause().await;
    // Its namespace cannot be deleted any more: it goes with the cluster.
    std::mem::forget(namespace);
    cluster.up_again().await;
    let namespaces: Api<k8s_openapi::api::core::v1::Namespace> = Api::all(cluster.client().await);
    let left = namespaces
        .list(&kube::api::ListParams::default())
        .await
        .expect("listed");
    let left = left.iter().filter(|namespace| {
        namespace
            .metadata
            .name
            .as_deref()
            .is_some_and(|name| name.starts_with("test-"))
    });
    assert_eq!(left.count(), 0, "a new cluster has nothing of the old");

    for part in [Part::Containerd, Part::ApiServer] {
        cluster.part(part).kill().await;
    }
    assert!(!traces(&folder).is_empty());
    let down = script("down", &folder);
    assert!(
        down.status.success(),
        "{}",
        String::from_utf8_lossy(&down.stderr)
    );
    assert_eq!(traces(&folder), Vec::<String>::new());
}
