//! A disk without room under the data folder: refused with 503 while it is full, healed by itself, nothing accepted lost.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;

use serde_json::{Value, json};
use tests::program::{Client, DataFolder, Program, wait_until};

/// Takes all the room that is left.
fn fill(path: &Path) {
    let mut file = File::create(path).expect("made");
    for size in [1 << 20, 1 << 12, 1] {
        while file.write_all(&vec![0; size]).is_ok() {}
    }
}

/// Waits for the file `go`, starting no process, then writes a few lines and exits with 7.
const HELD: &str = "
import os, sys, time
print('begun', flush=True)
while not os.path.exists('go'): time.sleep(0.05)
for number in range(2000): print('line', number)
sys.exit(7)
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
    let ballast = program.folder().path().join("ballast");
    fill(&ballast);
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
