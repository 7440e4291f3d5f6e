//! The machine is started anew under the service: every process and cgroup of an environment is gone, what lies on disk is
//! as it was, and process numbers mean others.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tests::program::{Client, Program, id_of, wait_until};

/// A process of somebody else, which got the number that a PID 1 had before.
struct Stranger(Child);

impl Stranger {
    fn new() -> Self {
        let mut sleep = Command::new("sleep");
        Self(
            sleep
                .arg("1000")
                .stdin(Stdio::null())
                .spawn()
                .expect("it starts"),
        )
    }

    fn is_alive(&mut self) -> bool {
        self.0.try_wait().expect("a child").is_none()
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The bundles of the environments that were not stopped on purpose, and of those that are held ready.
fn bundles(program: &Program) -> Vec<PathBuf> {
    let folder = program.folder();
    let lives = [folder.lives(), folder.ready_folders()]
        .concat()
        .into_iter();
    let bundles = lives.map(|life| folder.environments().join(life).join("bundle"));
    bundles
        .filter(|bundle| bundle.join("pid").exists())
        .collect()
}

/// Does to the environments what a restart of the machine does, while the service is not there.
async fn restart_machine(program: &Program, stranger: &Stranger) {
    for bundle in bundles(program) {
        let pid = fs::read_to_string(bundle.join("pid")).expect("a pid");
        let pid = Pid::from_raw(pid.trim().parse().expect("a number"));
        kill(pid, Signal::SIGKILL).expect("it was alive");
        wait_until("PID 1 is gone", async || {
            !fs::exists(format!("/proc/{pid}")).unwrap_or_default()
        })
        .await;
        fs::write(bundle.join("pid"), stranger.0.id().to_string()).expect("written");
        fs::write(bundle.join("boot"), "another-start\n").expect("written");
    }
    program.folder().remove_cgroups();
}

async fn status(client: &Client, environment: &str) -> Value {
    let path = format!("/v1/environments/{environment}");
    client.get(&path).await.expect(200).json()["status"].clone()
}

#[tokio::test]
async fn what_ran_is_lost_with_a_reason_and_the_volumes_are_there() {
    let mut program = Program::start().await;
    let client = program.client();
    for environment in ["busy", "idle", "stopped"] {
        client.create(environment).await;
        client
            .printed(environment, &format!("echo {environment} > own; sync"))
            .await;
    }
    program.folder().note_instance();
    let stop = client
        .post("/v1/environments/stopped/stop", &json!({}))
        .await
        .expect(202)
        .json();
    client.ended(id_of(&stop)).await;
    let script = "echo before; echo ran >> runs; sync; while :; do sleep 1; done";
    let running = client.submit("busy", &json!({ "command": script })).await;
    wait_until("its output is kept", async || {
        let window = client.get(&format!("/v1/jobs/{running}/output")).await;
        window.expect(200).json()["stdout"] == "before\n"
    })
    .await;
    let mut stranger = Stranger::new();
    program.kill9();
    restart_machine(&program, &stranger).await;
    program.restart().await;

    let client = program.client();
    let lost = client.ended(&running).await;
    assert_eq!(lost["state"], "lost", "{lost}");
    assert_eq!(lost["error"]["code"], "environment_gone", "{lost}");
    let message = lost["error"]["message"].as_str().expect("a message");
    assert!(message.contains("the machine was started anew"), "{lost}");
    assert!(lost["result"]["exit_code"].is_null(), "{lost}");
    let output = client.output(&running).await;
    assert_eq!(output.stdout.bytes, b"before\n");
    assert!(output.incomplete, "{lost}");

    for environment in ["busy", "idle"] {
        wait_until("it has failed", async || {
            status(&client, environment).await["phase"] == "failed"
        })
        .await;
        let found = status(&client, environment).await;
        assert_eq!(found["reason"], "machine_restarted", "{found}");
    }
    assert_eq!(status(&client, "stopped").await["phase"], "stopped");
    for environment in ["busy", "idle", "stopped"] {
        let start = client
            .post(&format!("/v1/environments/{environment}/start"), &json!({}))
            .await
            .expect(202)
            .json();
        let started = client.ended(id_of(&start)).await;
        assert_eq!(started["state"], "succeeded", "{started}");
        assert_eq!(
            client.printed(environment, "cat own").await,
            format!("{environment}\n")
        );
    }
    assert_eq!(
        client.printed("busy", "cat runs").await,
        "ran\n",
        "nothing ran twice"
    );
    assert!(stranger.is_alive(), "a process of somebody else was ended");
    for environment in ["busy", "idle", "stopped"] {
        let path = format!("/v1/environments/{environment}");
        let gone = client.delete(&path).await.expect(202).json();
        assert_eq!(client.ended(id_of(&gone)).await["state"], "succeeded");
    }
    assert_eq!(program.folder().traces(), [""; 0]);
}

#[tokio::test]
async fn what_was_held_ready_is_handed_to_nobody_and_made_anew() {
    let mut program = Program::start_with(&[("EM_WORKER__WARM", "host=1")]).await;
    let one_is_ready = async |program: &Program| {
        wait_until("one is ready", async || program.folder().ready().len() == 1).await;
    };
    one_is_ready(&program).await;
    let before = program.folder().ready();
    let mut stranger = Stranger::new();
    program.kill9();
    restart_machine(&program, &stranger).await;
    program.restart().await;

    let client = program.client();
    client.create("env").await;
    assert_eq!(client.printed("env", "echo well").await, "well\n");
    let container = status(&client, "env").await["container"].clone();
    let container = container
        .as_str()
        .expect("a name")
        .trim_start_matches("em-");
    assert!(!before.iter().any(|name| name == container), "{container}");
    wait_until("another is ready", async || {
        let ready = program.folder().ready();
        ready.len() == 1 && ready != before
    })
    .await;
    client.create("next").await;
    assert_eq!(client.printed("next", "echo well").await, "well\n");
    assert!(stranger.is_alive(), "a process of somebody else was ended");
    program.folder().note_instance();
    for environment in ["env", "next"] {
        let path = format!("/v1/environments/{environment}");
        let gone = client.delete(&path).await.expect(202).json();
        assert_eq!(client.ended(id_of(&gone)).await["state"], "succeeded");
    }
    program.term();
    program.set("EM_WORKER__WARM", None);
    program.restart().await;
    wait_until("nothing of it is there", async || {
        program.folder().traces().is_empty()
    })
    .await;
}
