//! A program that lies stands in the place of the runner: its environment fails with a reason, the service's memory stays
//! bounded, and another environment notices nothing.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use reqwest::Method;
use serde_json::{Value, json};
use tests::program::{Answer, Client, DataFolder, Program, files_below, id_of, wait_until};

/// Bytes of output that a job may keep here.
const OUTPUT_LIMIT: u64 = 1 << 20;

/// What the service may grow by, in KiB, while it is lied to from all sides at once.
const GROWTH_KIB: u64 = 256 << 10;

/// What every new environment of the service gets as its runner.
struct Place {
    path: PathBuf,
}

impl Place {
    fn of(program: &Program) -> Self {
        let folder = program.folder().path().join("bin");
        let mut entries = fs::read_dir(folder).expect("a folder");
        let path = entries.next().expect("a runner").expect("an entry").path();
        Self { path }
    }

    /// Puts a liar there. What runs already keeps what it has.
    fn take(&self, word: &str) {
        let mut bytes = fs::read(env!("CARGO_BIN_EXE_hostile_runner")).expect("the liar");
        bytes.extend_from_slice(format!("\nHOSTILE:{word}").as_bytes());
        let unfinished = self.path.with_extension("liar");
        fs::write(&unfinished, bytes).expect("written");
        fs::set_permissions(&unfinished, fs::Permissions::from_mode(0o555)).expect("set");
        fs::rename(&unfinished, &self.path).expect("in place");
    }
}

/// Begins to create an environment with that liar as its PID 1, and waits until that runs; gives the create job's id.
async fn lodge(program: &Program, place: &Place, word: &str) -> String {
    place.take(word);
    let known = program.folder().lives();
    let body = json!({ "id": word });
    let job = program
        .client()
        .post("/v1/environments", &body)
        .await
        .expect(202)
        .json();
    wait_until(&format!("{word} runs"), async || {
        let lives = program.folder().lives();
        let new = lives.iter().find(|life| !known.contains(life));
        new.is_some_and(|life| {
            let pid = program
                .folder()
                .environments()
                .join(life)
                .join("bundle/pid");
            fs::metadata(pid).is_ok_and(|pid| pid.len() > 0)
        })
    })
    .await;
    id_of(&job).to_owned()
}

fn peak_kib(program: &Program) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", program.pid())).expect("it runs");
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let number = peak.and_then(|line| line.split_whitespace().next());
    number.expect("a size").parse().expect("a number")
}

async fn failed_with(client: &Client, environment: &str, code: &str) {
    wait_until(&format!("{environment} has failed"), async || {
        phase(client, environment).await["phase"] == "failed"
    })
    .await;
    let status = phase(client, environment).await;
    assert_eq!(status["reason"], code, "{environment}: {status}");
    assert!(!status["message"].as_str().expect("a message").is_empty());
    let refused = client
        .post(
            &format!("/v1/environments/{environment}/exec"),
            &json!({ "command": "true" }),
        )
        .await;
    assert_eq!(refused.status, 409, "{}", refused.text());
}

async fn phase(client: &Client, environment: &str) -> Value {
    let path = format!("/v1/environments/{environment}");
    client.get(&path).await.expect(200).json()["status"].clone()
}

/// A command in a liar's environment ends as the runner's lie, with at most the output that it may keep.
async fn command_ends_as_a_lie(client: &Client, environment: &str) {
    let job = client.sh(environment, "true").await;
    assert_eq!(job["state"], "failed", "{environment}: {job}");
    assert_eq!(
        job["error"]["code"], "runner_misbehaved",
        "{environment}: {job}"
    );
    let kept = job["output"]["stdout_bytes"].as_u64().expect("a count");
    assert!(kept <= OUTPUT_LIMIT + (128 << 10), "{environment}: {job}");
    assert!(job["result"].is_null(), "no exit code is made up: {job}");
    failed_with(client, environment, "runner_misbehaved").await;
}

/// The job of a call that its caller did not wait for.
async fn end_of(client: &Client, answer: Answer) -> Value {
    let job = answer.expect(202).json();
    client.ended(id_of(&job)).await
}

