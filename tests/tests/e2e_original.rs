//! The original endpoints on the real program: what their clients read, to the byte, also where the work ends badly.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use nix::sys::signal::{Signal, kill};
use serde_json::{Value, json};
use tests::images::Tiny;
use tests::program::{Answer, Client, Program, id_of, wait_until};

/// Calls an endpoint on an environment.
async fn call(client: &Client, path: &str, environment: &str, more: &Value) -> Answer {
    let mut body = json!({ "environment_id": environment });
    let fields = body.as_object_mut().expect("an object");
    fields.extend(more.as_object().expect("an object").clone());
    client.post(path, &body).await
}

async fn create(client: &Client, environment: &str) -> Answer {
    call(client, "/create_environment", environment, &json!({})).await
}

async fn exec(client: &Client, environment: &str, command: &str) -> Answer {
    let body = json!({ "command": command });
    call(client, "/exec_in_environment", environment, &body).await
}

async fn environment(client: &Client, id: &str) -> Value {
    let path = format!("/v1/environments/{id}");
    client.get(&path).await.expect(200).json()
}

async fn until_phase(client: &Client, id: &str, phase: &str) {
    wait_until(&format!("{id} is {phase}"), async || {
        environment(client, id).await["status"]["phase"] == phase
    })
    .await;
}

/// The sentence of a refusal, which holds nothing else and names the job.
#[track_caller]
fn detail(answer: &Answer, status: u16) -> String {
    assert_eq!(answer.status, status, "{}", answer.text());
    let body = answer.json();
    let fields = body.as_object().expect("an object");
    assert_eq!(fields.len(), 1, "{body}");
    let detail = fields["detail"].as_str().expect("a sentence").to_owned();
    let job = answer.header("x-job-id").expect("a job");
    assert!(detail.contains(job), "{detail} does not name {job}");
    detail
}

