//! Parts of the cluster are killed and stalled while commands run: what was accepted ends as it would have.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{Api, DeleteParams, ListParams};
use serde_json::{Value, json};
use tests::cluster::{Cluster, Namespace, Part, serve};
use tests::conformance::runtime::given::until;
use tests::program::{Client, Program, id_of, processes_with, wait_until};

/// How long the cluster's store stands still: longer than its clients wait for one answer.
const STALL: Duration = Duration::from_secs(30);

/// How often it is looked whether a status stays: the worker sweeps some times meanwhile.
const LOOKS: usize = 30;

/// Lines that a command prints to each stream.
const LINES: u32 = 200;

/// The service on a cluster that may be troubled, and an environment. They go in this order.
struct Place {
    program: Program,
    namespace: Namespace,
    cluster: Cluster,
}

impl Place {
    async fn new() -> Self {
        let cluster = Cluster::own().await;
        let namespace = cluster.namespace().await;
        let program = serve(&namespace, cluster.kubeconfig(), &[]).await;
        program.client().create("env").await;
        Self {
            program,
            namespace,
            cluster,
        }
    }

    async fn assert_nothing_left(&self) {
        assert_eq!(self.namespace.objects().await, Vec::<String>::new());
        assert!(!self.program.log().contains("panicked"));
    }
}

/// A command that prints for some seconds, leaves a line in the volume for each time it runs, and exits with 7.
struct Talker {
    job: String,
    marker: String,
}

impl Talker {
    async fn start(client: &Client) -> Self {
        let marker = format!("talker-{:016x}", rand::random::<u64>());
        let script = format!(
            "echo ran >> {marker}; i=0; while [ $i -lt {LINES} ]; do \
             echo out $i; echo err $i >&2; i=$((i+1)); sleep 0.03; done; exit 7"
        );
        let job = client.submit("env", &json!({ "command": script })).await;
        wait_until("its first lines are here", async || {
            !client.output(&job).await.stdout.bytes.is_empty()
        })
        .await;
        Self { job, marker }
    }

    /// The node is this machine.
    async fn has_ended_inside(&self) {
        wait_until("it has ended", async || {
            processes_with(&self.marker).is_empty()
        })
        .await;
    }

    async fn ends_as_if_nothing_had_happened(&self, client: &Client) {
        let ended = client.ended(&self.job).await;
        assert_eq!(ended["error"]["code"], "exit_nonzero", "{ended}");
        assert_eq!(ended["result"]["exit_code"], 7, "{ended}");
        let output = client.output(&self.job).await;
        assert_eq!(output.stdout.bytes, lines("out").as_bytes());
        assert_eq!(output.stderr.bytes, lines("err").as_bytes());
        assert!(!output.truncated && !output.incomplete);
        let runs = format!("cat {}", self.marker);
        assert_eq!(client.printed("env", &runs).await, "ran\n", "it ran once");
    }
}

fn lines(word: &str) -> String {
    (0..LINES).map(|line| format!("{word} {line}\n")).collect()
}

async fn status(client: &Client) -> Value {
    let environment = client.get("/v1/environments/env").await;
    environment.expect(200).json()["status"].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_outlive_the_api_server_and_a_store_that_stands_still() {
    let place = Place::new().await;
    let (cluster, client) = (&place.cluster, place.program.client());

    // Killed and there again while the command prints.
    let during = Talker::start(&client).await;
    let server = cluster.part(Part::ApiServer);
    server.kill().await;
    server.start().await;
    during.ends_as_if_nothing_had_happened(&client).await;

    // Gone until after the command's end: another one waits for it meanwhile.
    let unseen = Talker::start(&client).await;
    server.kill().await;
    let body = json!({ "command": "echo late" });
    let late = client.submit("env", &body).await;
    unseen.has_ended_inside().await;
    server.start().await;
    unseen.ends_as_if_nothing_had_happened(&client).await;
    let late = client.ended(&late).await;
    assert_eq!(late["result"]["stdout"], "late\n", "{late}");

    let stalled = Talker::start(&client).await;
    let store = cluster.part(Part::Etcd);
    store.pause().await;
    tokio::time::sleep(STALL).await;
    store.resume().await;
    stalled.ends_as_if_nothing_had_happened(&client).await;

    let delete = client.delete("/v1/environments/env").await.expect(202);
    let ended = client.ended(id_of(&delete.json())).await;
    assert_eq!(ended["state"], "succeeded", "{ended}");
    place.assert_nothing_left().await;
}

fn is_ready(node: &Node) -> bool {
    let conditions = node
        .status
        .iter()
        .flat_map(|status| status.conditions.iter().flatten());
    conditions
        .into_iter()
        .any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

fn has_been_told_of(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|it| it.conditions.as_ref());
    conditions.is_some_and(|conditions| {
        let mut conditions = conditions.iter();
        conditions.any(|it| it.type_ == "Ready" && it.status == "True")
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_whose_node_says_nothing_is_not_taken_for_gone_before_its_node_is() {
    let place = Place::new().await;
    let (cluster, client) = (&place.cluster, place.program.client());
    let kubelet = cluster.part(Part::Kubelet);
    let told = async |reason: Value| {
        // The cluster takes most of a minute to lose a node.
        until(async || {
            let status = status(&client).await;
            status["phase"] == "running" && status["reason"] == reason
        })
        .await;
    };
    // The control plane takes the word back only of a pod of which its node has said that it is ready.
    let pods: Api<Pod> = place.namespace.api();
    until(async || {
        let pods = pods.list(&ListParams::default()).await.expect("listed");
        pods.iter().all(has_been_told_of)
    })
    .await;
    kubelet.pause().await;
    told(json!("node_lost")).await;
    kubelet.resume().await;
    told(Value::Null).await;
    assert_eq!(client.printed("env", "echo well").await, "well\n");

    // A node that was not heard of yet cannot be lost once more.
    let nodes: Api<Node> = Api::all(cluster.client().await);
    until(async || {
        let nodes = nodes.list(&ListParams::default()).await.expect("listed");
        nodes.iter().all(is_ready)
    })
    .await;
    let body = json!({ "command": "sleep 4711", "timeout_seconds": 5 });
    let overdue = client.submit("env", &body).await;
    client.until_state(&overdue, "running").await;
    kubelet.pause().await;
    // Nobody can confirm the command's end, nor do what is done then, for as long as the node is away.
    told(json!("being_killed")).await;
    until(async || {
        let nodes = nodes.list(&ListParams::default()).await.expect("listed");
        !nodes.iter().any(is_ready)
    })
    .await;
    for _ in 0..LOOKS {
        let status = status(&client).await;
        assert_eq!(status["phase"], "running", "{status}");
        assert_eq!(status["reason"], "being_killed", "{status}");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    let delete = client.delete("/v1/environments/env").await.expect(202);
    wait_until("the environment says what it waits for", async || {
        let status = status(&client).await;
        status["phase"] == "deleting" && status["reason"] == "node_lost"
    })
    .await;
    let pods = pods.list(&ListParams::default()).await.expect("listed");
    assert_eq!(pods.items.len(), 1, "nobody forced it away");

    for node in nodes.list(&ListParams::default()).await.expect("listed") {
        let name = node.metadata.name.expect("a name");
        nodes
            .delete(&name, &DeleteParams::default())
            .await
            .expect("deleted");
    }
    let ended = client.ended(id_of(&delete.json())).await;
    assert_eq!(ended["state"], "succeeded", "{ended}");
    let ended = client.ended(&overdue).await;
    assert_eq!(ended["state"], "cancelled", "{ended}");
    place.assert_nothing_left().await;
}