/// What is asked of files in the environment of a runner that greets and says no more ends, one way or the other.
async fn files_of_a_mute_runner_end(client: &Client) {
    let (listed, read, written, removed) = tokio::join!(
        client.list_files("mute", &[]),
        client.get_file("mute", "file"),
        client.put_file("mute", "file", "content"),
        client.remove_file("mute", &[("path", "file")]),
    );
    let removal = removed.expect(202).json();
    client.cancel(id_of(&removal)).await;
    let (listed, read, written, removed) = tokio::join!(
        end_of(client, listed),
        end_of(client, read),
        end_of(client, written),
        client.ended(id_of(&removal)),
    );
    for (job, state, code) in [
        (listed, "failed", "no_answer"),
        (read, "failed", "no_answer"),
        (written, "lost", "no_answer"),
        (removed, "cancelled", "cancelled"),
    ] {
        assert_eq!(job["state"], state, "{job}");
        assert_eq!(job["error"]["code"], code, "{job}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_runner_that_lies_harms_its_own_environment_alone() {
    let limit = OUTPUT_LIMIT.to_string();
    let program = Program::start_with(&[
        ("EM_LIMITS__OUTPUT_BYTES", &limit),
        ("EM_SERVER__SYNC_WAIT_SECONDS", "5"),
    ])
    .await;
    let client = program.client();
    client.create("good").await;
    client.printed("good", "true").await;
    let before = peak_kib(&program);

    let (over, rounds) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicU64::new(0)),
    );
    let neighbour = tokio::spawn({
        let (client, over, rounds) = (client.clone(), Arc::clone(&over), Arc::clone(&rounds));
        async move {
            while !over.load(Ordering::Relaxed) {
                let job = client
                    .sh("good", "cat /proc/sys/kernel/ostype; exit 3")
                    .await;
                assert_eq!(job["result"]["exit_code"], 3, "{job}");
                assert_eq!(job["result"]["stdout"], "Linux\n", "{job}");
                rounds.fetch_add(1, Ordering::Relaxed);
            }
        }
    });

    let place = Place::of(&program);
    let mut born_dead = Vec::new();
    for word in ["silent", "garbage", "nameless"] {
        born_dead.push((word, lodge(&program, &place, word).await));
    }
    let commands = ["endless", "loud", "backwards", "stranger", "numbers"];
    for word in commands.into_iter().chain(["mute", "wordy", "crowd"]) {
        let create = lodge(&program, &place, word).await;
        let created = client.ended(&create).await;
        assert_eq!(created["state"], "succeeded", "{word}: {created}");
    }

    let mute = async {
        files_of_a_mute_runner_end(&client).await;
        let body = json!({ "command": "true", "timeout_seconds": 1 });
        let job = client.exec("mute", &body).await;
        assert_eq!(job["state"], "timed_out", "{job}");
        assert_eq!(job["result"]["confirmed"], false, "{job}");
        failed_with(&client, "mute", "environment_killed").await;
    };
    let wordy = async {
        let job = client.sh("wordy", "true").await;
        assert_eq!(job["error"]["code"], "start_failed", "{}", job["state"]);
        let message = job["error"]["message"].as_str().expect("a message");
        assert!(message.len() <= 4096, "{} bytes", message.len());
    };
    let crowd = async {
        // Many at once: what one answer costs is not to be had a hundred times.
        let reads = (0..8).map(async |number| {
            if number % 2 == 0 {
                client.list_files("crowd", &[]).await
            } else {
                client.get_file("crowd", "file").await
            }
        });
        for answer in futures::future::join_all(reads).await {
            // Not an answer: a refusal, or a job that still looks for its runner.
            assert_ne!(answer.status, 200, "{}", answer.text());
        }
        failed_with(&client, "crowd", "runner_misbehaved").await;
    };
    let dead = async {
        for (word, job) in born_dead {
            let job = client.ended(&job).await;
            assert_eq!(job["state"], "failed", "{word}: {job}");
            assert_eq!(job["error"]["code"], "no_answer", "{word}: {job}");
            failed_with(&client, word, "no_answer").await;
        }
    };
    let commands = futures::future::join_all(
        commands.map(|environment| command_ends_as_a_lie(&client, environment)),
    );
    tokio::join!(mute, wordy, crowd, dead, commands);

    over.store(true, Ordering::Relaxed);
    neighbour.await.expect("the neighbour notices nothing");
    assert!(rounds.load(Ordering::Relaxed) > 0);
    let growth = peak_kib(&program).saturating_sub(before);
    assert!(growth < GROWTH_KIB, "the service grew by {growth} KiB");

    // The volume has outlived the liar, and an honest runner takes its place after a restart of the service.
    let mut program = program;
    assert!(program.term().success());
    program.restart().await;
    let client = program.client();
    let started = client
        .post("/v1/environments/endless/start", &json!({}))
        .await
        .expect(202)
        .json();
    assert_eq!(client.ended(id_of(&started)).await["state"], "succeeded");
    assert_eq!(client.printed("endless", "echo honest").await, "honest\n");
}

/// Nothing holds a volume to its size here: what bounds a liar is the room that is left on the disk.
#[tokio::test(flavor = "multi_thread")]
async fn a_runner_that_has_more_than_there_can_be_fills_no_disk() {
    let disk = DataFolder::with_small_disk_at("blobs", 64);
    let program = Program::start_on(disk, &[]).await;
    let client = program.client();
    client.create("good").await;
    client.put_file("good", "file", "kept").await.expect(200);
    let place = Place::of(&program);
    let create = lodge(&program, &place, "huge").await;
    assert_eq!(client.ended(&create).await["state"], "succeeded");
    let blobs = program.folder().path().join("blobs");
    let kept = || {
        ["staging", ".tmp", "results"]
            .map(|part| files_below(&blobs.join(part)))
            .concat()
    };
    for (what, kind) in [("content", "download"), ("archive", "pack")] {
        let path = format!("/v1/environments/huge/files/{what}?path=file");
        // Parts of it were sent before there was no more room: the answer is cut off.
        if let Ok(answer) = client.try_send(client.request(Method::GET, &path)).await {
            answer.expect(503);
        }
        let jobs = client.get(&format!("/v1/jobs?kind={kind}")).await.json();
        let job = client.ended(id_of(&jobs["jobs"][0])).await;
        assert_eq!(job["error"]["code"], "staging_unavailable", "{job}");
        wait_until("nothing of it is kept", async || kept().is_empty()).await;
    }
    let body = json!({ "path": "file", "bucket": "results", "destination": "file" });
    let publish = client.post("/v1/environments/huge/artifacts", &body).await;
    let publish = end_of(&client, publish).await;
    assert_eq!(publish["error"]["code"], "blobs_unavailable", "{publish}");
    wait_until("nothing of it is kept", async || kept().is_empty()).await;
    // Others have room again.
    let large = "x".repeat(8 << 20);
    client
        .put_file("good", "large", large.clone())
        .await
        .expect(200);
    let read = client.get_file("good", "large").await.expect(200);
    assert!(read.body == large);
}
