//! Requests that are repeated.

use futures::future::join_all;
use reqwest::Method;
use serde_json::{Value, json};

use crate::world::World;

const EXEC: &str = "/v1/environments/e/exec";

#[tokio::test]
async fn a_repeated_request_is_one_job() {
    let world = World::new().await;
    world.environment("e").await;
    let send = |path: &'static str, key: &'static str, body: Value| {
        let request = world
            .request(Method::POST, path)
            .header("Idempotency-Key", key);
        world.send(request.header("Prefer", "wait=60").json(&body))
    };
    let body = json!({"command": "echo x >> count"});
    let jobs = join_all((0..8).map(|_| send(EXEC, "k1", body.clone()))).await;
    let ids: Vec<Value> = jobs
        .into_iter()
        .map(|job| job.expect(200).json()["id"].clone())
        .collect();
    assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
    let count = world.exec("e", "cat count").await;
    assert_eq!(count["result"]["stdout"], "x\n");

    let reused = send(EXEC, "k1", json!({"command": "echo y"}))
        .await
        .expect(422);
    assert_eq!(reused.json()["code"], "idempotency_key_reused");
    // Another path has keys of its own.
    send("/v1/environments/e/stop", "k1", json!({}))
        .await
        .expect(200);
}

#[tokio::test]
async fn a_name_that_was_made_is_the_same_in_a_repetition() {
    let world = World::new().await;
    let send = || {
        let request = world
            .request(Method::POST, "/v1/environments")
            .json(&json!({}));
        world.send(request.header("Idempotency-Key", "k"))
    };
    let (first, second) = (send().await.json(), send().await.json());
    assert_eq!(first["environment"], second["environment"]);
    assert_eq!(first["id"], second["id"]);
}

#[tokio::test]
async fn a_large_upload_that_is_repeated_leaves_nothing_staged() {
    let world = World::new().await;
    world.environment("e").await;
    let content = "x".repeat(400 * 1024);
    let body = json!({"environment_id": "e", "path": "big", "content": content});
    let send = || {
        let request = world
            .request(Method::POST, "/upload_to_environment")
            .json(&body);
        world.send(request.header("Idempotency-Key", "k"))
    };
    let (first, second) = (send().await.expect(200), send().await.expect(200));
    assert_eq!(first.header("x-job-id"), second.header("x-job-id"));
    let staged = world
        .backends
        .blobs
        .list("staging", "default/")
        .await
        .expect("listed");
    // The first one's content stays until its worker or its age removes it.
    assert!(
        staged
            .iter()
            .all(|blob| blob.name.object().contains(first.header("x-job-id")))
    );
}
