//! Environments that end by themselves: at the end of their lifetime, or when nobody uses them.

use reqwest::Method;
use serde_json::json;
use tests::program::{Client, Program, wait_until};

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
    assert_eq!(program.folder().lives().len(), 1, "its volume went with it");
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
