//! Input to running commands: every byte once and in order, over a kill of the service too.

use reqwest::Method;
use serde_json::{Value, json};
use tests::program::{Answer, Client, Program, wait_until};

async fn write(client: &Client, job: &str, query: &str, body: impl Into<reqwest::Body>) -> Answer {
    let request = client.request(Method::POST, &format!("/v1/jobs/{job}/stdin?{query}"));
    client.send(request.body(body)).await
}

async fn next_offset(
    client: &Client,
    job: &str,
    query: &str,
    body: impl Into<reqwest::Body>,
) -> u64 {
    let answer = write(client, job, query, body).await.expect(200).json();
    answer["next_offset"].as_u64().expect("a number")
}

async fn open(client: &Client, body: Value) -> String {
    let mut body = body;
    body["stdin_open"] = json!(true);
    client.submit("env", &body).await
}

/// Waits until a job has printed this much to its standard output, and gives it.
async fn printed(client: &Client, job: &str, bytes: usize) -> String {
    let mut text = String::new();
    wait_until(&format!("{bytes} bytes are printed"), async || {
        let window = client
            .get(&format!("/v1/jobs/{job}/output"))
            .await
            .expect(200)
            .json();
        text = window["stdout"].as_str().expect("text").to_owned();
        text.len() >= bytes
    })
    .await;
    text
}

#[tokio::test]
async fn a_command_is_talked_to() {
    let program = Program::start().await;
    let client = program.client();
    client.create("env").await;
    let script = "read a; echo got $a; read b; echo got $b; cat; echo end";
    let job = open(&client, json!({ "command": script, "stdin": "one\n" })).await;
    assert_eq!(printed(&client, &job, 8).await, "got one\n");
    assert_eq!(next_offset(&client, &job, "offset=4", "two\nthr").await, 11);
    assert_eq!(printed(&client, &job, 19).await, "got one\ngot two\nthr");
    // Sent again, by a caller that did not hear the answer.
    assert_eq!(next_offset(&client, &job, "offset=4", "two\nthr").await, 11);
    assert_eq!(next_offset(&client, &job, "", "ee\n").await, 14);
    write(&client, &job, "offset=20", "x").await.expect(409);
    assert_eq!(next_offset(&client, &job, "eof=true", "").await, 14);
    let ended = client.ended(&job).await;
    assert_eq!(
        ended["result"]["stdout"], "got one\ngot two\nthree\nend\n",
        "{ended}"
    );
    write(&client, &job, "", "x").await.expect(409);
}

#[tokio::test]
async fn a_large_body_streams_into_a_command_that_reads_slowly() {
    let program = Program::start().await;
    let client = program.client();
    client.create("env").await;
    let script = "dd bs=64k status=none | sha256sum; sleep 0";
    let job = open(&client, json!({ "command": script })).await;
    let size = 40 << 20;
    let bytes: Vec<u8> = (0..size)
        .map(|i: u64| (i.wrapping_mul(0x9e37_79b9) >> 13) as u8)
        .collect();
    let expected = {
        use sha2::{Digest as _, Sha256};
        let digest = Sha256::digest(&bytes);
        digest
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect::<String>()
    };
    assert_eq!(
        next_offset(&client, &job, "offset=0&eof=true", bytes).await,
        size
    );
    let ended = client.ended(&job).await;
    assert_eq!(
        ended["result"]["stdout"],
        format!("{expected}  -\n"),
        "{ended}"
    );
}

#[tokio::test]
async fn input_goes_on_after_kill_9() {
    let mut program = Program::start().await;
    program.client().create("env").await;
    let job = open(
        &program.client(),
        json!({ "command": "cat", "timeout_seconds": 300 }),
    )
    .await;
    let mut sent = String::new();
    for round in 0..4 {
        let client = program.client();
        for line in 0..50 {
            let text = format!("round {round} line {line}\n");
            let offset = sent.len();
            sent += &text;
            let next = next_offset(&client, &job, &format!("offset={offset}"), text).await;
            assert_eq!(next, sent.len() as u64);
        }
        program.kill9();
        program.restart().await;
        // The last line again: it is known, whatever had become of it.
        let client = program.client();
        let known = sent.len() - 5;
        let text = sent[known..].to_owned();
        assert_eq!(
            next_offset(&client, &job, &format!("offset={known}"), text).await,
            sent.len() as u64
        );
    }
    let client = program.client();
    next_offset(&client, &job, "eof=true", "").await;
    let ended = client.ended(&job).await;
    assert_eq!(ended["state"], "succeeded", "{ended}");
    assert_eq!(ended["result"]["stdout"], sent);
}

#[tokio::test]
async fn a_command_that_reads_no_more_closes_its_input() {
    let program = Program::start().await;
    let client = program.client();
    client.create("env").await;
    let job = open(
        &client,
        json!({ "command": "exec <&-; echo closed; sleep 300" }),
    )
    .await;
    printed(&client, &job, 7).await;
    wait_until("its input is closed", async || {
        let answer = write(&client, &job, "", "x".repeat(200_000)).await;
        answer.status == 409 && answer.json()["code"] == "stdin_closed"
    })
    .await;
    client.cancel(&job).await;
    assert_eq!(client.ended(&job).await["state"], "cancelled");

    // One that never reads takes a bounded amount, says so, and can be cancelled.
    let job = open(&client, json!({ "command": "sleep 300" })).await;
    let request = client.request(Method::POST, &format!("/v1/jobs/{job}/stdin"));
    let request = request
        .header("Prefer", "wait=1")
        .body(vec![b'x'; 20 << 20]);
    let full = client.send(request).await.expect(429).json();
    assert_eq!(full["code"], "stdin_full", "{full}");
    client.cancel(&job).await;
    assert_eq!(client.ended(&job).await["state"], "cancelled");

    let job = client
        .submit("env", &json!({ "command": "cat; echo eof" }))
        .await;
    write(&client, &job, "", "x").await.expect(409);
    assert_eq!(client.ended(&job).await["result"]["stdout"], "eof\n");
}
