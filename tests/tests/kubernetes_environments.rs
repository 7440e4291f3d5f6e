//! The real program with its environments on a real cluster: what the cluster does to them, and what callers see of it.

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, ResourceQuota};
use kube::ResourceExt as _;
use kube::api::{Api, DeleteParams, EvictParams, PostParams};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tests::cluster::{
    BARE_IMAGE, Cluster, NEVER_CLASS, NO_IMAGE, Namespace, first_process, kill_first_process, serve,
};
use tests::conformance::runtime::given::until;
use tests::program::{Client, Program, id_of, processes_with, wait_until};

/// The program, and where its environments are.
struct Service {
    program: Program,
    client: Client,
    namespace: Namespace,
}

impl Service {
    async fn start() -> Self {
        Self::start_with(&[]).await
    }

    async fn start_with(variables: &[(&str, &str)]) -> Self {
        let cluster = Cluster::shared().await;
        let namespace = cluster.namespace().await;
        let program = serve(&namespace, cluster.kubeconfig(), variables).await;
        Self {
            client: program.client(),
            program,
            namespace,
        }
    }
}

async fn status(client: &Client, id: &str) -> Value {
    let environment = client.get(&format!("/v1/environments/{id}")).await;
    environment.expect(200).json()["status"].clone()
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

async fn start(client: &Client, id: &str) {
    let path = format!("/v1/environments/{id}/start");
    let job = client.post(&path, &json!({})).await.expect(202).json();
    let ended = client.ended(id_of(&job)).await;
    assert_eq!(ended["state"], "succeeded", "{ended}");
}

async fn delete(client: &Client, id: &str) {
    let path = format!("/v1/environments/{id}");
    let job = client.delete(&path).await.expect(202).json();
    let ended = client.ended(id_of(&job)).await;
    assert_eq!(ended["state"], "succeeded", "{ended}");
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
    // Its volume is a folder of the node's disk.
    let unbounded = json!(["pids", "storage"]);
    assert_eq!(status["limits_not_enforced"], unbounded, "{status}");
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

    kill_first_process(&namespace.pod().await);

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
async fn a_container_that_ends_for_want_of_memory_says_so() {
    let Service {
        client, namespace, ..
    } = &Service::start().await;
    let small = json!({ "id": "env", "resources": { "memory": "128Mi" } });
    client.create_from(&small).await;
    // Its namespace is in its command line, so that it is found among the processes of the node.
    let script =
        "echo up; until [ -e go ]; do sleep 0.1; done; tail /dev/zero & exec tail /dev/zero";
    let command = ["sh", "-c", script, namespace.name()];
    let job = client.submit("env", &json!({ "command": command })).await;
    until_output(client, &job, "up\n").await;
    // PID 1 is what the kernel takes before each of the two, as where it takes all of a container at once.
    for greedy in processes_with(namespace.name()) {
        prefer_to_kill(greedy, 0);
    }
    prefer_to_kill(first_process(&namespace.pod().await), 1000);
    client.sh("env", "touch go").await;

    let ended = client.ended(&job).await;
    assert_eq!(ended["state"], "failed", "{ended}");
    assert_eq!(ended["error"]["code"], "oom_killed", "{ended}");
    assert_eq!(ended["result"]["exit_code"], Value::Null, "{ended}");
    wait_until("it is noted", async || {
        let status = status(client, "env").await;
        status["phase"] == "running" && status["reason"] == "oom_killed"
    })
    .await;
    assert_eq!(client.printed("env", "echo well").await, "well\n");
}

/// Tells the kernel how soon to kill a process when memory runs out: 1000 is first.
fn prefer_to_kill(pid: Pid, score: u16) {
    let path = format!("/proc/{pid}/oom_score_adj");
    std::fs::write(path, score.to_string()).expect("root of its node");
}

#[tokio::test]
async fn an_idle_environment_whose_container_was_started_again_says_so() {
    let Service {
        client, namespace, ..
    } = &Service::start().await;
    client.create("env").await;
    kill_first_process(&namespace.pod().await);
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
    kill_first_process(&namespace.pod().await);
    // What is sent to a runner that is about to be gone may or may not be done: that is said then.
    wait_until("it was started again", async || {
        was_restarted(&namespace.pod().await)
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
    kill_first_process(&namespace.pod().await);
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

/// Whoever of the next service meets the new start first notes it; all others find it noted.
#[tokio::test]
async fn commands_whose_container_ended_while_no_service_ran_are_not_run_again() {
    let mut service = Service::start().await;
    let client = &service.client;
    client.create("env").await;
    let mut jobs = Vec::new();
    for number in 0..4 {
        let script = format!("echo {number} >> runs; sync; echo said {number}; exec sleep 1000");
        let job = client.submit("env", &json!({ "command": script })).await;
        until_output(client, &job, &format!("said {number}\n")).await;
        jobs.push(job);
    }
    let marker = format!("unseen-{:016x}", rand::random::<u64>());
    let script =
        format!("echo 4 >> runs; sync; until [ -e {marker} ]; do sleep 0.05; done; exit 5");
    let unseen = client.submit("env", &json!({ "command": script })).await;
    wait_until("it runs", async || !processes_with(&marker).is_empty()).await;
    let volume = service.namespace.volumes().await.remove(0);

    service.program.kill9();
    std::fs::write(volume.join(&marker), "").expect("written");
    wait_until("it has ended", async || processes_with(&marker).is_empty()).await;
    kill_first_process(&service.namespace.pod().await);
    wait_until("it was started again", async || {
        was_restarted(&service.namespace.pod().await)
    })
    .await;
    service.program.restart().await;
    let client = &service.program.client();

    for (number, job) in jobs.iter().enumerate() {
        let ended = client.ended(job).await;
        assert_eq!(ended["state"], "failed", "{ended}");
        assert_eq!(ended["error"]["code"], "environment_restarted", "{ended}");
        assert_eq!(ended["result"]["exit_code"], Value::Null, "{ended}");
        let output = client.output(job).await;
        assert_eq!(output.stdout.bytes, format!("said {number}\n").as_bytes());
    }
    // Its own end is known to the runner's records, whoever looks at them.
    let ended = client.ended(&unseen).await;
    assert_eq!(ended["result"]["exit_code"], 5, "{ended}");
    assert_eq!(client.printed("env", "cat runs").await, "0\n1\n2\n3\n4\n");
    assert_eq!(status(client, "env").await["phase"], "running");
    for job in jobs {
        assert_eq!(client.job(&job).await["state"], "failed");
    }
}

#[tokio::test]
async fn a_command_that_was_not_begun_when_its_service_and_its_container_ended_runs_once() {
    let mut service = Service::start_with(&[("EM_FAILPOINT", "before_start:kill")]).await;
    let client = &service.client;
    client.create("env").await;
    let exec = client.request(reqwest::Method::POST, "/v1/environments/env/exec");
    // It may die before its answer is out.
    let body = json!({ "command": "echo ran >> runs; cat runs" });
    let _ = client.try_send(exec.json(&body)).await;
    service.program.until_killed().await;
    kill_first_process(&service.namespace.pod().await);
    wait_until("it was started again", async || {
        was_restarted(&service.namespace.pod().await)
    })
    .await;

    service.program.set("EM_FAILPOINT", None);
    service.program.restart().await;
    let client = &service.program.client();
    let jobs = client.get("/v1/jobs?kind=exec").await.expect(200).json();
    let ended = client.ended(id_of(&jobs["jobs"][0])).await;
    assert_eq!(ended["state"], "succeeded", "{ended}");
    assert_eq!(ended["result"]["stdout"], "ran\n", "{ended}");
    assert_eq!(client.printed("env", "cat runs").await, "ran\n");
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
    kill_first_process(&namespace.pod().await);
    // The node waits for ten seconds, then for twenty.
    until(async || {
        let status = status(client, "env").await;
        status["phase"] == "failed" && status["reason"] == "exited"
    })
    .await;
    let pods: Api<Pod> = namespace.api();
    let left = pods.list(&Default::default()).await.expect("listed").items;
    assert!(left.is_empty(), "it would be started again and again");
    start(client, "env").await;
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
    let name = namespace.pod().await.name_any();
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
    start(client, "env").await;
    assert_eq!(client.printed("env", "cat runs").await, "ran\n");
}

#[tokio::test]
async fn a_pod_that_is_evicted_loses_its_commands_and_can_be_started_again() {
    let Service {
        client, namespace, ..
    } = &Service::start().await;
    client.create("env").await;
    // A command that an end of the whole environment meets, and does not heed.
    let script = "trap '' TERM; echo ran >> runs; sync; echo said; while :; do sleep 1; done";
    let job = client.submit("env", &json!({ "command": script })).await;
    until_output(client, &job, "said\n").await;

    let pods: Api<Pod> = namespace.api();
    let name = namespace.pod().await.name_any();
    // As a drain of the node does.
    pods.evict(&name, &EvictParams::default()).await.unwrap();

    let ended = client.ended(&job).await;
    assert_eq!(ended["state"], "lost", "{ended}");
    assert_eq!(ended["error"]["code"], "environment_gone", "{ended}");
    assert_eq!(ended["result"]["exit_code"], Value::Null, "{ended}");
    let output = client.output(&job).await;
    assert_eq!(output.stdout.bytes, b"said\n");
    wait_until("it is noted", async || {
        let status = status(client, "env").await;
        status["phase"] == "failed" && status["reason"] == "evicted"
    })
    .await;
    start(client, "env").await;
    assert_eq!(client.printed("env", "cat runs").await, "ran\n");
}

#[tokio::test]
async fn a_claim_that_is_never_bound_is_told_and_can_be_deleted() {
    let variables = [("EM_RUNTIME__STORAGE_CLASS", NEVER_CLASS)];
    let Service {
        client, namespace, ..
    } = &Service::start_with(&variables).await;
    let body = json!({ "id": "env" });
    let create = client.post("/v1/environments", &body).await.expect(202);
    wait_until("the reason is told", async || {
        let status = status(client, "env").await;
        let message = status["message"].as_str().unwrap_or_default();
        status["phase"] == "creating"
            && status["reason"] == "volume_pending"
            && message.contains("nobody.environment-manager.test")
    })
    .await;
    let create = id_of(&create.json()).to_owned();
    assert_eq!(client.job(&create).await["state"], "running");
    let exec = json!({ "command": "true" });
    let waits = client.submit("env", &exec).await;
    delete(client, "env").await;
    for job in [create, waits] {
        let ended = client.ended(&job).await;
        assert_eq!(ended["state"], "cancelled", "{ended}");
        assert_eq!(ended["error"]["code"], "environment_deleted", "{ended}");
    }
    assert_eq!(namespace.objects().await, Vec::<String>::new());
}

/// Lets no pod be made in a namespace.
async fn allow_no_pod(namespace: &Namespace) {
    let quotas: Api<ResourceQuota> = namespace.api();
    let quota = json!({ "metadata": { "name": "small" }, "spec": { "hard": { "pods": "0" } } });
    let quota = serde_json::from_value(quota).unwrap();
    quotas.create(&PostParams::default(), &quota).await.unwrap();
    wait_until("it counts", async || {
        let quota = quotas.get("small").await.unwrap();
        quota.status.is_some_and(|status| status.hard.is_some())
    })
    .await;
}

#[tokio::test]
async fn a_quota_that_is_used_up_fails_what_it_refuses_and_nothing_else() {
    let Service {
        client, namespace, ..
    } = &Service::start().await;
    client.create("before").await;
    allow_no_pod(namespace).await;
    let body = json!({ "id": "env" });
    let create = client.post("/v1/environments", &body).await.expect(202);
    let create = client.ended(id_of(&create.json())).await;
    assert_eq!(create["state"], "failed", "{create}");
    assert_eq!(create["error"]["code"], "quota_exceeded", "{create}");
    let status = status(client, "env").await;
    assert_eq!(status["phase"], "failed", "{status}");
    assert_eq!(status["reason"], "quota_exceeded", "{status}");
    let message = status["message"].as_str().unwrap_or_default();
    assert!(message.contains("small"), "{status}");
    assert_eq!(client.printed("before", "echo well").await, "well\n");

    let quotas: Api<ResourceQuota> = namespace.api();
    quotas.delete("small", &Default::default()).await.unwrap();
    start(client, "env").await;
    assert_eq!(client.printed("env", "echo well").await, "well\n");
    delete(client, "env").await;
    delete(client, "before").await;
    assert_eq!(namespace.objects().await, Vec::<String>::new());
}

#[tokio::test]
async fn an_image_of_one_program_and_no_shell_is_an_environment() {
    let Service {
        client, namespace, ..
    } = &Service::start().await;
    let body = json!({ "id": "env", "image": BARE_IMAGE });
    client.create_from(&body).await;
    let content = "uploaded\n".repeat(1000);
    client
        .put_file("env", "d/file", content.clone())
        .await
        .expect(200);
    let shown = client
        .exec("env", &json!({ "command": ["/cat", "d/file"] }))
        .await;
    assert_eq!(shown["state"], "succeeded", "{shown}");
    assert_eq!(shown["result"]["stdout"], content, "{shown}");
    let missing = client
        .exec("env", &json!({ "command": ["/cat", "none"] }))
        .await;
    assert_eq!(missing["error"]["code"], "exit_nonzero", "{missing}");
    assert_eq!(missing["result"]["exit_code"], 1, "{missing}");
    // It says so, rather than that the script failed.
    let script = client.sh("env", "echo said").await;
    assert_eq!(script["state"], "failed", "{script}");
    assert_eq!(script["error"]["code"], "command_not_found", "{script}");

    let found = client.get_file("env", "d/file").await.expect(200);
    assert_eq!(found.text(), content);
    let listed = client
        .list_files("env", &[("path", "d")])
        .await
        .expect(200)
        .json();
    assert_eq!(listed["entries"][0]["name"], "file", "{listed}");
    let root = client
        .list_files("env", &[("path", "/")])
        .await
        .expect(200)
        .json();
    let names = root["entries"].as_array().expect("a list").iter();
    let programs = names.filter(|entry| entry["type"] == "file");
    let programs: Vec<_> = programs.map(|entry| &entry["name"]).collect();
    assert_eq!(programs, ["cat"], "{root}");
    client
        .remove_file("env", &[("path", "d/file")])
        .await
        .expect(200);
    client.get_file("env", "d/file").await.expect(404);
    delete(client, "env").await;
    assert_eq!(namespace.objects().await, Vec::<String>::new());
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
