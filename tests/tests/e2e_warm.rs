//! Environments that are held ready, through the real program.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

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

/// An OCI runtime that hangs while it makes one ready holds up nothing else.
#[tokio::test]
async fn what_hangs_while_one_is_made_ready_keeps_no_lifetime_from_its_end() {
    let folder = tempfile::tempdir().expect("a folder");
    let [binary, hang, begun] = ["runc", "hang", "begun"].map(|name| folder.path().join(name));
    let script = format!(
        "#!/bin/sh\ncase \" $* \" in *' run '*) [ ! -e {hang} ] || echo $$ >>{begun}\n\
         while [ -e {hang} ]; do sleep 0.1; done ;; esac\nexec runc \"$@\"\n",
        hang = hang.display(),
        begun = begun.display(),
    );
    fs::write(&binary, script).expect("written");
    fs::set_permissions(&binary, fs::Permissions::from_mode(0o755)).expect("set");
    let mut program =
        Program::start_with(&[("EM_RUNTIME__BINARY", &binary.to_string_lossy())]).await;
    program.client().create("env").await;
    program.term();
    fs::write(&hang, "").expect("written");
    program.set("EM_WORKER__WARM", Some("host=1"));
    program.restart().await;
    let client = program.client();
    wait_until("one is begun", async || {
        fs::read_to_string(&begun).is_ok_and(|text| text.ends_with('\n'))
    })
    .await;
    client
        .send(
            client
                .request(reqwest::Method::PATCH, "/v1/environments/env")
                .json(&json!({ "ttl_seconds": 1 })),
        )
        .await
        .expect(200);
    wait_until("it is gone", async || program.folder().lives().is_empty()).await;
    let pid = fs::read_to_string(&begun).expect("it began");
    let still = fs::exists(format!("/proc/{}", pid.trim())).expect("a look");
    assert!(still, "it hung until it was given up: {pid}");
    fs::remove_file(&hang).expect("removed");
    until_ready(&program, 1).await;
}
