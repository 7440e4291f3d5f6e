//! Commands, and the jobs that they are.

use reqwest::Method;
use serde_json::{Value, json};

use crate::world::World;

const EXEC: &str = "/v1/environments/e/exec";

#[tokio::test]
async fn a_command_ends_with_its_output_and_exit_code() {
    let world = World::new().await;
    world.environment("e").await;
    let body = json!({"command": "echo out $A; echo err >&2; exit 3", "env": {"A": "hunter2"}, "labels": {"k": "v"}});
    let job = world.post_wait(EXEC, body).await.expect(200).json();
    assert_eq!(job["state"], "failed");
    assert_eq!(job["error"]["code"], "exit_nonzero");
    assert_eq!(job["result"]["exit_code"], 3);
    assert_eq!(job["result"]["signal"], Value::Null);
    assert_eq!(job["result"]["stdout"], "out hunter2\n");
    assert_eq!(job["result"]["stderr"], "err\n");
    assert_eq!(job["result"].get("encoding"), None);
    assert_eq!(job["input"]["env"], json!(["A"]));
    assert_eq!(job["labels"], json!({"k": "v"}));
    assert_eq!(
        job["output"],
        json!({"stdout_bytes": 12, "stderr_bytes": 4, "truncated": false})
    );
    assert_eq!(job["attempts"], 1);
    let keys: Vec<&String> = job.as_object().expect("an object").keys().collect();
    let mut expected = [
        "id",
        "kind",
        "environment",
        "state",
        "created_at",
        "started_at",
        "finished_at",
        "attempts",
        "input",
        "result",
        "error",
        "output",
        "labels",
    ];
    expected.sort_unstable();
    assert_eq!(keys, expected);
}

#[tokio::test]
async fn a_job_can_be_asked_for_and_waited_for() {
    let world = World::new().await;
    world.environment("e").await;
    let accepted = world
        .post(EXEC, json!({"command": ["echo", "a b"], "stdin": "12345"}))
        .await
        .expect(202);
    assert_eq!(accepted.header("retry-after"), "1");
    assert_eq!(accepted.header("preference-applied"), "");
    let job = accepted.json();
    assert_eq!(job["input"]["command"], json!(["echo", "a b"]));
    assert_eq!(job["input"]["stdin_bytes"], 5);
    let location = accepted.header("location");
    assert_eq!(
        location,
        format!("/v1/jobs/{}", job["id"].as_str().expect("an id"))
    );
    let request = world
        .request(Method::GET, location)
        .header("Prefer", "wait=60");
    let waited = world.send(request).await.expect(200);
    assert_eq!(waited.header("preference-applied"), "wait=60");
    assert_eq!(waited.json()["state"], "succeeded");
    assert_eq!(waited.json()["result"]["stdout"], "a b\n");
}

#[tokio::test]
async fn a_wait_that_is_too_short_answers_202() {
    let world = World::new().await;
    world.environment("e").await;
    let request = world
        .request(Method::POST, EXEC)
        .json(&json!({"command": "#hang"}));
    let answer = world
        .send(request.header("Prefer", "wait=1"))
        .await
        .expect(202);
    assert_eq!(answer.header("preference-applied"), "respond-async");
    let id = answer.json()["id"].as_str().expect("an id").to_owned();

    let cancel = world.request(Method::POST, &format!("/v1/jobs/{id}/cancel"));
    let cancelled = world
        .send(cancel.header("Prefer", "wait=60"))
        .await
        .expect(200)
        .json();
    assert_eq!(cancelled["state"], "cancelled");
    assert_eq!(cancelled["error"]["code"], "cancelled");
    // Once more changes nothing.
    let again = world
        .post(&format!("/v1/jobs/{id}/cancel"), json!({"signal": "KILL"}))
        .await
        .expect(200);
    assert_eq!(again.json(), cancelled);
}

#[tokio::test]
async fn what_is_not_utf8_comes_as_base64() {
    let world = World::new().await;
    world.environment("e").await;
    let job = world.exec("e", "printf 'a\\377'; echo b >&2").await;
    assert_eq!(job["result"]["encoding"], "base64");
    assert_eq!(job["result"]["stdout"], "Yf8=");
    assert_eq!(job["result"]["stderr"], "Ygo=");
}

#[tokio::test]
async fn a_long_output_is_previewed_as_text() {
    let world = World::new().await;
    world.environment("e").await;
    // Three bytes a character: 64 KiB is no multiple of that, so that both cuts split one.
    let job = world
        .exec(
            "e",
            "printf 'x'; for i in $(seq 40000); do printf 'グ'; done",
        )
        .await;
    let result = &job["result"];
    assert_eq!(result.get("encoding"), None);
    let text = result["stdout"].as_str().expect("a text");
    let omitted = result["stdout_omitted_bytes"].as_u64().expect("a number");
    assert!(text.starts_with("xグ") && text.ends_with('グ'));
    assert_eq!(text.len() as u64 + omitted, 120_001);
    assert!(result["stdout_omitted_at"].as_u64().expect("a number") < text.len() as u64);
    assert_eq!(result.get("stderr_omitted_bytes"), None);
}

#[tokio::test]
async fn jobs_are_listed_newest_first() {
    let world = World::new().await;
    world.environment("e").await;
    world.environment("f").await;
    for index in 0..3 {
        world.exec("e", &format!("exit {index}")).await;
    }
    world.get("/v1/environments/e/files").await.expect(200);
    let kinds = |page: Value| -> Vec<String> {
        let items = page["jobs"].as_array().expect("items").iter();
        items
            .map(|job| job["kind"].as_str().expect("a kind").to_owned())
            .collect()
    };
    let all = world.get("/v1/jobs?environment=e").await.expect(200).json();
    assert_eq!(all["jobs"][0]["input"]["command"], "exit 2");
    assert_eq!(kinds(all), ["exec", "exec", "exec", "create"]);
    assert_eq!(
        kinds(
            world
                .get("/v1/jobs?environment=e&state=failed")
                .await
                .json()
        )
        .len(),
        2
    );
    assert_eq!(
        kinds(world.get("/v1/jobs?kind=create").await.json()).len(),
        2
    );
    assert_eq!(
        kinds(world.get("/v1/jobs?kind=list").await.json()),
        ["list"]
    );
    let page = world.get("/v1/jobs?environment=e&page_size=3").await.json();
    let token = page["next_page_token"].as_str().expect("a token");
    let rest = world
        .get(&format!("/v1/jobs?environment=e&page_token={token}"))
        .await
        .expect(200);
    assert_eq!(kinds(rest.json()), ["create"]);
    world
        .get("/v1/jobs?kind=exec&state=failed")
        .await
        .expect(422);
    world.get("/v1/jobs?environment=-").await.expect(422);
    world.get("/v1/jobs?kind=dance").await.expect(422);
}
