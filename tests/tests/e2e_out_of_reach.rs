//! Jobs that shall end although their environment does not answer, or answers with nothing but output.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use nix::sys::signal::{Signal, kill};
use reqwest::Method;
use serde_json::{Value, json};
use shared::environment::Phase;
use shared::job::{JobInput, JobState};
use tests::conformance::store::given::exec_input;
use tests::program::{Client, Program, files_below, id_of, wait_until};
use tests::site::{Asked, Refusing, Site};

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

/// What is meant to be done is told as that, for as long as it is not done, and as a fact only then.
#[tokio::test(flavor = "multi_thread")]
async fn a_kill_that_cannot_be_done_yet_is_no_fact_and_is_told_all_the_while() {
    let mut site = Site::new().await;
    let (tries, refuses) = (
        Arc::new(AtomicUsize::new(0)),
        Arc::new(AtomicBool::new(true)),
    );
    let refusing = Refusing::new(Arc::clone(&site.runtime), {
        let (tries, refuses) = (Arc::clone(&tries), Arc::clone(&refuses));
        move |asked, _| {
            let is_kill = asked == Asked::Kill;
            tries.fetch_add(usize::from(is_kill), Ordering::SeqCst);
            is_kill && refuses.load(Ordering::SeqCst)
        }
    });
    site.work(Arc::new(refusing));
    let at = site.running("env").await;
    let found = async || {
        let found = site.store().environment(&at).await.expect("works");
        found.expect("it is there")
    };
    let JobInput::Exec(mut short) = exec_input("sleep 4711") else {
        unreachable!("it is a command");
    };
    let mut long = short.clone();
    (short.timeout_seconds, long.timeout_seconds) = (1, 3600);
    let overdue = site.submit(&at, JobInput::Exec(short)).await;
    let bystander = site.submit(&at, JobInput::Exec(long)).await;
    for job in [&overdue, &bystander] {
        wait_until("it runs", async || {
            site.job(job).await.state == JobState::Running
        })
        .await;
    }
    let first = site.folder.first_process();
    kill(first, Signal::SIGSTOP).expect("stopped");
    wait_until("a kill is tried", async || tries.load(Ordering::SeqCst) > 0).await;
    wait_until("the sweep has looked", async || {
        let told = found().await;
        assert_eq!(told.phase, Phase::Running);
        let reason = told.reason.expect("a reason");
        assert_eq!(reason.code, "being_killed", "{reason:?}");
        tries.load(Ordering::SeqCst) > 1
    })
    .await;
    assert_eq!(site.job(&bystander).await.state, JobState::Running);
    refuses.store(false, Ordering::SeqCst);
    assert_eq!(site.ended(&overdue).await.state, JobState::TimedOut);
    let told = found().await;
    let reason = told.reason.expect("a reason");
    assert_eq!(
        (told.phase, reason.code.as_str()),
        (Phase::Failed, "environment_killed")
    );
    let other = site.ended(&bystander).await;
    let error = other.error.expect("an error");
    assert_eq!(
        (other.state, error.code.as_str()),
        (JobState::Failed, "environment_killed")
    );
    site.end().await;
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
