//! Jobs that shall end although their environment does not answer, or answers with nothing but output.

use nix::sys::signal::{Signal, kill};
use reqwest::Method;
use serde_json::{Value, json};
use tests::program::{Client, Program, files_below, id_of, wait_until};

async fn until_running(client: &Client, job: &str) {
    client.until_state(job, "running").await;
}

async fn until_printed(client: &Client, job: &str, bytes: u64) {
    wait_until(
        &format!("job {job} has printed {bytes} bytes"),
        async || {
            let path = format!("/v1/jobs/{job}/output?limit=1&stdout_offset={}", bytes - 1);
            let window = client.get(&path).await.expect(200).json();
            window["next_stdout_offset"].as_u64() >= Some(bytes)
        },
    )
    .await;
}

async fn start_again(client: &Client) {
    let path = "/v1/environments/env/start";
    let job = client.post(path, &json!({})).await.expect(202).json();
    let job = client.ended(id_of(&job)).await;
    assert_eq!(job["state"], "succeeded", "{job}");
    assert_eq!(client.printed("env", "echo well").await, "well\n");
}

/// An environment with two commands, whose PID 1 stands still, under a worker that has never been connected to it.
struct Standstill {
    program: Program,
    client: Client,
    job: String,
    bystander: String,
}

impl Standstill {
    async fn new(timeout_seconds: u64) -> Self {
        let mut program = Program::start().await;
        let client = program.client();
        client.create("env").await;
        let sleep = json!({ "command": ["sleep", "4711"], "timeout_seconds": timeout_seconds });
        let job = client.submit("env", &sleep).await;
        let bystander = json!({ "command": "echo here; sleep 4711" });
        let bystander = client.submit("env", &bystander).await;
        until_running(&client, &job).await;
        until_printed(&client, &bystander, 5).await;
        program.kill9();
        let first = program.first_process().await;
        kill(first, Signal::SIGSTOP).expect("stopped");
        program.restart().await;
        Self {
            client: program.client(),
            program,
            job,
            bystander,
        }
    }

    /// Asserts how both ended and that the environment can be used again.
    async fn assert_killed(&self, state: &str) {
        let job = self.client.ended(&self.job).await;
        assert_eq!(job["state"], state, "{job}");
        assert_eq!(job["result"]["confirmed"], false, "{job}");
        assert_eq!(job["result"]["exit_code"], Value::Null, "{job}");
        let other = self.client.ended(&self.bystander).await;
        assert_eq!(other["state"], "failed", "{other}");
        assert_eq!(other["error"]["code"], "environment_killed", "{other}");
        start_again(&self.client).await;
        assert!(!self.program.log().contains("panicked"));
    }
}

#[tokio::test]
async fn a_timeout_that_nobody_confirms_kills_the_environment_also_out_of_reach() {
    let standstill = Standstill::new(3).await;
    standstill.assert_killed("timed_out").await;
}

#[tokio::test]
async fn a_cancel_that_nobody_confirms_kills_the_environment_also_out_of_reach() {
    let standstill = Standstill::new(3600).await;
    let path = format!("/v1/jobs/{}/cancel", standstill.job);
    let answer = standstill
        .client
        .post(&path, &json!({ "grace_seconds": 1 }))
        .await;
    assert!(matches!(answer.status, 200 | 202), "{}", answer.text());
    standstill.assert_killed("cancelled").await;
}

#[tokio::test]
async fn a_flood_of_output_hides_no_cancel() {
    let program = Program::start_with(&[("EM_LIMITS__OUTPUT_BYTES", "64Mi")]).await;
    let client = program.client();
    client.create("env").await;
    let flood = json!({ "command": ["yes", "0123456789abcdef0123456789abcdef"] });
    let job = client.submit("env", &flood).await;
    until_printed(&client, &job, 8 << 20).await;
    client.cancel(&job).await;
    let ended = client.ended(&job).await;
    assert_eq!(ended["state"], "cancelled", "{ended}");
    assert_eq!(ended["result"]["confirmed"], true, "{ended}");
    let total = ended["output"]["stdout_bytes"].as_u64().expect("a count");
    let output = client.output(&job).await;
    assert_eq!(output.stdout.end, total);
    assert!(output.stdout.gaps.is_empty() || output.truncated);
    assert_eq!(client.printed("env", "echo well").await, "well\n");
}

#[tokio::test]
async fn a_streamed_upload_that_is_cancelled_writes_nothing() {
    let program = Program::start().await;
    let client = program.client();
    client.create("env").await;
    let content = vec![b'x'; 256 << 20];
    let uploading = tokio::spawn({
        let client = client.clone();
        async move { client.put_file("env", "large", content).await }
    });
    let volume = program.volume().await;
    let written = || -> u64 {
        let files = files_below(&volume);
        let sizes = files.iter().filter_map(|file| file.metadata().ok());
        sizes.map(|found| found.len()).sum()
    };
    wait_until("a part of it is written", async || written() > 0).await;
    let first = program.first_process().await;
    kill(first, Signal::SIGSTOP).expect("stopped");
    let jobs = client.get("/v1/jobs?kind=upload").await.expect(200).json();
    let job = id_of(&jobs["jobs"][0]).to_owned();
    client.cancel(&job).await;
    let ended = client.ended(&job).await;
    assert_eq!(ended["state"], "cancelled", "{ended}");
    kill(first, Signal::SIGCONT).expect("goes on");
    let answer = uploading.await.expect("an answer");
    assert!(answer.status >= 400, "{}", answer.text());
    wait_until("nothing of it is left", async || {
        files_below(&volume).is_empty()
    })
    .await;
    let request = client
        .request(Method::GET, "/v1/environments/env/files/content")
        .query(&[("path", "large")]);
    client.send(request).await.expect(404);
}
