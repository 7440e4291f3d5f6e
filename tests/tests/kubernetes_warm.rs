//! Pods that are held ready, through the real program.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube::ResourceExt as _;
use kube::api::{Api, ListParams};
use serde_json::json;
use tests::cluster::{Cluster, Namespace, SMALL_IMAGE, serve};
use tests::program::{Client, id_of, wait_until};

const WARM: &str = "environment-manager/warm";

/// What has so many pods of the default shape held ready.
fn warm(count: usize) -> String {
    format!("{SMALL_IMAGE}={count}")
}

/// Name and uid of nobody's pods that run.
async fn ready(namespace: &Namespace) -> BTreeMap<String, String> {
    let pods: Api<Pod> = namespace.api();
    let of_nobody = ListParams::default().labels(WARM);
    let found = pods.list(&of_nobody).await.expect("listed");
    let runs = |pod: &Pod| {
        let status = pod.status.as_ref();
        let mut containers = status
            .iter()
            .flat_map(|status| status.container_statuses.iter().flatten());
        pod.metadata.deletion_timestamp.is_none() && containers.any(|container| container.ready)
    };
    let found = found.into_iter().filter(runs);
    found
        .map(|pod| (pod.name_any(), pod.uid().expect("a uid")))
        .collect()
}

async fn until_ready(namespace: &Namespace, count: usize) -> BTreeMap<String, String> {
    wait_until(&format!("{count} are ready"), async || {
        ready(namespace).await.len() == count
    })
    .await;
    ready(namespace).await
}

/// The pod of an environment.
async fn pod(client: &Client, namespace: &Namespace, environment: &str) -> Pod {
    let path = format!("/v1/environments/{environment}");
    let found = client.get(&path).await.expect(200).json();
    let name = found["status"]["container"].as_str();
    let name = name.unwrap_or_else(|| panic!("{found}"));
    namespace.api::<Pod>().get(name).await.expect("it is there")
}

/// An environment of another shape, which none that is ready fits. The service hears of pods in the order in which they
/// change: once it has started this one, it knows of those that were ready before.
async fn create_of_another_shape(client: &Client, id: &str) {
    let body = json!({ "id": id, "resources": { "memory": "64Mi" } });
    client.create_from(&body).await;
}

async fn delete(client: &Client, environment: &str) {
    let path = format!("/v1/environments/{environment}");
    let job = client.delete(&path).await.expect(202).json();
    let ended = client.ended(id_of(&job)).await;
    assert_eq!(ended["state"], "succeeded", "{ended}");
}

#[tokio::test]
async fn a_create_takes_a_pod_that_is_ready_and_another_one_comes() {
    let cluster = Cluster::shared().await;
    let namespace = cluster.namespace().await;
    let variables = [("EM_WORKER__WARM", &*warm(2))];
    let mut program = serve(&namespace, cluster.kubeconfig(), &variables).await;
    let client = program.client();
    let born = until_ready(&namespace, 2).await;

    create_of_another_shape(&client, "other").await;
    let cold = pod(&client, &namespace, "other").await;
    assert!(!born.contains_key(&cold.name_any()), "{born:?}");
    assert_eq!(ready(&namespace).await, born, "none of them was touched");

    let value = format!("given-{:016x}", rand::random::<u64>());
    let body = json!({ "id": "env", "env": { "GIVEN": value }, "labels": { "a": "b" } });
    client.create_from(&body).await;
    let taken = pod(&client, &namespace, "env").await;
    assert_eq!(born.get(&taken.name_any()), taken.uid().as_ref());
    assert_eq!(
        taken.annotations()["environment-manager/environment"],
        "env"
    );
    assert!(!taken.labels().contains_key(WARM), "{:?}", taken.labels());
    assert!(!json!(taken).to_string().contains(&value));
    let printed = client.printed("env", "echo $GIVEN; pwd; ls -A").await;
    assert_eq!(printed, format!("{value}\n/app\n"));

    let again = until_ready(&namespace, 2).await;
    let kept = again.keys().filter(|name| born.contains_key(*name));
    assert_eq!(kept.count(), 1, "{again:?} after {born:?}");

    // Nobody wants them any more.
    program.term();
    program.set("EM_WORKER__WARM", None);
    program.restart().await;
    until_ready(&namespace, 0).await;
    let client = program.client();
    assert_eq!(client.printed("env", "echo well").await, "well\n");
    delete(&client, "env").await;
    delete(&client, "other").await;
    // One that nobody wants is no more ready as soon as it is to go, and is there until it is gone.
    wait_until("no pod is there", async || {
        let pods = namespace.api::<Pod>().list(&ListParams::default()).await;
        pods.expect("listed").items.is_empty()
    })
    .await;
    // The claims of those that nobody took follow some minutes later, once no pod can come to them any more.
    let claims: Api<PersistentVolumeClaim> = namespace.api();
    let left = claims.list(&ListParams::default()).await.expect("listed");
    assert!(
        left.iter().all(|claim| claim.labels().contains_key(WARM)),
        "{left:?}"
    );
}

/// kill -9 between the pod and its claim, and between the claim and the record: the create goes on with the same pod, and
/// no other environment gets it.
#[tokio::test]
async fn a_service_that_is_killed_while_it_takes_a_pod_hands_it_out_once() {
    let cluster = Cluster::shared().await;
    for place in ["warm_taken:kill", "warm_settling:kill"] {
        let namespace = cluster.namespace().await;
        let variables = [("EM_WORKER__WARM", &*warm(1)), ("EM_FAILPOINT", place)];
        let mut program = serve(&namespace, cluster.kubeconfig(), &variables).await;
        let client = program.client();
        let born = until_ready(&namespace, 1).await;
        create_of_another_shape(&client, "before").await;
        // It may die before its answer is out.
        let create = client.request(reqwest::Method::POST, "/v1/environments");
        let _ = client.try_send(create.json(&json!({ "id": "env" }))).await;
        program.until_killed().await;

        program.set("EM_FAILPOINT", None);
        program.restart().await;
        let client = program.client();
        client.create("other").await;
        let jobs = client.get("/v1/jobs?kind=create").await.expect(200).json();
        for job in jobs["jobs"].as_array().expect("a list") {
            let ended = client.ended(id_of(job)).await;
            assert_eq!(ended["state"], "succeeded", "{place}: {ended}");
        }
        let taken = pod(&client, &namespace, "env").await;
        assert_eq!(born.get(&taken.name_any()), taken.uid().as_ref(), "{place}");
        let other = pod(&client, &namespace, "other").await;
        assert_ne!(other.uid(), taken.uid(), "{place}");
        client.printed("env", "echo mine > file").await;
        assert_eq!(client.printed("other", "ls -A").await, "", "{place}");
        // Its volume is its own too, beyond the pod.
        for step in ["stop", "start"] {
            let path = format!("/v1/environments/env/{step}");
            let job = client.post(&path, &json!({})).await.expect(202).json();
            client.ended(id_of(&job)).await;
        }
        assert_eq!(client.printed("env", "cat file").await, "mine\n", "{place}");
    }
}
