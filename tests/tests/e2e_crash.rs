//! The service is killed at any moment: every job ends as it would have, with all of its output, and ran once.

use std::time::Duration;

use nix::sys::signal::Signal;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::json;
use tests::program::{Client, Program, id_of, processes_with, wait_until};
use tests::rounds;

/// Lines that the command prints to each stream.
const LINES: u32 = 40;

/// Prints for about a second, leaves one line in the volume for each time it runs, and exits with 7.
fn command(round: usize) -> String {
    format!(
        "echo ran >> runs-{round}; i=0; while [ $i -lt {LINES} ]; do \
         echo out $i; echo err $i >&2; i=$((i+1)); sleep 0.02; done; exit 7"
    )
}

fn lines(word: &str) -> String {
    (0..LINES).map(|line| format!("{word} {line}\n")).collect()
}

/// Ten moments: before, around and right after the start of the command, while it prints, and after its end.
fn moments(seed: u64) -> Vec<Duration> {
    eprintln!("the seed of the moments is {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let millis = [
        0..3,
        0..10,
        0..30,
        10..60,
        30..120,
        100..400,
        300..700,
        500..900,
        800..1300,
        1500..1600,
    ];
    millis
        .into_iter()
        .map(|range| Duration::from_millis(random.random_range(range)))
        .collect()
}

async fn ends_as_if_nothing_happened(client: &Client, job: &str, round: usize) {
    let ended = client.ended(job).await;
    assert_eq!(ended["state"], "failed", "{ended}");
    assert_eq!(ended["error"]["code"], "exit_nonzero", "{ended}");
    assert_eq!(ended["result"]["exit_code"], 7, "{ended}");
    let output = client.output(job).await;
    assert_eq!(String::from_utf8_lossy(&output.stdout.bytes), lines("out"));
    assert_eq!(String::from_utf8_lossy(&output.stderr.bytes), lines("err"));
    assert!(!output.truncated && !output.incomplete);
    assert_eq!(ended["output"]["stdout_bytes"], output.stdout.end);
    let runs = client
        .get_file("env", &format!("runs-{round}"))
        .await
        .expect(200);
    assert_eq!(runs.text(), "ran\n", "it ran once");
    assert_eq!(client.job(job).await, ended, "its end never changes");
}

async fn interrupted_by(signal: Signal) {
    let mut program = Program::start().await;
    program.client().create("env").await;
    let moments = (0..rounds(1)).flat_map(|_| moments(rand::random()));
    for (round, moment) in moments.enumerate() {
        let job = program
            .client()
            .submit("env", &json!({ "command": command(round) }))
            .await;
        tokio::time::sleep(moment).await;
        if signal == Signal::SIGKILL {
            program.kill9();
        } else {
            let status = program.term();
            assert!(status.success(), "round {round}: {status}");
        }
        program.restart().await;
        eprintln!("round {round}: interrupted after {moment:?}");
        ends_as_if_nothing_happened(&program.client(), &job, round).await;
    }
    assert!(!program.log().contains("panicked"));
}

#[tokio::test]
async fn a_command_survives_kill_9_at_ten_moments() {
    interrupted_by(Signal::SIGKILL).await;
}

#[tokio::test]
async fn a_command_survives_sigterm_at_ten_moments() {
    interrupted_by(Signal::SIGTERM).await;
}

/// A drain hands back what does not end within half of its grace: the lease is not left to be taken over, so it is no
/// attempt that failed, and the next process follows the same run of the command.
#[tokio::test]
async fn a_command_that_outlasts_the_grace_of_sigterm_is_handed_back_and_goes_on() {
    let mut program = Program::start_with(&[("EM_SHUTDOWN__GRACE_SECONDS", "4")]).await;
    let client = program.client();
    client.create("env").await;
    let script = "echo ran >> runs; echo before; echo err >&2; until [ -e go ]; do sleep 0.05; done; echo after; exit 7";
    let body = json!({ "command": script, "timeout_seconds": 600 });
    let job = client.submit("env", &body).await;
    wait_until("it prints", async || {
        let window = client.get(&format!("/v1/jobs/{job}/output")).await;
        window.expect(200).json()["stdout"] == "before\n"
    })
    .await;
    for round in 0..2 {
        let status = program.term();
        assert!(status.success(), "round {round}: {status}");
        program.restart().await;
        assert_eq!(program.client().job(&job).await["state"], "running");
    }
    let log = program.log();
    assert!(!log.contains("jobs did not end or go back in time"));
    assert!(!log.contains("took over a job"), "it was given back");
    let client = program.client();
    client.put_file("env", "go", "").await.expect(200);
    let ended = client.ended(&job).await;
    assert_eq!(ended["result"]["exit_code"], 7, "{ended}");
    assert_eq!(ended["attempts"], 1, "a lease that is given back is none");
    let output = client.output(&job).await;
    assert_eq!(output.stdout.bytes, b"before\nafter\n");
    assert_eq!(output.stderr.bytes, b"err\n");
    assert!(!output.truncated && !output.incomplete);
    let runs = client.get_file("env", "runs").await.expect(200);
    assert_eq!(runs.text(), "ran\n", "it ran once");
    assert!(!program.log().contains("panicked"));
}

#[tokio::test]
async fn a_command_that_ends_while_nobody_looks_keeps_its_end_and_its_output() {
    let mut program = Program::start().await;
    let client = program.client();
    client.create("env").await;
    let marker = format!("unseen-{}", rand::random::<u64>());
    let script = format!(
        "import time,sys; print('{marker}', flush=True); time.sleep(1); print('end'); sys.exit(9)"
    );
    let body = json!({ "command": ["python3", "-c", script] });
    let job = client.submit("env", &body).await;
    wait_until("it runs", async || !processes_with(&marker).is_empty()).await;
    program.kill9();
    wait_until("it has ended", async || processes_with(&marker).is_empty()).await;
    program.restart().await;
    let ended = program.client().ended(&job).await;
    assert_eq!(ended["result"]["exit_code"], 9, "{ended}");
    assert_eq!(ended["result"]["stdout"], format!("{marker}\nend\n"));
}

#[tokio::test]
async fn lifecycle_jobs_survive_kill_9_at_any_moment() {
    let seed = rand::random();
    eprintln!("the seed of the moments is {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let mut program = Program::start().await;
    let mut job = program
        .client()
        .post("/v1/environments", &json!({ "id": "env" }))
        .await
        .expect(202)
        .json();
    for (round, step) in ["stop", "start", "stop", "start", "delete"]
        .into_iter()
        .enumerate()
    {
        tokio::time::sleep(Duration::from_millis(random.random_range(0..150))).await;
        program.kill9();
        program.restart().await;
        let client = program.client();
        let ended = client.ended(id_of(&job)).await;
        assert_eq!(ended["state"], "succeeded", "round {round}: {ended}");
        program.note_instance();
        let answer = match step {
            "delete" => client.delete("/v1/environments/env").await,
            step => {
                client
                    .post(&format!("/v1/environments/env/{step}"), &json!({}))
                    .await
            }
        };
        job = answer.expect(202).json();
    }
    tokio::time::sleep(Duration::from_millis(random.random_range(0..150))).await;
    program.kill9();
    program.restart().await;
    let ended = program.client().ended(id_of(&job)).await;
    assert_eq!(ended["state"], "succeeded", "{ended}");
    assert_eq!(program.traces().await, Vec::<String>::new());
}
