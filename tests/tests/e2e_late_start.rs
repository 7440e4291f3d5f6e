//! The time of a command counts from when it began, however long ago it was first leased.

use rusqlite::Connection;
use serde_json::json;
use tests::program::{Program, processes_with, wait_until};

/// Lets the service have leased its running commands long ago, as after a long stop or when a clock was set.
fn leased_long_ago(program: &Program) {
    let file = program.folder().path().join("environment-manager.db");
    let changed = Connection::open(file)
        .expect("opens")
        .execute(
            "UPDATE jobs SET record = json_set(record, '$.started_at', '2020-01-01T00:00:00Z')
             WHERE kind = 'exec' AND state = 'running'",
            [],
        )
        .expect("changed");
    assert_eq!(changed, 1);
}

/// A command that outlasts its grace and the time for a confirmation, not its own time.
fn lasting(marker: &str) -> serde_json::Value {
    let script = "sleep 25; echo done >> ran; cat ran";
    json!({ "command": ["sh", "-c", script, marker], "timeout_seconds": 120 })
}

async fn assert_whole(program: &Program, job: &str) {
    let client = program.client();
    let ended = client.ended(job).await;
    assert_eq!(ended["state"], "succeeded", "{ended}");
    assert_eq!(ended["result"]["stdout"], "done\n", "{ended}");
    assert_eq!(client.printed("env", "echo well").await, "well\n");
}

#[tokio::test]
async fn a_command_that_begins_long_after_its_lease_has_its_whole_time() {
    let mut program = Program::start_with(&[("EM_FAILPOINT", "before_start:kill")]).await;
    let client = program.client();
    client.create("env").await;
    let exec = client.send(
        client
            .request(reqwest::Method::POST, "/v1/environments/env/exec")
            .json(&lasting("late")),
    );
    // The process may die before its answer is out.
    let _ = tokio::time::timeout(std::time::Duration::from_secs(5), exec).await;
    wait_until("it died at the start of the command", async || {
        program.has_ended()
    })
    .await;
    drop(program.detach());
    leased_long_ago(&program);
    program.set("EM_FAILPOINT", None);
    program.restart().await;
    let jobs = program.client().get("/v1/jobs?kind=exec").await.json();
    let job = tests::program::id_of(&jobs["jobs"][0]).to_owned();
    assert_whole(&program, &job).await;
}

#[tokio::test]
async fn a_command_that_runs_keeps_its_time_when_a_clock_was_set() {
    let mut program = Program::start().await;
    let client = program.client();
    client.create("env").await;
    let marker = format!("clock-{:016x}", rand::random::<u64>());
    let job = client.submit("env", &lasting(&marker)).await;
    wait_until("it runs", async || processes_with(&marker).len() == 1).await;
    program.kill9();
    leased_long_ago(&program);
    program.restart().await;
    assert_whole(&program, &job).await;
}
