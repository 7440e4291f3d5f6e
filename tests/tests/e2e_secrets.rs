//! No key and no variable's value is told to anybody but the command that gets it.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use reqwest::Method;
use serde_json::json;
use tests::program::{Answer, Program, files_below, id_of, wait_until};

/// Values that occur nowhere by chance.
fn secret(what: &str) -> String {
    format!(
        "{what}-{:016x}{:016x}",
        rand::random::<u64>(),
        rand::random::<u64>()
    )
}

/// All that is written down of the only environment where it is held, and what its PID 1 has logged.
async fn descriptions(program: &Program) -> String {
    if let Some(namespace) = program.namespace() {
        return namespace.told().await;
    }
    let life = program.folder().lives().remove(0);
    let home = program.folder().environments().join(life);
    ["runner.log", "bundle/config.json", "environment.json"]
        .map(|name| fs::read_to_string(home.join(name)).expect("it is there"))
        .concat()
}

#[tokio::test]
async fn no_secret_is_in_any_log_error_view_or_file_for_others() {
    let mut program = Program::start_with(&[("EM_TELEMETRY__LEVEL", "trace")]).await;
    let client = program.client();
    let key = program.key();
    let of_environment = secret("of-the-environment");
    let of_command = secret("of-the-command");
    let refused = secret("refused");
    let mut told: Vec<Answer> = Vec::new();

    let create = json!({ "id": "env", "env": { "TOKEN": of_environment } });
    let created = client.post("/v1/environments", &create).await.expect(202);
    client.ended(id_of(&created.json())).await;
    told.push(created);
    // The command itself gets both.
    let both = json!({ "command": "test $TOKEN = $(cat want) && test -n \"$OTHER\"", "env": { "OTHER": of_command } });
    client
        .put_file("env", "want", of_environment.clone())
        .await
        .expect(200);
    let seen = client.exec("env", &both).await;
    assert_eq!(seen["state"], "succeeded", "{seen}");

    let env = json!({ "OTHER": of_command });
    let commands = [
        json!({ "command": "exit 3", "env": env }),
        json!({ "command": ["no-such-program"], "env": env }),
        json!({ "command": "sleep 60", "env": env, "timeout_seconds": 1 }),
        json!({ "command": "true", "env": env, "workdir": "/no/such/folder" }),
        json!({ "command": "true", "env": env, "user": "nobody-of-that-name" }),
    ];
    for command in &commands {
        let answer = client.post("/v1/environments/env/exec", command).await;
        if answer.status == 202 {
            client.ended(id_of(&answer.json())).await;
        }
        told.push(answer);
    }
    for wrong in [
        json!({ "command": "true", "env": refused }),
        json!({ "command": "true", "env": [refused] }),
        json!({ "command": "true", "env": { "A": [refused] } }),
        json!({ "command": "true", "env": { "A": { "b": refused } } }),
        json!({ "command": "true", "env": { "A": format!("{refused}\0") } }),
        json!({ "command": "", "env": { "A": refused } }),
        json!({ "command": "true", "env": { "A=": refused } }),
        json!({ "command": "true", "env": { "A": refused }, "unknown": 1 }),
    ] {
        told.push(
            client
                .post("/v1/environments/env/exec", &wrong)
                .await
                .expect(422),
        );
        let create = json!({ "id": "other", "env": wrong["env"], "unknown": 1 });
        told.push(client.post("/v1/environments", &create).await.expect(422));
    }
    let different = json!({ "id": "env", "env": { "TOKEN": refused } });
    told.push(
        client
            .post("/v1/environments", &different)
            .await
            .expect(409),
    );
    let keyed = |body: &serde_json::Value| {
        let request = client.request(Method::POST, "/v1/environments/env/exec");
        request.header("Idempotency-Key", "a-key").json(body)
    };
    told.push(client.send(keyed(&commands[0])).await.expect(202));
    told.push(
        client
            .send(keyed(
                &json!({ "command": "true", "env": { "A": refused } }),
            ))
            .await
            .expect(422),
    );
    told.push(client.with_key(&refused).get("/v1/jobs").await.expect(401));

    // While a command holds the variable, the service dies and comes back.
    let long = client
        .submit("env", &json!({ "command": "sleep 60", "env": env }))
        .await;
    client.until_state(&long, "running").await;
    program.kill9();
    program.restart().await;
    let client = program.client();
    told.push(client.cancel(&long).await);
    client.ended(&long).await;
    let paths = [
        "/v1/environments",
        "/v1/environments/env",
        "/v1/jobs?page_size=1000",
        "/status",
        "/metrics",
        "/ready",
    ];
    for path in paths {
        told.push(client.get(path).await.expect(200));
    }
    let names = told.iter().map(Answer::text).collect::<String>();
    assert!(
        names.contains("TOKEN") && names.contains("OTHER"),
        "the names are shown"
    );

    let shown = Program::command(&[
        "config",
        "show",
        "--data-dir",
        program.folder().path().to_str().unwrap(),
    ]);
    assert!(shown.status.success());
    let status = program.term();
    assert!(status.success(), "{status}");
    let log = program.log();
    assert!(
        log.contains("\"level\":\"DEBUG\"") || log.contains("\"level\":\"TRACE\""),
        "the log tells all it can"
    );
    let descriptions = descriptions(&program).await;
    assert!(
        descriptions.contains("em-runner") && descriptions.contains("\"env\""),
        "the descriptions tell something: {descriptions}"
    );
    for secret in [&key, &of_environment, &of_command, &refused] {
        assert!(!log.contains(secret.as_str()), "{secret} is in the log");
        assert!(
            !descriptions.contains(secret.as_str()),
            "{secret} is in a log or description of the environment"
        );
        assert!(!String::from_utf8_lossy(&shown.stdout).contains(secret.as_str()));
        assert!(!String::from_utf8_lossy(&shown.stderr).contains(secret.as_str()));
        for answer in &told {
            assert!(
                !answer.text().contains(secret.as_str()),
                "{secret} is in {}",
                answer.text()
            );
            assert!(!format!("{:?}", answer.headers).contains(secret.as_str()));
        }
    }
}

