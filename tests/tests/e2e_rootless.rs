//! The service of an ordinary user, who is root nowhere: everything that it does as root, and what it cannot do is said.
//!
//! As root these tests start the service as the user `em-test`, whom `scripts/test` makes; as anybody else, as himself.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::process::Command;
use std::time::Duration;

use serde_json::json;
use tests::program::{Program, id_of, ordinary, processes_with, wait_until};

/// A user of the machine as the kernel writes him into `/proc/PID/status`.
fn uid_of(pid: nix::unistd::Pid) -> u32 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("Uid:"));
    let first = line.and_then(|line| line.split_whitespace().next());
    first.expect("a uid").parse().expect("a number")
}

#[tokio::test]
async fn an_ordinary_user_has_all_of_it() {
    let mut program = Program::start_as_ordinary_user(&[]).await;
    let client = program.client();
    let user = ordinary::uid();
    assert_eq!(uid_of(program.pid()), user, "the service is the user's");
    client.create("env").await;
    program.folder().note_instance();
    let environment = client.get("/v1/environments/env").await.expect(200).json();
    assert_eq!(
        environment["status"]["limits_not_enforced"],
        json!(["cpu", "memory", "storage"]),
        "{environment}"
    );

    // A command is nobody whom the machine knows: neither root nor the user himself.
    let marker = format!("rootless-{}", rand::random::<u64>());
    let script = format!("import time; print('begun', flush=True); time.sleep(1000); '{marker}'");
    let running = client
        .submit("env", &json!({ "command": ["python3", "-c", script] }))
        .await;
    wait_until("it runs", async || !processes_with(&marker).is_empty()).await;
    let outside = uid_of(processes_with(&marker)[0]);
    assert!(outside != 0 && outside != user, "{outside}");
    assert_eq!(client.printed("env", "id -u; id -un").await, "1000\nuser\n");

    // Files go in and out.
    client.put_file("env", "in", "content").await.expect(200);
    assert_eq!(
        client.printed("env", "cat in; echo own > own").await,
        "content"
    );
    assert_eq!(
        client.get_file("env", "own").await.expect(200).text(),
        "own\n"
    );

    // The service dies and comes back: the command has noticed nothing, and is ended with its tree when asked to.
    let counting =
        json!({ "command": "echo ran >> runs; (setsid sleep 4712 &); sleep 1; echo end; exit 7" });
    let counting = client.submit("env", &counting).await;
    client.until_state(&counting, "running").await;
    program.kill9();
    program.restart().await;
    let client = program.client();
    let ended = client.ended(&counting).await;
    assert_eq!(ended["result"]["exit_code"], 7, "{ended}");
    assert_eq!(ended["result"]["stdout"], "end\n", "{ended}");
    assert_eq!(client.printed("env", "cat runs").await, "ran\n");
    client.cancel(&running).await.expect(202);
    assert_eq!(client.ended(&running).await["state"], "cancelled");
    assert_eq!(processes_with(&marker), []);
    let timed = json!({ "command": "setsid sleep 4713 & sleep 4713", "timeout_seconds": 1 });
    let timed = client.exec("env", &timed).await;
    assert_eq!(timed["state"], "timed_out", "{timed}");
    assert_eq!(timed["result"]["confirmed"], true, "{timed}");

    // What may be started is counted, and PID 1 is not among those who are starved by it.
    let flood = client
        .sh(
            "env",
            "i=0; while [ $i -lt 3000 ]; do sleep 1000 & i=$((i+1)); done",
        )
        .await;
    assert_eq!(flood["state"], "failed", "{flood}");
    for (verb, phase) in [("stop", "stopped"), ("start", "running")] {
        let job = client
            .post(&format!("/v1/environments/env/{verb}"), &json!({}))
            .await
            .expect(202)
            .json();
        assert_eq!(client.ended(id_of(&job)).await["state"], "succeeded");
        let environment = client.get("/v1/environments/env").await.expect(200).json();
        assert_eq!(environment["status"]["phase"], phase, "{environment}");
    }
    assert_eq!(client.printed("env", "cat own").await, "own\n");

    // Volumes are the subordinate ids' own; the user may look into them as root of his namespace.
    let life = program.folder().lives().remove(0);
    let volume = program.folder().environments().join(life).join("volume");
    assert_ne!(
        fs::metadata(&volume).map(|found| found.uid()).ok(),
        Some(user)
    );
    let seen = ordinary::command(&["unshare", "cat", &volume.join("own").to_string_lossy()]);
    assert_eq!(String::from_utf8_lossy(&seen.stdout), "own\n", "{seen:?}");

    let gone = client
        .delete("/v1/environments/env")
        .await
        .expect(202)
        .json();
    assert_eq!(client.ended(id_of(&gone)).await["state"], "succeeded");
    assert_eq!(program.folder().traces(), [""; 0]);
    assert!(program.term().success());
}

