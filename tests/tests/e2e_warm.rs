//! Environments that are held ready, through the real program.

use serde_json::{Value, json};
use tests::program::{Client, Program, id_of, wait_until};

async fn container(client: &Client, environment: &str) -> String {
    let path = format!("/v1/environments/{environment}");
    let found = client.get(&path).await.expect(200).json();
    let container = &found["status"]["container"];
    let container = container.as_str().unwrap_or_else(|| panic!("{found}"));
    container.trim_start_matches("em-").to_owned()
}

async fn until_ready(program: &Program, count: usize) {
    wait_until(&format!("{count} are ready"), async || {
        program.folder().ready().len() == count
    })
    .await;
}

async fn begin(client: &Client, body: &Value) -> String {
    let job = client.post("/v1/environments", body).await.expect(202);
    id_of(&job.json()).to_owned()
}

#[tokio::test]
async fn a_create_takes_what_is_ready_and_it_comes_back() {
    let mut program = Program::start_with(&[("EM_WORKER__WARM", "host=2")]).await;
    let client = program.client();
    until_ready(&program, 2).await;
    let born = program.folder().ready();
    let body =
        json!({ "id": "env", "env": { "GIVEN": "by its own command" }, "labels": { "a": "b" } });
    client.create_from(&body).await;
    assert!(born.contains(&container(&client, "env").await));
    assert_eq!(
        client.printed("env", "echo $GIVEN; pwd").await,
        "by its own command\n/app\n"
    );
    let other = json!({ "id": "other", "resources": { "memory": "64Mi" } });
    client.create_from(&other).await;
    assert!(!born.contains(&container(&client, "other").await));
    until_ready(&program, 2).await;

    // Nobody wants them any more.
    program.term();
    program.set("EM_WORKER__WARM", None);
    program.restart().await;
    until_ready(&program, 0).await;
    let client = program.client();
    assert_eq!(client.printed("env", "echo well").await, "well\n");
    program.note_instance();
    for environment in ["env", "other"] {
        let path = format!("/v1/environments/{environment}");
        let job = client.delete(&path).await.expect(202).json();
        client.ended(id_of(&job)).await;
    }
    assert_eq!(program.traces().await, Vec::<String>::new());
}

/// kill -9 at every step of a taking: the create goes on where it was, and no other environment gets the same.
#[tokio::test]
async fn a_service_that_is_killed_while_it_takes_one_hands_it_out_once() {
    for place in ["warm_taken:kill", "warm_settling:kill"] {
        let mut program =
            Program::start_with(&[("EM_WORKER__WARM", "host=1"), ("EM_FAILPOINT", place)]).await;
        let client = program.client();
        until_ready(&program, 1).await;
        let born = program.folder().ready();
        let job = begin(&client, &json!({ "id": "env" })).await;
        program.until_killed().await;
        program.set("EM_FAILPOINT", None);
        program.restart().await;
        let client = program.client();
        client.create("other").await;
        let ended = client.ended(&job).await;
        assert_eq!(ended["state"], "succeeded", "{ended}");
        assert_eq!(container(&client, "env").await, born[0]);
        assert_ne!(container(&client, "other").await, born[0]);
        client.printed("env", "echo mine > file").await;
        assert_eq!(client.printed("other", "ls -A").await, "");
    }
}