fn mode(path: &Path) -> u32 {
    path.symlink_metadata().expect("there").permissions().mode() & 0o777
}

/// Asserts it of what a life is made of on this machine: its image and its volume are its own to read, the folders around
/// them are not.
fn assert_nothing_of_a_life_is_for_others(home: &Path) {
    let state = home.join("runner");
    for folder in [home, &state, &home.join("bundle")] {
        assert_eq!(mode(folder), 0o700, "{}", folder.display());
    }
    let kept = files_below(&state);
    assert!(
        kept.iter()
            .any(|path| path.extension().is_some_and(|kind| kind == "out")),
        "no output of a command is among {kept:?}"
    );
    for file in kept.iter().chain([&home.join("environment.json")]) {
        assert_eq!(mode(file), 0o600, "{}", file.display());
    }
}

#[tokio::test]
async fn no_file_of_the_data_folder_is_for_others() {
    let program = Program::start().await;
    let client = program.client();
    client
        .create_from(&json!({ "id": "env", "env": { "A": "b" } }))
        .await;
    client
        .put_file("env", "file", "x".repeat(300_000))
        .await
        .expect(200);
    let publish = client
        .request(Method::POST, "/v1/environments/env/artifacts")
        .header("Prefer", "wait=30");
    let publish =
        publish.json(&json!({ "path": "file", "bucket": "bucket", "destination": "a/b" }));
    let published = client.send(publish).await.expect(200).json();
    assert_eq!(published["state"], "succeeded", "{published}");
    // While it runs its output is kept inside.
    let talker = json!({ "command": "echo output; sleep 4711" });
    let talker = client.submit("env", &talker).await;
    wait_until("it has printed", async || {
        let path = format!("/v1/jobs/{talker}/output");
        client.get(&path).await.json()["next_stdout_offset"] == 7
    })
    .await;

    let root = program.folder().path().to_owned();
    assert_eq!(mode(&root), 0o700, "nobody else enters the folder at all");
    // On a cluster they lie on the nodes.
    if !program.is_on_cluster() {
        let environments = root.join("environments");
        assert_eq!(mode(&environments), 0o700, "{}", environments.display());
        let life = &program.folder().lives()[0];
        assert_nothing_of_a_life_is_for_others(&environments.join(life));
    }
    let for_environments = ["images", "bin", "environments"].map(|name| root.join(name));
    let own: Vec<_> = files_below(&root)
        .into_iter()
        .filter(|path| {
            !for_environments
                .iter()
                .any(|folder| path.starts_with(folder))
        })
        .collect();
    for expected in [
        "api-key",
        "environment-manager.db",
        "lock",
        "blobs/bucket/a/b",
    ] {
        assert!(
            own.contains(&root.join(expected)),
            "{expected} is not among {own:?}"
        );
    }
    for path in own {
        assert_eq!(mode(&path), 0o600, "{}", path.display());
    }
}
