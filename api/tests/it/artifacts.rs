//! Artifacts.

use serde_json::json;

use crate::world::World;

const PUBLISH: &str = "/v1/environments/e/artifacts";

#[tokio::test]
async fn a_file_is_published_found_and_read() {
    let world = World::new().await;
    world.environment("e").await;
    world.exec("e", "printf hello > out.txt").await;
    let body = json!({"path": "out.txt", "metadata": {"k": "v"}, "execution_plan_id": "p", "task_id": "t"});
    let job = world.post_wait(PUBLISH, body).await.expect(200).json();
    assert_eq!(job["state"], "succeeded", "{job}");
    assert_eq!(job["result"]["size"], 5);
    assert!(
        job["result"]["uri"]
            .as_str()
            .is_some_and(|uri| uri.starts_with("file://"))
    );
    let id = job["result"]["artifact_id"].as_str().expect("an id");

    let artifact = world
        .get(&format!("/v1/artifacts/{id}"))
        .await
        .expect(200)
        .json();
    assert_eq!(artifact["bucket"], "artifacts");
    let made = format!("e/{}/out.txt", job["id"].as_str().expect("an id"));
    assert_eq!(artifact["object"], made);
    assert_eq!(
        (&artifact["path"], &artifact["metadata"]),
        (&json!("out.txt"), &json!({"k": "v"}))
    );
    assert_eq!(
        (&artifact["execution_plan_id"], &artifact["task_id"]),
        (&json!("p"), &json!("t"))
    );
    let listed = world.get("/v1/artifacts").await.expect(200).json();
    assert_eq!(listed["artifacts"], json!([artifact]));
    assert_eq!(listed["next_page_token"], "");
    let content = world
        .get(&format!("/v1/artifacts/{id}/content"))
        .await
        .expect(200);
    assert_eq!(
        (content.body.as_slice(), content.header("content-length")),
        (&b"hello"[..], "5")
    );
}

#[tokio::test]
async fn an_artifact_whose_object_was_taken_is_gone() {
    let world = World::new().await;
    world.environment("e").await;
    let publish = async |content: &str| {
        world.exec("e", &format!("printf {content} > f")).await;
        let body = json!({"path": "f", "bucket": "b", "destination": "x/y"});
        let job = world.post_wait(PUBLISH, body).await.expect(200).json();
        job["result"]["artifact_id"]
            .as_str()
            .expect("an id")
            .to_owned()
    };
    let (first, second) = (publish("one").await, publish("two").await);
    let gone = world
        .get(&format!("/v1/artifacts/{first}/content"))
        .await
        .expect(410);
    assert_eq!(gone.json()["code"], "artifact_replaced");
    assert_eq!(
        world
            .get(&format!("/v1/artifacts/{second}/content"))
            .await
            .expect(200)
            .body,
        b"two"
    );
}

#[tokio::test]
async fn what_cannot_be_published_is_named() {
    let world = World::new().await;
    world.environment("e").await;
    for (body, field) in [
        (json!({}), "path"),
        (json!({"path": "f", "bucket": "staging"}), "bucket"),
        (json!({"path": "f", "bucket": "Not A Bucket"}), "bucket"),
        (json!({"path": "f", "destination": "../x"}), "destination"),
        (json!({"path": "f", "destination": "/x"}), "destination"),
        (json!({"path": {"base64": "*"}}), "path"),
        (json!({"path": "f", "metadata": {"a": 1}}), "metadata.a"),
        (
            json!({"path": "f", "callback_url": "http://x"}),
            "callback_url",
        ),
    ] {
        let refused = world.post(PUBLISH, body.clone()).await.expect(422).json();
        assert_eq!(refused["errors"][0]["field"], field, "{body}");
    }
    let job = world
        .post_wait(PUBLISH, json!({"path": {"base64": "/w=="}}))
        .await
        .expect(200)
        .json();
    assert_eq!(job["error"]["code"], "file_not_found");
    assert_eq!(
        (&job["input"]["path"], &job["input"]["encoding"]),
        (&json!("/w=="), &json!("base64"))
    );
    world.get("/v1/artifacts/nonsense").await.expect(422);
    world
        .get(&format!("/v1/artifacts/art-{}", "a".repeat(26)))
        .await
        .expect(404);
    world
        .get(&format!("/v1/artifacts/art-{}/content", "a".repeat(26)))
        .await
        .expect(404);
}
