//! Environments that end with what runs in them: at a stop, at the end of their lifetime, or when nobody uses them.

use reqwest::Method;
use serde_json::json;
use tests::program::{Client, Program, id_of, processes_with, wait_until};

async fn phase(client: &Client, environment: &str) -> String {
    let found = client
        .get(&format!("/v1/environments/{environment}"))
        .await
        .expect(200);
    found.json()["status"]["phase"]
        .as_str()
        .expect("text")
        .to_owned()
}

#[tokio::test]
async fn a_stop_ends_what_runs_and_keeps_what_it_wrote() {
    let program = Program::start().await;
    let client = program.client();
    client.create("env").await;
    client.create("other").await;
    // `sleep` adds its arguments up: the second one only marks the process.
    let marker = format!("0.00{:020}", rand::random::<u64>());
    let script =
        format!("echo before | tee file; setsid sleep 4711 {marker} & sleep 4711 {marker}");
    let job = client.submit("env", &json!({ "command": script })).await;
    let beside = client
        .submit("other", &json!({ "command": "sleep 4711" }))
        .await;
    client.until_state(&beside, "running").await;
    wait_until("both processes run", async || {
        processes_with(&format!("sleep\0{}\0{marker}", 4711)).len() == 2
    })
    .await;
    let stop = client.post("/v1/environments/env/stop", &json!({})).await;
    let stop = client.ended(id_of(&stop.expect(202).json())).await;
    assert_eq!(stop["state"], "succeeded", "{stop}");
    let ended = client.ended(&job).await;
    assert_eq!(ended["state"], "cancelled", "{ended}");
    assert_eq!(ended["error"]["code"], "environment_stopped", "{ended}");
    assert_eq!(ended["result"]["exit_code"], json!(null), "{ended}");
    let output = client.output(&job).await;
    assert_eq!(output.stdout.bytes, b"before\n");
    assert_eq!(processes_with(&marker), []);
    assert_eq!(client.job(&beside).await["state"], "running");
    let path = "/v1/environments/env/exec";
    let refused = client.post(path, &json!({ "command": "true" })).await;
    assert_eq!(refused.expect(409).json()["code"], "environment_stopped");
    let start = client.post("/v1/environments/env/start", &json!({})).await;
    client.ended(id_of(&start.expect(202).json())).await;
    assert_eq!(client.printed("env", "cat file").await, "before\n");
}

#[tokio::test]
async fn a_lifetime_ends_with_everything_in_the_environment() {
    let program = Program::start().await;
    let client = program.client();
    client
        .create_from(&json!({ "id": "env", "ttl_seconds": 3600 }))
        .await;
    client.create("other").await;
    let job = client
        .submit("env", &json!({ "command": "sleep 300" }))
        .await;
    client.until_state(&job, "running").await;
    let patch = client.request(Method::PATCH, "/v1/environments/env");
    client
        .send(patch.json(&json!({ "ttl_seconds": 1 })))
        .await
        .expect(200);
    wait_until("it is deleted", async || {
        phase(&client, "env").await == "deleted"
    })
    .await;
    let ended = client.ended(&job).await;
    assert_eq!(ended["state"], "cancelled", "{ended}");
    assert_eq!(ended["error"]["code"], "environment_deleted");
    assert_eq!(program.volumes().await.len(), 1, "its volume went with it");
    assert_eq!(phase(&client, "other").await, "running");
}

#[tokio::test]
async fn an_idle_environment_is_stopped_and_one_that_works_is_not() {
    let program = Program::start().await;
    let client = program.client();
    for id in ["busy", "idle"] {
        client
            .create_from(&json!({ "id": id, "idle_timeout_seconds": 1 }))
            .await;
    }
    let job = client
        .submit("busy", &json!({ "command": "sleep 300" }))
        .await;
    client.until_state(&job, "running").await;
    client.put_file("idle", "kept", "here").await;
    wait_until("it is stopped", async || {
        phase(&client, "idle").await == "stopped"
    })
    .await;
    assert_eq!(phase(&client, "busy").await, "running");
    assert_eq!(client.job(&job).await["state"], "running");
    // Its volume is there when it starts again.
    let start = client
        .post("/v1/environments/idle/start", &json!({}))
        .await
        .expect(202)
        .json();
    client.ended(start["id"].as_str().expect("an id")).await;
    assert_eq!(
        client.get_file("idle", "kept").await.expect(200).body,
        "here"
    );
    client.cancel(&job).await;
    wait_until("it is stopped too", async || {
        phase(&client, "busy").await == "stopped"
    })
    .await;
}
