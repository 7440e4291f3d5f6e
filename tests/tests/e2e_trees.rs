//! Trees of processes: all of one job goes when the job is ended, and nothing else.

use nix::sys::signal::kill;
use serde_json::{Value, json};
use tests::program::{Client, Program, processes_with, wait_until};

/// Grows a tree that ignores TERM: children with sessions of their own, double forks, and one that keeps forking so that
/// a killed one is soon replaced. The marker is argument 1.
const TREE: &str = "
import os, signal, time
for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
    signal.signal(number, signal.SIG_IGN)
def sleep():
    while True: time.sleep(60)
for _ in range(3):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.setsid()
            sleep()
        os._exit(0)
    if os.fork() == 0:
        sleep()
if os.fork() == 0:
    os.setsid()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        if os.fork() == 0:
            os.setsid()
            time.sleep(0.3)
            os._exit(0)
        time.sleep(0.01)
print('grown', flush=True)
sleep()
";

/// Waits for the file `go` and exits with 5.
const OTHER: &str = "
import os, sys, time
while not os.path.exists('go'): time.sleep(0.05)
sys.exit(5)
";

fn marker(what: &str) -> String {
    format!("{what}-{:016x}", rand::random::<u64>())
}

fn python(script: &str, marker: &str) -> Value {
    json!({ "command": ["python3", "-c", script, marker] })
}

/// An environment with a tree and an innocent neighbour, both up.
struct Forest {
    program: Program,
    client: Client,
    tree: String,
    tree_marker: String,
    other: String,
    other_marker: String,
}

impl Forest {
    async fn grow(timeout_seconds: u64) -> Self {
        let program = Program::start().await;
        let client = program.client();
        client.create("env").await;
        let (tree_marker, other_marker) = (marker("tree"), marker("other"));
        let other = client.submit("env", &python(OTHER, &other_marker)).await;
        let mut body = python(TREE, &tree_marker);
        body["timeout_seconds"] = timeout_seconds.into();
        let tree = client.submit("env", &body).await;
        wait_until("the tree is grown", async || {
            processes_with(&tree_marker).len() > 10
        })
        .await;
        wait_until("the other is up", async || {
            processes_with(&other_marker).len() == 1
        })
        .await;
        Self {
            program,
            client,
            tree,
            tree_marker,
            other,
            other_marker,
        }
    }

    /// Asserts that nothing of the tree is left and that the neighbour goes on to its own end.
    async fn assert_only_the_other_lives(&self) {
        assert_eq!(processes_with(&self.tree_marker), []);
        assert_eq!(processes_with(&self.other_marker).len(), 1);
        assert_eq!(self.client.job(&self.other).await["state"], "running");
        self.client.put_file("env", "go", "").await.expect(200);
        let other = self.client.ended(&self.other).await;
        assert_eq!(other["result"]["exit_code"], 5, "{other}");
        assert!(!self.program.log().contains("panicked"));
    }
}

#[tokio::test]
async fn a_timeout_ends_the_whole_tree_and_nothing_else() {
    let forest = Forest::grow(3).await;
    let job = forest.client.ended(&forest.tree).await;
    assert_eq!(job["state"], "timed_out", "{job}");
    assert_eq!(job["result"]["confirmed"], true, "{job}");
    assert_eq!(job["result"]["stdout"], "grown\n", "{job}");
    forest.assert_only_the_other_lives().await;
}

#[tokio::test]
async fn a_cancel_ends_the_whole_tree_and_nothing_else() {
    let forest = Forest::grow(600).await;
    let path = format!("/v1/jobs/{}/cancel", forest.tree);
    let answer = forest
        .client
        .post(&path, &json!({ "grace_seconds": 1 }))
        .await;
    assert!(matches!(answer.status, 200 | 202), "{}", answer.text());
    let job = forest.client.ended(&forest.tree).await;
    assert_eq!(job["state"], "cancelled", "{job}");
    assert_eq!(job["result"]["confirmed"], true, "{job}");
    forest.assert_only_the_other_lives().await;
    // A second cancel changes nothing.
    forest.client.cancel(&forest.tree).await.expect(200);
    assert_eq!(forest.client.job(&forest.tree).await, job);
}