#[tokio::test]
async fn commands_answer_what_they_wrote_and_how_they_exited() {
    let program = Program::start().await;
    let client = program.client();
    let created = create(&client, "test-env").await.expect(200);
    assert_eq!(created.text(), r#"{"environment_id":"test-env"}"#);
    for (command, expected) in [
        (
            "echo ' hi '; echo warn >&2",
            r#"{"stdout":"hi","stderr":"warn","exit_code":0}"#,
        ),
        (
            "echo no >&2; exit 3",
            r#"{"stdout":"","stderr":"no","exit_code":3,"error":"no"}"#,
        ),
        (
            "exit 4",
            r#"{"stdout":"","stderr":"","exit_code":4,"error":"Command failed with exit code 4"}"#,
        ),
        (
            "pwd; (exit 137)",
            r#"{"stdout":"/app","stderr":"","exit_code":137,"error":"Command failed with exit code 137"}"#,
        ),
    ] {
        let answer = exec(&client, "test-env", command).await.expect(200);
        assert_eq!(answer.text(), expected, "{command}");
        let job = client.job(answer.header("x-job-id").expect("a job")).await;
        assert_eq!(job["kind"], "exec", "{job}");
    }
    let body = json!({ "command": "pwd", "workdir": "sub", "timeout_seconds": 30.5 });
    exec(&client, "test-env", "mkdir sub").await.expect(200);
    let answer = call(&client, "/exec_in_environment", "test-env", &body).await;
    assert_eq!(answer.expect(200).json()["stdout"], "/app/sub");
    for _ in 0..2 {
        let deleted = call(&client, "/delete_environment", "test-env", &json!({})).await;
        assert_eq!(deleted.expect(200).text(), r#"{"deleted":"test-env"}"#);
    }
    exec(&client, "test-env", "true").await.expect(410);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_shell_is_bash_where_there_is_one() {
    let image = Tiny::new().made();
    let folder = image.folder().display().to_string();
    let program = Program::start_with(&[("EM_IMAGES__FOLDERS", &folder)]).await;
    let client = program.client();
    create(&client, "with").await.expect(200);
    let body = json!({ "base_image": image.reference() });
    let created = call(&client, "/create_environment", "without", &body).await;
    created.expect(200);
    let shell = "echo ${BASH_VERSION:+bash} $0";
    for (id, expected) in [("with", "bash bash"), ("without", "sh")] {
        let answer = exec(&client, id, shell).await.expect(200).json();
        assert_eq!(answer["stdout"], expected, "{answer}");
    }
    // What only bash understands.
    let array = exec(&client, "with", "a=(x y z); echo ${#a[@]}").await;
    assert_eq!(array.expect(200).json()["stdout"], "3");
    // A script of /v1 has sh everywhere.
    assert_eq!(client.printed("with", shell).await, "sh\n");
}

#[tokio::test]
async fn no_end_but_an_exit_has_an_exit_code() {
    let program = Program::start_with(&[
        ("EM_SERVER__SYNC_WAIT_SECONDS", "5"),
        ("EM_LIMITS__MEMORY", "64Mi"),
    ])
    .await;
    let client = program.client();
    create(&client, "env").await.expect(200);

    let slow = exec(
        &client,
        "env",
        "until [ -e go ]; do sleep 0.05; done; echo end",
    )
    .await;
    let said = detail(&slow, 504);
    assert!(said.contains("longer than this endpoint waits"), "{said}");
    let job = slow.header("x-job-id").expect("a job");
    assert_eq!(client.job(job).await["state"], "running", "it goes on");
    client.put_file("env", "go", "").await.expect(200);
    let ended = client.ended(job).await;
    assert_eq!(ended["result"]["stdout"], "end\n", "{ended}");

    let body = json!({ "command": "sleep 4711", "timeout_seconds": 1 });
    let late = call(&client, "/exec_in_environment", "env", &body).await;
    assert!(detail(&late, 504).contains("deadline"));
    let killed = exec(&client, "env", "kill -9 $$").await;
    assert!(detail(&killed, 422).contains("signal 9"));
    let greedy = "exec python3 -c 'bytearray(1 << 30)'";
    let greedy = exec(&client, "env", greedy).await;
    assert!(detail(&greedy, 422).contains("signal 9"));
    let nowhere = json!({ "command": "true", "workdir": "/no/such/folder" });
    let nowhere = call(&client, "/exec_in_environment", "env", &nowhere).await;
    detail(&nowhere, 422);

    // It goes away under the command.
    let first = program.folder().first_process();
    let lost = exec(&client, "env", "echo begun > begun; sleep 4711");
    let kill_it = async {
        wait_until("it runs", async || {
            client.get_file("env", "begun").await.status == 200
        })
        .await;
        kill(first, Signal::SIGKILL).expect("killed");
    };
    let (lost, ()) = futures::join!(lost, kill_it);
    detail(&lost, 503);
    let job = client.job(lost.header("x-job-id").expect("a job")).await;
    assert_eq!(job["state"], "lost", "{job}");
}

#[tokio::test]
async fn a_create_makes_whatever_is_there_run() {
    let program = Program::start().await;
    let client = program.client();
    let first = create(&client, "env").await.expect(200);
    exec(&client, "env", "echo kept > file").await.expect(200);
    let other = json!({ "base_image": "other:1" });
    let again = call(&client, "/create_environment", "env", &other).await;
    assert_eq!(
        again.expect(200).header("x-job-id"),
        first.header("x-job-id"),
        "a running one is reused, whatever its image"
    );

    let stop = client.post("/v1/environments/env/stop", &json!({})).await;
    client.ended(id_of(&stop.expect(202).json())).await;
    exec(&client, "env", "true").await.expect(409);
    let started = create(&client, "env").await.expect(200);
    let job = client.job(started.header("x-job-id").expect("a job")).await;
    assert_eq!(job["kind"], "start", "{job}");
    let file = exec(&client, "env", "cat file").await.expect(200);
    assert_eq!(file.json()["stdout"], "kept", "its volume is there again");

    let before = environment(&client, "env").await;
    kill(program.folder().first_process(), Signal::SIGKILL).expect("killed");
    until_phase(&client, "env", "failed").await;
    create(&client, "env").await.expect(200);
    let after = environment(&client, "env").await;
    assert_ne!(before["created_by"], after["created_by"], "a new life");
    let files = exec(&client, "env", "ls -A").await.expect(200);
    assert_eq!(files.json()["stdout"], "", "with a volume of its own");
}

#[tokio::test]
async fn files_go_in_and_out_as_text_or_base64() {
    let program = Program::start().await;
    let client = program.client();
    create(&client, "env").await.expect(200);
    let put = async |more: Value| call(&client, "/upload_to_environment", "env", &more).await;
    let get = async |more: Value| call(&client, "/download_from_environment", "env", &more).await;
    let text = json!({ "path": "d/a.txt", "content": "héllo" });
    assert_eq!(
        put(text).await.expect(200).text(),
        r#"{"uploaded":"d/a.txt"}"#
    );
    let answer = get(json!({ "path": "d/a.txt" })).await.expect(200);
    assert_eq!(answer.text(), r#"{"content":"héllo"}"#);
    let raw = STANDARD.encode([0xff, 0, 1]);
    let body = json!({ "path": "raw", "content": raw, "encoding": "base64" });
    put(body).await.expect(200);
    let answer = get(json!({ "path": "raw" })).await.expect(422).json();
    assert!(answer["detail"].as_str().unwrap().contains("base64"));
    let answer = get(json!({ "path": "raw", "encoding": "base64" })).await;
    assert_eq!(answer.expect(200).json()["content"], raw);
    assert_eq!(
        exec(&client, "env", "od -An -tx1 raw").await.json()["stdout"],
        "ff 00 01"
    );
    let missing = get(json!({ "path": "missing" })).await;
    detail(&missing, 404);
    let folder = put(json!({ "path": "d", "content": "x" })).await;
    detail(&folder, 409);
    let publish = json!({ "path": "d/a.txt", "bucket": "b", "destination": "x/a.txt" });
    let published = call(&client, "/upload_to_cloud_and_index", "env", &publish).await;
    let published = published.expect(200).json();
    let uri = published["gcs_uri"].as_str().expect("a URI");
    let object = uri.strip_prefix("file://").expect("a file");
    assert!(object.ends_with("/b/x/a.txt"), "{uri}");
    assert_eq!(
        std::fs::read(object).expect("it is there"),
        "héllo".as_bytes()
    );
    let id = published["artifact_id"].as_str().expect("an id");
    let artifact = client.get(&format!("/v1/artifacts/{id}")).await.expect(200);
    assert_eq!(artifact.json()["path"], "d/a.txt", "{}", artifact.text());
}

#[tokio::test]
async fn a_list_names_every_kind() {
    let program = Program::start().await;
    let client = program.client();
    create(&client, "env").await.expect(200);
    let make = "printf abc > file; mkdir folder; ln -s file link; ln -s nowhere dangling; mkfifo pipe; \
                touch -d @1700000000 file";
    exec(&client, "env", make).await.expect(200);
    for path in [json!({}), json!({ "path": "." }), json!({ "path": "/app" })] {
        let listed = call(&client, "/list_files_in_environment", "env", &path).await;
        let listed = listed.expect(200).json();
        let files = listed["files"].as_array().expect("a list");
        let kinds: BTreeMap<_, _> = files
            .iter()
            .map(|file| (file["name"].as_str().unwrap(), &file["type"]))
            .collect();
        let expected = json!({
            "dangling": "link", "file": "file", "folder": "directory", "link": "link", "pipe": "unknown",
        });
        assert_eq!(json!(kinds), expected, "{path}");
        let file = files.iter().find(|file| file["name"] == "file");
        assert_eq!(
            file.expect("the file"),
            &json!({ "name": "file", "type": "file", "size": 3, "last_modified": 1_700_000_000 })
        );
    }
}

#[tokio::test]
async fn a_list_has_all_of_100_000_names() {
    let program = Program::start().await;
    let client = program.client();
    create(&client, "env").await.expect(200);
    let make = "mkdir many && cd many && seq 0 99999 | xargs touch";
    exec(&client, "env", make).await.expect(200);
    let path = json!({ "path": "many" });
    let listed = call(&client, "/list_files_in_environment", "env", &path).await;
    let listed = listed.expect(200).json();
    let files = listed["files"].as_array().expect("a list");
    let names: Vec<_> = files.iter().map(|file| file["name"].as_str()).collect();
    let mut expected: Vec<_> = (0..100_000).map(|number| number.to_string()).collect();
    expected.sort();
    let expected: Vec<_> = expected.iter().map(|name| Some(name.as_str())).collect();
    assert!(names == expected, "{} names", names.len());
}

#[tokio::test]
async fn output_beyond_the_limit_is_said_to_be_truncated() {
    let program = Program::start_with(&[("EM_LIMITS__OUTPUT_BYTES", "1Mi")]).await;
    let client = program.client();
    create(&client, "env").await.expect(200);
    // Within the limit, and more than a job's result shows of it.
    let whole = exec(&client, "env", "head -c 1000000 /dev/zero | tr '\\0' x").await;
    let whole = whole.expect(200).json();
    assert_eq!(whole["stdout"].as_str().unwrap(), "x".repeat(1_000_000));
    assert_eq!(whole.get("truncated"), None);
    let cut = exec(&client, "env", "head -c 3000000 /dev/zero | tr '\\0' x").await;
    let cut = cut.expect(200).json();
    let length = cut["stdout"].as_str().unwrap().len();
    assert!((1 << 20..3_000_000).contains(&length), "{length}");
    assert_eq!(cut["truncated"], true);
    assert_eq!(cut["exit_code"], 0);
}
