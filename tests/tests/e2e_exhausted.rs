//! A command that several workers began and none could end is given up, and only once nothing of it runs.

use nix::sys::signal::{Signal, kill};
use rusqlite::Connection;
use serde_json::json;
use tests::program::{Client, Program, processes_with, wait_until};

/// A service that is stopped, with a command that runs and was begun as often as it may be.
struct Exhausted {
    program: Program,
    job: String,
    marker: String,
}

impl Exhausted {
    async fn new() -> Self {
        let mut program = Program::start().await;
        let client = program.client();
        client.create("env").await;
        let marker = format!("exhausted-{:016x}", rand::random::<u64>());
        let script = "echo begun; while :; do sleep 1; done";
        let body = json!({ "command": ["sh", "-c", script, &marker] });
        let job = client.submit("env", &body).await;
        wait_until("it has printed", async || {
            let window = client.get(&format!("/v1/jobs/{job}/output")).await.json();
            window["next_stdout_offset"] == 6
        })
        .await;
        program.kill9();
        let file = program.folder().path().join("environment-manager.db");
        let changed = Connection::open(file)
            .expect("opens")
            .execute(
                "UPDATE jobs SET record = json_set(record, '$.attempts', 100) WHERE state = 'running'",
                [],
            )
            .expect("changed");
        assert_eq!(changed, 1);
        Self {
            program,
            job,
            marker,
        }
    }

    /// Starts the service again; asserts how the job ends, and that nothing of it is left then.
    async fn given_up(&mut self) -> Client {
        self.program.restart().await;
        let client = self.program.client();
        let job = client.ended(&self.job).await;
        assert_eq!(processes_with(&self.marker), []);
        assert_eq!(job["state"], "failed", "{job}");
        assert_eq!(job["error"]["code"], "attempts_exhausted", "{job}");
        assert_eq!(job["output"]["incomplete"], true, "{job}");
        let window = client.get(&format!("/v1/jobs/{}/output", self.job)).await;
        assert_eq!(window.json()["stdout"], "begun\n", "{}", window.text());
        client
    }
}

#[tokio::test]
async fn a_command_that_is_given_up_is_ended_before() {
    let mut exhausted = Exhausted::new().await;
    let client = exhausted.given_up().await;
    assert_eq!(client.printed("env", "echo well").await, "well\n");
}

#[tokio::test]
async fn the_environment_of_one_that_cannot_be_ended_is_killed() {
    let mut exhausted = Exhausted::new().await;
    let first = exhausted.program.first_process().await;
    kill(first, Signal::SIGSTOP).expect("stopped");
    let client = exhausted.given_up().await;
    let found = client.get("/v1/environments/env").await.expect(200).json();
    assert_eq!(found["status"]["phase"], "failed", "{found}");
    assert_eq!(found["status"]["reason"], "environment_killed", "{found}");
}

#[tokio::test]
async fn a_command_outlives_more_crashes_than_other_jobs_may_have_attempts() {
    let mut program = Program::start().await;
    program.client().create("env").await;
    let script =
        "echo ran >> runs; echo begun; while [ ! -e go ]; do sleep 0.1; done; cat runs; exit 5";
    let job = program
        .client()
        .submit("env", &json!({ "command": script }))
        .await;
    for begun in 1..=7 {
        let client = program.client();
        wait_until("a worker follows it", async || {
            let window = client.get(&format!("/v1/jobs/{job}/output")).await.json();
            client.job(&job).await["attempts"] == begun && window["next_stdout_offset"] == 6
        })
        .await;
        program.kill9();
        program.restart().await;
    }
    let client = program.client();
    client.put_file("env", "go", "").await.expect(200);
    let job = client.ended(&job).await;
    assert_eq!(job["result"]["exit_code"], 5, "{job}");
    assert_eq!(job["result"]["stdout"], "begun\nran\n", "{job}");
}
