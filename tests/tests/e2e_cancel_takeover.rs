//! The edges of a worker's slots: a cancel that comes while a command is being started, and commands of a killed service
//! that the next one takes over although it has hardly a slot, or a backlog, of its own.

use std::time::Duration;

use futures::future::join_all;
use serde_json::{Value, json};
use tests::program::{Client, LONG, Program, processes_with, wait_until};
use tests::rounds;

/// Commands that are cancelled one after the other.
const CANCELS: usize = 60;

/// A cancelled command that only a broken program lets run on for so long.
const CANCEL_BOUND: Duration = Duration::from_secs(30);

/// Slots of the worker that is killed with a backlog, each with a command in it.
const SLOTS: usize = 4;

/// Commands that wait behind those.
const QUEUED: usize = 40;

/// Waits for a job's end, and for no longer than the bound.
async fn ended_within(bound: Duration, client: &Client, job: &str) -> Value {
    match tokio::time::timeout(bound, client.ended(job)).await {
        Ok(ended) => ended,
        Err(_) => panic!("it did not end within {bound:?}: {}", client.job(job).await),
    }
}

/// Waits until a job has printed this text, without a file job that would need a slot.
async fn until_printed(client: &Client, job: &str, text: &str) {
    wait_until(&format!("job {job} has printed {text:?}"), async || {
        let window = client.get(&format!("/v1/jobs/{job}/output")).await;
        window.expect(200).json()["stdout"] == text
    })
    .await;
}

#[track_caller]
fn assert_exited(ended: &Value, exit_code: usize, stdout: &str) {
    assert_eq!(ended["state"], "failed", "{ended}");
    assert_eq!(ended["error"]["code"], "exit_nonzero", "{ended}");
    assert_eq!(ended["result"]["exit_code"], exit_code, "{ended}");
    assert_eq!(ended["result"]["stdout"], stdout, "{ended}");
}

#[tokio::test]
async fn a_silent_command_that_is_cancelled_while_it_starts_ends_each_time() {
    let program = Program::start().await;
    let client = program.client();
    client.create("env").await;
    // `sleep` adds its arguments up: the second one only marks the process.
    let marker = format!("0.00{:020}", rand::random::<u64>());
    let silent = json!({ "command": ["sleep", "3600", marker] });
    for round in 0..rounds(CANCELS) as u64 {
        let job = client.submit("env", &silent).await;
        // From 0 to 5 ms; neighbours in time are far apart, so that a trend of the machine hides none of them.
        tokio::time::sleep(Duration::from_micros(round * 1700 % 5100)).await;
        let answer = client.cancel(&job).await;
        assert!(
            matches!(answer.status, 200 | 202),
            "round {round}: {}",
            answer.text()
        );
        let ended = ended_within(CANCEL_BOUND, &client, &job).await;
        assert_eq!(ended["state"], "cancelled", "round {round}: {ended}");
        assert_eq!(processes_with(&marker), [], "round {round}: it runs on");
    }
    // A start that came after its cancel would have come before this one.
    assert_eq!(client.printed("env", "echo done").await, "done\n");
    assert_eq!(processes_with(&marker), [], "one runs on");
    assert!(!program.log().contains("panicked"));
}

#[tokio::test]
async fn the_only_slot_is_no_hindrance_to_a_takeover() {
    let mut program = Program::start_with(&[("EM_WORKER__CONCURRENCY", "1")]).await;
    let client = program.client();
    client.create("env").await;
    let script = "echo ran >> runs; echo begin; sleep 2; echo end; exit 7";
    let job = client.submit("env", &json!({ "command": script })).await;
    until_printed(&client, &job, "begin\n").await;
    program.kill9();
    program.restart().await;
    let client = program.client();
    let ended = ended_within(LONG, &client, &job).await;
    assert_exited(&ended, 7, "begin\nend\n");
    let runs = client.get_file("env", "runs").await.expect(200);
    assert_eq!(runs.text(), "ran\n", "it ran once");
    assert_eq!(client.printed("env", "echo next").await, "next\n");
    assert_eq!(client.job(&job).await, ended, "its end never changes");
    assert!(!program.log().contains("panicked"));
}

#[tokio::test]
async fn as_many_commands_run_at_a_time_as_there_are_slots_and_no_more() {
    let slots = SLOTS.to_string();
    let program = Program::start_with(&[("EM_WORKER__CONCURRENCY", &slots)]).await;
    let client = program.client();
    client.create("env").await;
    // Each counts those that run with it, itself too.
    let script = "mkdir -p now; : > now/$$; ls now | wc -l >> counts; sleep 0.2; rm now/$$";
    let body = json!({ "command": script });
    let jobs = join_all((0..SLOTS * 6).map(|_| client.submit("env", &body))).await;
    for job in &jobs {
        let ended = client.ended(job).await;
        assert_eq!(ended["state"], "succeeded", "{ended}");
    }
    let counts = client.get_file("env", "counts").await.expect(200).text();
    let counts: Vec<usize> = counts
        .lines()
        .map(|line| line.trim().parse().expect("a number"))
        .collect();
    assert_eq!(counts.len(), jobs.len());
    assert!(counts.iter().all(|count| *count <= SLOTS), "{counts:?}");
    // These end only where all of them run at the same time.
    let script = format!(
        "mkdir -p here; : > here/$$; until [ $(ls here | wc -l) -eq {SLOTS} ]; do sleep 0.05; done"
    );
    let body = json!({ "command": script });
    let jobs = join_all((0..SLOTS).map(|_| client.submit("env", &body))).await;
    for job in &jobs {
        let ended = ended_within(LONG, &client, job).await;
        assert_eq!(ended["state"], "succeeded", "{ended}");
    }
}

/// Leaves its number in the volume each time it runs; the exit code is the number.
fn numbered(number: usize, then: &str) -> Value {
    json!({ "command": format!("echo {number} >> runs; echo begin {number}; {then} exit {number}") })
}

#[tokio::test]
async fn takeovers_and_a_backlog_starve_nobody() {
    let slots = SLOTS.to_string();
    let mut program = Program::start_with(&[("EM_WORKER__CONCURRENCY", &slots)]).await;
    let client = program.client();
    client.create("env").await;
    let mut jobs = Vec::new();
    for number in 1..=SLOTS {
        let body = numbered(number, "sleep 3; echo end;");
        jobs.push(client.submit("env", &body).await);
    }
    for (index, job) in jobs.iter().enumerate() {
        until_printed(&client, job, &format!("begin {}\n", index + 1)).await;
    }
    let queued: Vec<_> = (SLOTS + 1..=SLOTS + QUEUED)
        .map(|number| numbered(number, ""))
        .collect();
    jobs.extend(join_all(queued.iter().map(|body| client.submit("env", body))).await);
    program.kill9();
    program.restart().await;
    let client = program.client();
    let ends = join_all(jobs.iter().map(|job| ended_within(2 * LONG, &client, job))).await;
    for (index, ended) in ends.iter().enumerate() {
        let number = index + 1;
        let end = if number <= SLOTS { "end\n" } else { "" };
        assert_exited(ended, number, &format!("begin {number}\n{end}"));
    }
    let runs = client.get_file("env", "runs").await.expect(200).text();
    let mut runs: Vec<usize> = runs
        .lines()
        .map(|line| line.parse().expect("a number"))
        .collect();
    runs.sort_unstable();
    let once: Vec<_> = (1..=SLOTS + QUEUED).collect();
    assert_eq!(runs, once, "each ran once");
    assert!(!program.log().contains("panicked"));
}
