//! The real program with its environments on a real cluster: what the cluster does to them, and what callers see of it.

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube::ResourceExt as _;
use kube::api::{Api, DeleteParams};
use serde_json::{Value, json};
use tests::cluster::{Cluster, NO_IMAGE, Namespace, kill_first_process, serve};
use tests::conformance::runtime::given::until;
use tests::program::{Client, Program, id_of, wait_until};

/// The program, and where its environments are.
struct Service {
    _program: Program,
    client: Client,
    namespace: Namespace,
}

impl Service {
    async fn start() -> Self {
        let cluster = Cluster::shared().await;
        let namespace = cluster.namespace().await;
        let program = serve(&namespace, cluster.kubeconfig(), &[]).await;
        Self {
            client: program.client(),
            _program: program,
            namespace,
        }
    }
}

async fn status(client: &Client, id: &str) -> Value {
    let environment = client.get(&format!("/v1/environments/{id}")).await;
    environment.expect(200).json()["status"].clone()
}

/// The pod of the only environment.
async fn pod(namespace: &Namespace) -> Pod {
    let pods: Api<Pod> = namespace.api();
    let mut found = pods.list(&Default::default()).await.expect("listed").items;
    assert_eq!(found.len(), 1);
    found.remove(0)
}

/// Whether its container was started again, and runs.
fn was_restarted(pod: &Pod) -> bool {
    let containers = pod
        .status
        .iter()
        .flat_map(|status| status.container_statuses.iter().flatten());
    containers.into_iter().any(|container| {
        let runs = container
            .state
            .as_ref()
            .is_some_and(|it| it.running.is_some());
        runs && container.restart_count > 0
    })
}

async fn until_output(client: &Client, job: &str, expected: &str) {
    wait_until("it is up", async || {
        let window = client.get(&format!("/v1/jobs/{job}/output")).await;
        window.expect(200).json()["stdout"] == expected
    })
    .await;
}

#[tokio::test]
async fn the_record_tells_where_an_environment_is() {
    let Service {
        client, namespace, ..
    } = &Service::start().await;
    client.create("A.b_c").await;
    let status = status(client, "A.b_c").await;
    assert_eq!(status["phase"], "running", "{status}");
    assert_eq!(status["namespace"], namespace.name(), "{status}");
    assert_eq!(status["limits_not_enforced"], json!(["pids"]), "{status}");
    let pods: Api<Pod> = namespace.api();
    let pod = pods
        .get(status["container"].as_str().unwrap())
        .await
        .unwrap();
    let marks = pod.annotations();
    assert_eq!(marks["environment-manager/environment"], "A.b_c");
    assert_eq!(marks["environment-manager/tenant"], "default");
    let claims: Api<PersistentVolumeClaim> = namespace.api();
    claims
        .get(status["volume"].as_str().unwrap())
        .await
        .unwrap();
    client.delete("/v1/environments/A.b_c").await.expect(202);
    wait_until("nothing is left", async || {
        namespace.objects().await.is_empty()
    })
    .await;
}

#[tokio::test]
async fn a_container_that_ends_takes_its_commands_along_and_nothing_else() {
    let Service {
        client, namespace, ..
    } = &Service::start().await;
    client.create("env").await;
    let script = "echo ran >> runs; echo said; echo complained >&2; exec sleep 1000";
    let body = json!({ "command": script, "timeout_seconds": 300 });
    let job = client.submit("env", &body).await;
    until_output(client, &job, "said\n").await;

    kill_first_process(&pod(namespace).await);

    let ended = client.ended(&job).await;
    assert_eq!(ended["state"], "failed", "{ended}");
    assert_eq!(ended["error"]["code"], "environment_restarted", "{ended}");
    assert_eq!(ended["result"]["exit_code"], Value::Null, "{ended}");
    let output = client.output(&job).await;
    assert_eq!(output.stdout.bytes, b"said\n");
    assert_eq!(output.stderr.bytes, b"complained\n");
    // It goes on as it is, with what it had, and nothing ran again.
    assert_eq!(client.printed("env", "cat runs").await, "ran\n");
    assert_eq!(status(client, "env").await["phase"], "running");
}

