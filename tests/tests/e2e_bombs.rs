//! Bombs: what uses up all that an environment may use is ended like any other command, and so are the others there.

use serde_json::{Value, json};
use tests::program::{Client, Program, processes_with, wait_until};

/// Each bomb takes all of the processor that it may: another beside it would be tested too.
static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// Forks for ever, in every process of it.
const FORKS: &str = "fork while 1";

/// Waits for the file `go` without ever starting a process, and exits with 5.
const OTHER: &str = "
import os, sys, time
while not os.path.exists('go'): time.sleep(0.05)
sys.exit(5)
";

/// Processes that an environment may have here.
const PIDS: usize = 150;

/// An environment of few processes in which a fork bomb has gone off beside an innocent neighbour.
struct Ruin {
    program: Program,
    client: Client,
    bomb: String,
    bomb_marker: String,
    other: String,
}

impl Ruin {
    /// Lets a bomb go off beside the jobs that `beside` has started.
    async fn new(bomb_timeout: u64, beside: impl AsyncFnOnce(&Client)) -> Self {
        let program = Program::start_with(&[("EM_LIMITS__PIDS", &PIDS.to_string())]).await;
        let client = program.client();
        let resources = json!({ "cpu": "500m", "memory": "256Mi" });
        client
            .create_from(&json!({ "id": "env", "resources": resources }))
            .await;
        let (bomb_marker, other_marker) = (marker("bomb"), marker("other"));
        let other = client.submit("env", &python(OTHER, &other_marker)).await;
        wait_until("the other is up", async || {
            processes_with(&other_marker).len() == 1
        })
        .await;
        beside(&client).await;
        let mut body = json!({ "command": ["perl", "-e", FORKS, &bomb_marker] });
        body["timeout_seconds"] = bomb_timeout.into();
        let bomb = client.submit("env", &body).await;
        wait_until("the bomb has used up the processes", async || {
            processes_with(&bomb_marker).len() > PIDS - 20
        })
        .await;
        Self {
            program,
            client,
            bomb,
            bomb_marker,
            other,
        }
    }

    /// Asserts that nothing of the bomb is left, and that the neighbour and the environment go on.
    async fn assert_only_the_other_lives(&self) {
        assert_eq!(processes_with(&self.bomb_marker), []);
        assert_eq!(self.client.job(&self.other).await["state"], "running");
        self.client.put_file("env", "go", "").await.expect(200);
        let other = self.client.ended(&self.other).await;
        assert_eq!(other["result"]["exit_code"], 5, "{other}");
        assert_eq!(self.client.printed("env", "echo well").await, "well\n");
        assert!(!self.program.log().contains("panicked"));
    }
}

fn marker(what: &str) -> String {
    format!("{what}-{:016x}", rand::random::<u64>())
}

fn python(script: &str, marker: &str) -> Value {
    json!({ "command": ["python3", "-c", script, marker] })
}

#[tokio::test]
async fn beside_a_fork_bomb_others_are_timed_out_cancelled_and_told_apart() {
    let _alone = ALONE.lock().await;
    let mut cancelled = String::new();
    let mut timed_out = String::new();
    let ruin = Ruin::new(600, async |client| {
        let sleep = json!({ "command": ["sleep", "4711"] });
        cancelled = client.submit("env", &sleep).await;
        let sleep = json!({ "command": ["sleep", "4711"], "timeout_seconds": 5 });
        timed_out = client.submit("env", &sleep).await;
    })
    .await;
    let Ruin { client, bomb, .. } = &ruin;
    let job = client.ended(&timed_out).await;
    assert_eq!(job["state"], "timed_out", "{job}");
    assert_eq!(job["result"]["confirmed"], true, "{job}");
    let greedy = json!({ "command": ["tail", "/dev/zero"] });
    let job = client.exec("env", &greedy).await;
    assert_eq!(job["state"], "failed", "{job}");
    assert_eq!(job["error"]["code"], "oom_killed", "{job}");
    client.cancel(&cancelled).await;
    let job = client.ended(&cancelled).await;
    assert_eq!(job["state"], "cancelled", "{job}");
    assert_eq!(job["result"]["confirmed"], true, "{job}");
    assert_eq!(client.job(bomb).await["state"], "running");
    assert!(processes_with(&ruin.bomb_marker).len() > PIDS / 2);
    client.cancel(bomb).await;
    let job = client.ended(bomb).await;
    assert_eq!(job["state"], "cancelled", "{job}");
    assert_eq!(job["result"]["confirmed"], true, "{job}");
    ruin.assert_only_the_other_lives().await;
}

#[tokio::test]
async fn a_fork_bomb_is_timed_out_and_nothing_of_it_is_left() {
    let _alone = ALONE.lock().await;
    let ruin = Ruin::new(20, async |_| {}).await;
    let job = ruin.client.ended(&ruin.bomb).await;
    assert_eq!(job["state"], "timed_out", "{job}");
    assert_eq!(job["result"]["confirmed"], true, "{job}");
    ruin.assert_only_the_other_lives().await;
}

#[tokio::test]
async fn a_bomb_that_uses_up_the_memory_too_is_ended_and_its_environment_goes_on() {
    let _alone = ALONE.lock().await;
    let program = Program::start().await;
    let client = program.client();
    let resources = json!({ "cpu": "500m", "memory": "64Mi" });
    client
        .create_from(&json!({ "id": "env", "resources": resources }))
        .await;
    // The kernel is told to end every other process before the main one.
    let script = "mkfifo hold; (echo 1000 >/proc/self/oom_score_adj; exec perl -e \"$1\" \"$0\") & \
                  exec 3<>hold; read line <&3";
    let marker = marker("bomb");
    let hungry = "($kept = chr(97 + rand(26)) x (1 << 20)) and fork while 1";
    let mut body = json!({ "command": ["sh", "-c", script, &marker, hungry] });
    body["timeout_seconds"] = 8.into();
    let bomb = client.submit("env", &body).await;
    let job = client.ended(&bomb).await;
    assert_eq!(job["state"], "timed_out", "{job}");
    assert_eq!(job["result"]["confirmed"], true, "{job}");
    assert_eq!(processes_with(&marker), []);
    assert_eq!(client.printed("env", "echo well").await, "well\n");
}