#[tokio::test]
async fn a_tree_that_was_cancelled_while_the_service_was_away_goes_as_well() {
    let mut forest = Forest::grow(600).await;
    let path = format!("/v1/jobs/{}/cancel", forest.tree);
    forest
        .client
        .post(&path, &json!({ "grace_seconds": 1 }))
        .await;
    forest.program.kill9();
    forest.program.restart().await;
    forest.client = forest.program.client();
    let job = forest.client.ended(&forest.tree).await;
    assert_eq!(job["state"], "cancelled", "{job}");
    forest.assert_only_the_other_lives().await;
}

#[tokio::test]
async fn a_job_of_two_signals_ends_politely_where_it_can() {
    let program = Program::start().await;
    let client = program.client();
    client.create("env").await;
    let polite = "trap 'echo bye; exit 3' TERM; echo up; while true; do sleep 0.05; done";
    let id = client.submit("env", &json!({ "command": polite })).await;
    wait_until("it is up", async || {
        let window = client
            .get(&format!("/v1/jobs/{id}/output"))
            .await
            .expect(200)
            .json();
        window["stdout"] == "up\n"
    })
    .await;
    client.cancel(&id).await;
    let job = client.ended(&id).await;
    assert_eq!(job["state"], "cancelled", "{job}");
    assert_eq!(job["result"]["stdout"], "up\nbye\n", "{job}");
    assert_eq!(job["result"]["exit_code"], 3, "{job}");
}

#[tokio::test]
async fn a_server_left_behind_lives_on_until_its_environment_stops() {
    let program = Program::start().await;
    let client = program.client();
    client.create("env").await;
    let marker = marker("server");
    let server = "
import socket, sys
listening = socket.socket(socket.AF_UNIX)
listening.bind('socket')
listening.listen()
while True:
    peer, _ = listening.accept()
    peer.sendall(b'hello')
    peer.close()
";
    client
        .put_file("env", "server.py", server)
        .await
        .expect(200);
    let job = client
        .sh("env", &format!("python3 server.py {marker} & echo started"))
        .await;
    assert_eq!(job["state"], "succeeded", "{job}");
    assert_eq!(job["result"]["stdout"], "started\n", "{job}");
    wait_until("it listens", async || {
        client.sh("env", "test -S socket").await["state"] == "succeeded"
    })
    .await;
    let ask = "python3 -c \"import socket; s = socket.socket(socket.AF_UNIX); s.connect('socket'); print(s.recv(9).decode())\"";
    assert_eq!(client.printed("env", ask).await, "hello\n");
    let [pid] = processes_with(&marker)[..] else {
        panic!("one server")
    };
    assert_eq!(kill(pid, None), Ok(()), "it lives");
    let stopped = client
        .post("/v1/environments/env/stop", &json!({}))
        .await
        .expect(202)
        .json();
    let stopped = client.ended(stopped["id"].as_str().unwrap()).await;
    assert_eq!(stopped["state"], "succeeded", "{stopped}");
    assert_eq!(processes_with(&marker), []);
}

#[tokio::test]
async fn ends_of_every_kind_are_told_apart() {
    let program = Program::start().await;
    let client = program.client();
    client
        .create_from(&json!({ "id": "env", "resources": { "memory": "128Mi" } }))
        .await;
    let cases = [
        ("true", "succeeded", Value::Null),
        ("exit 3", "failed", json!("exit_nonzero")),
        ("kill -9 $$", "failed", json!("killed")),
        (
            "exec python3 -c 'bytearray(1 << 30)'",
            "failed",
            json!("oom_killed"),
        ),
    ];
    for (script, state, code) in cases {
        let job = client.sh("env", script).await;
        assert_eq!(job["state"], state, "{script}: {job}");
        // In a pod nobody counts the memory of one job: there it was killed, and more is not claimed.
        let uncounted = program.is_on_cluster() && code == "oom_killed";
        let told = if uncounted { json!("killed") } else { code };
        assert_eq!(job["error"]["code"], told, "{script}: {job}");
    }
    let missing = client
        .exec("env", &json!({ "command": ["no-such-program"] }))
        .await;
    assert_eq!(missing["state"], "failed", "{missing}");
    assert_eq!(
        client.printed("env", "echo still there").await,
        "still there\n"
    );
}