#[tokio::test]
async fn an_idle_environment_whose_container_was_started_again_says_so() {
    let Service {
        client, namespace, ..
    } = &Service::start().await;
    client.create("env").await;
    kill_first_process(&pod(namespace).await);
    wait_until("it is noted", async || {
        let status = status(client, "env").await;
        status["phase"] == "running" && status["reason"] == "exited"
    })
    .await;
    assert_eq!(client.printed("env", "echo well").await, "well\n");
}

#[tokio::test]
async fn what_is_asked_of_a_container_that_has_just_been_started_again_is_done() {
    let Service {
        client, namespace, ..
    } = &Service::start().await;
    client.create("env").await;
    client.printed("env", "echo old > kept; sync").await;
    kill_first_process(&pod(namespace).await);
    // What is sent to a runner that is about to be gone may or may not be done: that is said then.
    wait_until("it was started again", async || {
        was_restarted(&pod(namespace).await)
    })
    .await;
    let (job, listed, written) = tokio::join!(
        client.sh("env", "cat kept"),
        client.list_files("env", &[]),
        client.put_file("env", "new", "new"),
    );
    assert_eq!(job["state"], "succeeded", "{job}");
    assert_eq!(job["result"]["stdout"], "old\n", "{job}");
    assert_eq!(listed.status, 200, "{}", listed.text());
    assert_eq!(written.status, 200, "{}", written.text());
    assert_eq!(client.printed("env", "cat new").await, "new");
}

#[tokio::test]
async fn what_is_asked_while_a_container_ends_runs_once_or_says_what_ended_it() {
    let Service {
        client, namespace, ..
    } = &Service::start().await;
    client.create("env").await;
    client.printed("env", "true").await;
    kill_first_process(&pod(namespace).await);
    // No look in between: some go over the link that is dying.
    let asked: Vec<_> = (0..20)
        .map(async |number| {
            let job = client.sh("env", &format!("echo {number} >> ran")).await;
            let made = client
                .put_file("env", &format!("new-{number}"), "new")
                .await;
            (number, job, made)
        })
        .collect();
    let asked = futures::future::join_all(asked).await;
    let ran = client.printed("env", "cat ran").await;
    for (number, job, made) in asked {
        let times = ran
            .lines()
            .filter(|line| *line == number.to_string())
            .count();
        // Nothing is lost: what never began is begun in the new start, and of what began there is a record.
        match job["state"].as_str() {
            Some("succeeded") => assert_eq!(times, 1, "{job}"),
            Some("failed") => {
                assert_eq!(job["error"]["code"], "environment_restarted", "{job}");
                assert!(times <= 1, "{job}");
            }
            _ => panic!("{job}"),
        }
        let written = made.status == 200 || made.text().contains("environment_gone");
        assert!(written, "{} {}", made.status, made.text());
    }
}

#[tokio::test]
async fn a_first_process_that_does_not_stay_is_given_up_with_its_pod() {
    let Service {
        client, namespace, ..
    } = &Service::start().await;
    client.create("env").await;
    // Its records are a folder now, so that none of its next starts gets far.
    let spoil = "echo kept > file; sync; cd /.em/state/runner && mv journal was && mkdir journal";
    client.printed("env", spoil).await;
    kill_first_process(&pod(namespace).await);
    // The node waits for ten seconds, then for twenty.
    until(async || {
        let status = status(client, "env").await;
        status["phase"] == "failed" && status["reason"] == "exited"
    })
    .await;
    let pods: Api<Pod> = namespace.api();
    let left = pods.list(&Default::default()).await.expect("listed").items;
    assert!(left.is_empty(), "it would be started again and again");
    let start = client.post("/v1/environments/env/start", &json!({})).await;
    let start = client.ended(id_of(&start.expect(202).json())).await;
    assert_eq!(start["state"], "succeeded", "{start}");
    assert_eq!(client.printed("env", "cat file").await, "kept\n");
}