/// A service that starts anew has rights over what the one before has just begun to start.
#[tokio::test]
async fn the_service_may_be_killed_while_it_creates() {
    // A slow one, so that it still starts a container when the next service looks for those that live.
    let folder = tempfile::tempdir().expect("a folder");
    ordinary::give(folder.path());
    let slow = folder.path().join("slow-runc");
    let script = "#!/bin/sh\ncase \" $* \" in *' run '*) sleep 1.5 ;; esac\nexec runc \"$@\"\n";
    fs::write(&slow, script).expect("written");
    fs::set_permissions(&slow, fs::Permissions::from_mode(0o755)).expect("set");
    let binary = slow.to_string_lossy();
    let mut program = Program::start_as_ordinary_user(&[("EM_RUNTIME__BINARY", &binary)]).await;
    for millis in [0, 100, 500, 1_000, 1_500, 1_600] {
        let create = program
            .client()
            .post("/v1/environments", &json!({ "id": "env" }))
            .await
            .expect(202)
            .json();
        tokio::time::sleep(Duration::from_millis(millis)).await;
        program.kill9();
        program.restart().await;
        let client = program.client();
        let created = client.ended(id_of(&create)).await;
        assert_eq!(
            created["state"], "succeeded",
            "after {millis} ms: {created}"
        );
        program.folder().note_instance();
        assert_eq!(client.printed("env", "echo well").await, "well\n");
        let gone = client
            .delete("/v1/environments/env")
            .await
            .expect(202)
            .json();
        assert_eq!(client.ended(id_of(&gone)).await["state"], "succeeded");
        assert_eq!(program.folder().traces(), [""; 0], "after {millis} ms");
    }
}

/// Nothing lives but what is held ready when the service starts anew: it has rights over that too, and hands it out.
#[tokio::test]
async fn what_is_held_ready_outlives_the_service() {
    let mut program = Program::start_as_ordinary_user(&[("EM_WORKER__WARM", "host=1")]).await;
    let until_ready = async |program: &Program, count: usize| {
        wait_until(&format!("{count} are ready"), async || {
            program.folder().ready().len() == count
        })
        .await;
    };
    until_ready(&program, 1).await;
    let born = program.folder().ready();
    program.kill9();
    program.restart().await;
    let client = program.client();
    client.create("env").await;
    let found = client.get("/v1/environments/env").await.expect(200).json();
    assert_eq!(
        found["status"]["container"],
        format!("em-{}", born[0]),
        "{found}"
    );
    assert_eq!(client.printed("env", "id -u").await, "1000\n");
    program.folder().note_instance();
    let gone = client
        .delete("/v1/environments/env")
        .await
        .expect(202)
        .json();
    assert_eq!(client.ended(id_of(&gone)).await["state"], "succeeded");

    // And removes it, where none shall be held ready any more.
    until_ready(&program, 1).await;
    program.kill9();
    program.set("EM_WORKER__WARM", None);
    program.restart().await;
    until_ready(&program, 0).await;
    wait_until("nothing is left", async || {
        program.folder().traces().is_empty()
    })
    .await;
}

