//! What has no environment in the store any more is shown before it goes, and a restart does not begin its time anew.

use rusqlite::Connection;
use serde_json::{Value, json};
use tests::program::{Client, Program, processes_with, wait_until};

async fn orphans(client: &Client) -> Vec<Value> {
    let status = client.get("/status").await.expect(200).json();
    status["orphans"].as_array().expect("a list").clone()
}

async fn until_listed(client: &Client) -> Vec<Value> {
    wait_until("it is listed", async || orphans(client).await.len() == 2).await;
    orphans(client).await
}

#[tokio::test]
async fn a_container_and_a_volume_without_a_record_are_listed_in_status() {
    let mut program = Program::start().await;
    let client = program.client();
    client.create("forgotten").await;
    let marker = format!("0.00{:020}", rand::random::<u64>());
    let sleep = json!({ "command": format!("sleep 4711 {marker} & echo left") });
    let job = client.exec("forgotten", &sleep).await;
    assert_eq!(job["state"], "succeeded", "{job}");
    assert_eq!(orphans(&client).await, [] as [Value; 0]);
    let [uid] = &program.folder().lives()[..] else {
        panic!("one life");
    };
    program.term();
    // As a store does that was restored from a backup.
    let file = program.folder().path().join("environment-manager.db");
    let db = Connection::open(file).expect("opens");
    db.execute_batch("DELETE FROM environments; DELETE FROM jobs;")
        .expect("deleted");
    drop(db);
    program.restart().await;
    let client = program.client();
    client.create("known").await;
    let listed = until_listed(&client).await;
    for (orphan, kind) in listed.iter().zip(["container", "volume"]) {
        assert_eq!(
            (&orphan["uid"], &orphan["kind"]),
            (&json!(uid), &json!(kind))
        );
        let (since, goes) = (orphan["since"].as_str(), orphan["goes_at"].as_str());
        assert!(since.is_some() && since < goes, "{orphan}");
    }
    assert!(listed[0]["goes_at"].as_str() < listed[1]["goes_at"].as_str());
    program.kill9();
    program.restart().await;
    let again = until_listed(&program.client()).await;
    for (orphan, before) in again.iter().zip(&listed) {
        assert_eq!(orphan["since"], before["since"]);
    }
    assert_eq!(processes_with(&marker).len(), 1, "it goes on until then");
}
