//! A disk without room under the data folder: refused with 503 while it is full, healed by itself, nothing accepted lost.

use std::fs;

use serde_json::{Value, json};
use tests::program::{Client, DataFolder, Program, wait_until};

/// Waits for the file `go`, starting no process, then writes a few lines and exits with 7.
const HELD: &str = "
import os, sys, time
print('begun', flush=True)
while not os.path.exists('go'): time.sleep(0.05)
for number in range(2000): print('line', number)
sys.exit(7)
";

/// Writes whatever the disk takes, and goes on for as long as it may: a byte that comes free is not free for long.
const GREEDY: &str = "
import os, time
big = os.open('big', os.O_WRONLY | os.O_CREAT | os.O_APPEND)
while True:
    for size in (1 << 20, 1 << 12, 1):
        try:
            while True: os.write(big, bytes(size))
        except OSError: pass
    time.sleep(0.001)
";

fn held_output() -> String {
    let lines = (0..2_000).map(|number| format!("line {number}\n"));
    std::iter::once("begun\n".to_owned()).chain(lines).collect()
}

async fn until_begun(client: &Client, job: &str) {
    wait_until("it has begun", async || {
        let window = client.get(&format!("/v1/jobs/{job}/output")).await;
        window.expect(200).json()["stdout"] == "begun\n"
    })
    .await;
}

#[tokio::test]
async fn what_was_accepted_before_a_full_disk_ends_well_after_it() {
    let program = Program::start_on(DataFolder::on_small_disk(160), &[]).await;
    let client = program.client();
    client.create("env").await;
    let held = json!({ "command": ["python3", "-c", HELD] });
    let mut accepted = Vec::new();
    for _ in 0..2 {
        accepted.push(client.submit("env", &held).await);
    }
    for job in &accepted {
        until_begun(&client, job).await;
    }
    let ballast = program.folder().fill("");
    // What room is left inside the files of the store is soon used up.
    let large = json!({ "command": ["true", "x".repeat(60_000)] });
    let mut quick = Vec::new();
    let mut refused: Option<Value> = None;
    for _ in 0..2000 {
        let answer = client.post("/v1/environments/env/exec", &large).await;
        match answer.status {
            202 => quick.push(answer.json()["id"].as_str().expect("an id").to_owned()),
            503 => {
                assert!(answer.header("retry-after").is_some());
                refused = Some(answer.json());
                break;
            }
            status => panic!("{status}: {}", answer.text()),
        }
    }
    let refused = refused.expect("it was never full");
    assert!(refused["code"].is_string(), "{refused}");
    client.get("/health").await.expect(200);
    // They end while there is no room for it.
    fs::write(program.folder().volume().join("go"), "").expect("made");
    let answer = client.post("/v1/environments/env/exec", &large).await;
    assert_eq!(answer.status, 503, "{}", answer.text());
    fs::remove_file(&ballast).expect("removed");
    wait_until("it is ready again", async || client.is_ready().await).await;
    for job in &accepted {
        let ended = client.ended(job).await;
        assert_eq!(ended["state"], "failed", "{ended}");
        assert_eq!(ended["result"]["exit_code"], 7, "{ended}");
        let output = client.output(job).await;
        assert!(!output.truncated && !output.incomplete, "{ended}");
        assert!(output.stdout.bytes == held_output().as_bytes(), "{ended}");
    }
    for job in &quick {
        let ended = client.ended(job).await;
        assert_eq!(ended["state"], "succeeded", "{ended}");
    }
    assert_eq!(client.printed("env", "echo well").await, "well\n");
    assert!(!program.log().contains("panicked"));
}

/// The database lies on the disk that the environment fills.
#[tokio::test]
async fn an_environment_that_takes_all_of_the_disk_is_deleted_and_then_all_is_well() {
    let program = Program::start_on(DataFolder::on_small_disk(160), &[]).await;
    let client = program.client();
    for environment in ["env", "other"] {
        client.create(environment).await;
    }
    let held = json!({ "command": ["python3", "-c", HELD] });
    let held = client.submit("other", &held).await;
    until_begun(&client, &held).await;
    let greedy = json!({ "command": ["python3", "-c", GREEDY] });
    let greedy = client.submit("env", &greedy).await;
    let mut accepted = vec![greedy];
    wait_until("the disk is full", async || {
        let answer = client
            .post(
                "/v1/environments/other/exec",
                &json!({ "command": ["true", "x".repeat(60_000)] }),
            )
            .await;
        if answer.status == 202 {
            accepted.push(answer.json()["id"].as_str().expect("an id").to_owned());
        }
        answer.status == 503
    })
    .await;
    wait_until("it says so", async || !client.is_ready().await).await;
    let deleted = client.delete("/v1/environments/env").await;
    let deleted = deleted.expect(202).json()["id"].clone();
    let deleted = client.ended(deleted.as_str().expect("an id")).await;
    assert_eq!(deleted["state"], "succeeded", "{deleted}");
    wait_until("it is ready again", async || client.is_ready().await).await;
    let gone = client.get("/v1/environments/env").await;
    assert_eq!(gone.expect(200).json()["status"]["phase"], "deleted");
    assert_eq!(program.folder().lives().len(), 1);
    client.put_file("other", "go", "").await.expect(200);
    let ended = client.ended(&held).await;
    assert_eq!(ended["result"]["exit_code"], 7, "{ended}");
    let output = client.output(&held).await;
    assert!(!output.truncated && !output.incomplete, "{ended}");
    assert!(output.stdout.bytes == held_output().as_bytes(), "{ended}");
    for job in &accepted {
        client.ended(job).await;
    }
    client.create("env").await;
    assert_eq!(client.printed("env", "echo well").await, "well\n");
    assert!(!program.log().contains("panicked"));
}

/// The volumes lie on a disk of their own, and one environment takes all of it.
#[tokio::test]
async fn an_environment_that_fills_its_volume_is_told_and_the_service_answers() {
    let folder = DataFolder::with_small_disk_at("environments", 64);
    let program = Program::start_on(folder, &[]).await;
    let client = program.client();
    for environment in ["env", "other"] {
        client.create(environment).await;
    }
    client.put_file("other", "kept", "kept").await.expect(200);
    let job = client.sh("env", "cat /dev/zero >big").await;
    assert_eq!(job["state"], "failed", "{job}");
    assert_eq!(job["result"]["exit_code"], 1, "{job}");
    let said = job["result"]["stderr"].as_str().expect("text");
    assert!(said.contains("No space left on device"), "{said}");
    let refused = client.put_file("env", "more", "x".repeat(1 << 20)).await;
    assert_eq!(refused.expect(507).json()["code"], "no_space");
    // Whoever shares the disk cannot write there either, but reads what it has, and the service takes and ends jobs.
    let kept = client.get_file("other", "kept").await.expect(200);
    assert_eq!(kept.body, "kept");
    let full = client.sh("other", "cat kept").await;
    assert_ne!(full["state"], "lost", "{full}");
    client.get("/ready").await.expect(200);
    client.list_files("env", &[]).await.expect(200);
    client
        .remove_file("env", &[("path", "big")])
        .await
        .expect(200);
    for environment in ["env", "other"] {
        assert_eq!(client.printed(environment, "echo well").await, "well\n");
    }
    let left = client.printed("env", "ls -A").await;
    assert_eq!(left, "", "nothing of what was refused is there");
    assert!(!program.log().contains("panicked"));
}