#[test]
fn the_doctor_finds_that_environments_can_be_had() {
    let found = ordinary::command(&["doctor"]);
    let text = String::from_utf8_lossy(&found.stdout);
    assert!(found.status.success(), "{text}");
    for line in [
        "good     subordinate ids",
        "lacking  limits",
        "good     environment",
    ] {
        assert!(text.contains(line), "{line} in {text}");
    }
}

#[test]
fn what_is_missing_is_said_with_what_mends_it() {
    let run = |arguments: &[&str], path: &str| {
        let mut command = ordinary::prepared(arguments);
        command.env("PATH", path).output().expect("it runs")
    };
    let folder = tempfile::tempdir().expect("a folder");
    ordinary::give(folder.path());
    let data = folder.path().join("data").to_string_lossy().into_owned();
    let serve = ["serve", "--listen", "127.0.0.1:0", "--data-dir", &data];
    for (arguments, where_to) in [(&serve[..], "stderr"), (&["doctor"], "stdout")] {
        let ended = run(arguments, "/nowhere");
        assert_eq!(ended.status.code(), Some(1), "{ended:?}");
        let said = if where_to == "stderr" {
            &ended.stderr
        } else {
            &ended.stdout
        };
        let said = String::from_utf8_lossy(said);
        assert!(said.contains("apt-get install uidmap"), "{said}");
    }
    // The start refuses what it is told not to be.
    let mut command = ordinary::prepared(&serve);
    let refused = command.env("EM_RUNTIME__ROOTLESS", "false").output();
    let refused = refused.expect("it runs");
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(said.contains("runtime.rootless"), "{said}");
}

/// The scripts, in a folder of the user's: the checkout may be closed to him.
fn scripts_of_his() -> tempfile::TempDir {
    let home = tempfile::tempdir().expect("a folder");
    let scripts = concat!(env!("CARGO_MANIFEST_DIR"), "/../scripts");
    let copied = Command::new("cp")
        .args(["-r", scripts])
        .arg(home.path())
        .status();
    assert!(copied.expect("it runs").success());
    ordinary::give(home.path());
    home
}

#[test]
fn the_quickstart_shows_him_a_first_job() {
    let home = scripts_of_his();
    let program = ordinary::program();
    let output = ordinary::starting(home.path().join("scripts/quickstart"))
        .arg("--once")
        .arg("--program")
        .arg(program)
        .env("HOME", home.path())
        .env("TMPDIR", home.path())
        .output()
        .expect("it starts");
    let (said, told) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(output.status.success(), "{said}\n{told}");
    let mut expected: Vec<String> = vec!["create: succeeded".to_owned()];
    expected.extend((1..=5).map(|step| format!("step {step} of 5 on environment, as user")));
    expected.push("the command: succeeded, exit code 0".to_owned());
    expected.push("delete: succeeded".to_owned());
    assert_eq!(said.lines().collect::<Vec<_>>(), expected, "{told}");
    let left = fs::read_dir(home.path()).expect("a folder");
    let left: Vec<_> = left
        .map(|entry| entry.expect("an entry").file_name())
        .collect();
    assert_eq!(left, ["scripts"], "nothing is left of it");
}

#[test]
fn its_data_lies_in_the_users_own_folder() {
    let home = tempfile::tempdir().expect("a folder");
    ordinary::give(home.path());
    let mut command: Command = ordinary::prepared(&["config", "show"]);
    command.env_remove("XDG_DATA_HOME").env("HOME", home.path());
    let shown = command.output().expect("it runs");
    let text = String::from_utf8_lossy(&shown.stdout);
    let place = home.path().join(".local/share/environment-manager");
    let line = format!("# data folder: {}", place.display());
    assert!(text.contains(&line), "{text}");
    assert!(text.contains("rootless = \"auto\""), "{text}");
}
