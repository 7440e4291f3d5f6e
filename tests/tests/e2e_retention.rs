//! What has ended is kept for the time that is set, with its output and what it staged, and not longer.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::Method;
use serde_json::{Value, json};
use tests::program::{
    Client, Program, all_ended_long_ago, ended_earlier, files_below, id_of, pieces_of_output,
    wait_until,
};

/// Runs a command with a mebibyte of output to its end.
async fn ran(client: &Client) -> String {
    let job = client.sh("env", "head -c 1048576 /dev/urandom").await;
    assert_eq!(job["state"], "succeeded", "{job}");
    id_of(&job).to_owned()
}

async fn is_gone(client: &Client, job: &str) -> bool {
    let found = client.get(&format!("/v1/jobs/{job}")).await;
    let output = client.get(&format!("/v1/jobs/{job}/output")).await;
    assert_eq!(found.status, output.status, "the output goes with its job");
    found.status == 404
}

#[tokio::test]
async fn jobs_and_their_output_go_after_the_time_that_is_set() {
    let mut program = Program::start_with(&[("EM_STORE__RETENTION_DAYS", "2")]).await;
    let client = program.client();
    client.create("env").await;
    let created = client.get("/v1/environments/env").await.expect(200).json();
    let creation = created["created_by"].as_str().map(str::to_owned);
    let (old, younger, new) = (ran(&client).await, ran(&client).await, ran(&client).await);
    let kept = client.output(&younger).await.stdout.bytes;
    let large = STANDARD.encode(vec![7; 1 << 20]);
    client
        .put_file("env", "large", large.clone())
        .await
        .expect(200);
    let publish = json!({ "path": "large", "bucket": "results", "destination": "large" });
    let publish = client
        .post("/v1/environments/env/artifacts", &publish)
        .await
        .expect(202)
        .json();
    let publish = client.ended(id_of(&publish)).await;
    let artifact = publish["result"]["artifact_id"].as_str().expect("an id");
    program.term();
    ended_earlier(&program, &old, 49);
    ended_earlier(&program, &younger, 47);
    ended_earlier(&program, id_of(&publish), 49);
    // The job that made an environment stays as long as that does.
    all_ended_long_ago(&program, "create");
    program.restart().await;
    let client = program.client();
    wait_until("the old ones are gone", async || {
        is_gone(&client, &old).await && is_gone(&client, id_of(&publish)).await
    })
    .await;
    assert_eq!(pieces_of_output(&program, &old), 0);
    for job in [&younger, &new] {
        assert!(!is_gone(&client, job).await);
        assert!(pieces_of_output(&program, job) > 0);
    }
    assert_eq!(client.output(&younger).await.stdout.bytes, kept);
    if let Some(creation) = creation {
        assert!(!is_gone(&client, &creation).await);
    }
    let listed = client.get("/v1/jobs?kind=exec").await.expect(200).json();
    let listed: Vec<&str> = listed["jobs"]
        .as_array()
        .expect("a list")
        .iter()
        .map(id_of)
        .collect();
    assert_eq!(listed, [&new, &younger]);
    // What was published was published to be kept.
    let content = client
        .get(&format!("/v1/artifacts/{artifact}/content"))
        .await
        .expect(200);
    assert_eq!(content.body, large);
}

#[tokio::test]
async fn what_was_read_for_nobody_goes_within_minutes_and_nothing_younger_does() {
    let mut program = Program::start().await;
    let client = program.client();
    client.create("env").await;
    client
        .put_file("env", "large", vec![7; 1 << 20])
        .await
        .expect(200);
    let read = async || {
        let path = "/v1/environments/env/files/content?path=large";
        let request = client.request(Method::GET, path).header("Prefer", "wait=0");
        let job = client.send(request).await.expect(202).json();
        client.ended(id_of(&job)).await
    };
    let (old, young): (Value, Value) = (read().await, read().await);
    assert_eq!(
        (&old["state"], &young["state"]),
        (&json!("succeeded"), &json!("succeeded"))
    );
    let staged = |program: &Program| files_below(&program.folder().path().join("blobs/staging"));
    assert_eq!(staged(&program).len(), 2);
    program.term();
    ended_earlier(&program, id_of(&old), 1);
    program.restart().await;
    let client = program.client();
    wait_until("the old one is gone", async || {
        is_gone(&client, id_of(&old)).await
    })
    .await;
    wait_until("its part is too", async || staged(&program).len() == 1).await;
    assert!(!is_gone(&client, id_of(&young)).await);
    let left = staged(&program).remove(0).display().to_string();
    assert!(left.contains(id_of(&young)), "{left}");
}