#[tokio::test]
async fn a_service_whose_cluster_is_away_starts_and_says_so_until_it_is_there() {
    let cluster = Cluster::shared().await;
    let namespace = cluster.namespace().await;
    let route = cluster.route().await;
    let mut program = serve(&namespace, route.kubeconfig(), &[]).await;
    program.kill9();
    route.proxy.close(true);
    program.restart_unready().await;
    let client = program.client();
    let ready = client.get("/ready").await;
    assert_eq!(ready.status, 503, "{}", ready.text());
    assert_eq!(ready.json()["runtime"], "error");
    let create = client
        .post("/v1/environments", &json!({ "id": "env" }))
        .await;
    let create = create.expect(202).json();
    route.proxy.close(false);
    wait_until("it is ready", async || {
        client.get("/ready").await.status == 200
    })
    .await;
    let create = client.ended(id_of(&create)).await;
    assert_eq!(create["state"], "succeeded", "{create}");
}

#[tokio::test]
async fn a_pod_that_others_delete_loses_its_commands_and_can_be_started_again() {
    let Service {
        client, namespace, ..
    } = &Service::start().await;
    client.create("env").await;
    let script = "echo ran >> runs; sync; echo said; exec sleep 1000";
    let job = client.submit("env", &json!({ "command": script })).await;
    until_output(client, &job, "said\n").await;

    let pods: Api<Pod> = namespace.api();
    let name = pod(namespace).await.name_any();
    let at_once = DeleteParams::default().grace_period(0);
    pods.delete(&name, &at_once).await.unwrap();

    let ended = client.ended(&job).await;
    assert_eq!(ended["state"], "lost", "{ended}");
    assert_eq!(ended["error"]["code"], "environment_gone", "{ended}");
    assert_eq!(ended["result"]["exit_code"], Value::Null, "{ended}");
    let output = client.output(&job).await;
    assert_eq!(output.stdout.bytes, b"said\n");
    assert!(output.incomplete);
    wait_until("it is noted", async || {
        let status = status(client, "env").await;
        status["phase"] == "failed" && status["reason"] == "pod_deleted"
    })
    .await;
    let start = client.post("/v1/environments/env/start", &json!({})).await;
    let start = client.ended(id_of(&start.expect(202).json())).await;
    assert_eq!(start["state"], "succeeded", "{start}");
    assert_eq!(client.printed("env", "cat runs").await, "ran\n");
}

#[tokio::test]
async fn what_holds_a_create_up_is_in_the_status_and_a_delete_waits_for_none_of_it() {
    let Service {
        client, namespace, ..
    } = &Service::start().await;
    for (body, reason) in [
        (json!({ "image": NO_IMAGE }), "image_pull_failed"),
        (
            json!({ "resources": { "memory": "200Gi" } }),
            "unschedulable",
        ),
    ] {
        let mut body = body;
        body["id"] = "env".into();
        let create = client.post("/v1/environments", &body).await.expect(202);
        wait_until("the reason is told", async || {
            let status = status(client, "env").await;
            status["phase"] == "creating" && status["reason"] == reason
        })
        .await;
        let delete = client.delete("/v1/environments/env").await.expect(202);
        let delete = client.ended(id_of(&delete.json())).await;
        assert_eq!(delete["state"], "succeeded", "{delete}");
        let create = client.ended(id_of(&create.json())).await;
        assert_eq!(create["state"], "cancelled", "{create}");
        assert_eq!(namespace.objects().await, Vec::<String>::new());
    }
}

#[tokio::test]
async fn an_image_that_cannot_be_had_fails_the_create() {
    let Service {
        client, namespace, ..
    } = &Service::start().await;
    let body = json!({ "id": "env", "image": "not/An:Image" });
    let create = client.post("/v1/environments", &body).await.expect(202);
    let create = client.ended(id_of(&create.json())).await;
    assert_eq!(create["state"], "failed", "{create}");
    assert_eq!(create["error"]["code"], "image_not_found", "{create}");
    let status = status(client, "env").await;
    assert_eq!(status["phase"], "failed", "{status}");
    let delete = client.delete("/v1/environments/env").await.expect(202);
    client.ended(id_of(&delete.json())).await;
    assert_eq!(namespace.objects().await, Vec::<String>::new());
}
