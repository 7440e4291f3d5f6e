//! Environments with a network, through the real program, on a machine of the test's own.

use std::path::Path;
use std::process::Command;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;
use tests::images::debian;
use tests::outside::{on_a_machine_of_its_own, processes_in, reaching};
use tests::program::{Client, Program, id_of, wait_until};

/// An address of the internet, and one that may not be reached.
const TRIED: [&str; 2] = ["1.1.1.1", "169.254.169.254"];

async fn reaches_the_internet(client: &Client) {
    let script = reaching(&TRIED);
    assert_eq!(client.printed("env", &script).await, "1.1.1.1\n");
}

/// Processes that carry the network of the only life.
fn helpers(program: &Program) -> Vec<u32> {
    let lives = program.folder().lives();
    assert_eq!(lives.len(), 1, "{lives:?}");
    processes_in(&format!("{}-network", lives[0]))
}

fn first_process(program: &Program) -> Pid {
    let life = program.folder().lives().remove(0);
    let file = program
        .folder()
        .environments()
        .join(life)
        .join("bundle/pid");
    let pid = std::fs::read_to_string(file).expect("a pid file");
    Pid::from_raw(pid.trim().parse().expect("a pid"))
}

#[test]
fn a_network_outlives_the_service_and_not_its_environment() {
    on_a_machine_of_its_own(async |_| {
        let mut program = Program::start().await;
        let client = program.client();
        client
            .create_from(&json!({"id": "env", "network": {"egress": "internet"}}))
            .await;
        reaches_the_internet(&client).await;
        let before = helpers(&program);
        assert_eq!(before.len(), 1);

        program.kill9();
        assert_eq!(helpers(&program), before);
        program.restart().await;
        let client = program.client();
        reaches_the_internet(&client).await;
        assert_eq!(helpers(&program), before, "it was taken over as it was");

        // Nobody but the kernel is there to end it.
        program.kill9();
        kill(first_process(&program), Signal::SIGKILL).expect("killed");
        wait_until("the helper has ended", async || {
            helpers(&program).is_empty()
        })
        .await;

        program.restart().await;
        let client = program.client();
        wait_until("the environment has failed", async || {
            let answer = client.get("/v1/environments/env").await.json();
            answer["status"]["phase"] == "failed"
        })
        .await;
        let job = client.post("/v1/environments/env/start", &json!({})).await;
        let job = client.ended(id_of(&job.expect(202).json())).await;
        assert_eq!(job["state"], "succeeded", "{job}");
        reaches_the_internet(&client).await;

        let life = program.folder().lives().remove(0);
        let job = client.delete("/v1/environments/env").await.expect(202);
        let job = client.ended(id_of(&job.json())).await;
        assert_eq!(job["state"], "succeeded", "{job}");
        assert_eq!(processes_in(&life), [0; 0]);
    });
}

#[test]
fn pip_installs_from_the_internet() {
    on_a_machine_of_its_own(async |outside| {
        let place = debian();
        let index = tempfile::tempdir().expect("a folder");
        make_index(index.path());
        let _serving = outside.serve(index.path(), 8080);
        let folders = place.display().to_string();
        let program = Program::start_with(&[("EM_IMAGES__FOLDERS", &folders)]).await;
        let client = program.client();
        let image = format!("oci:{}:debian", place.join("layout").display());
        client
            .create_from(&json!({"id": "env", "image": image, "network": {"egress": "internet"}}))
            .await;
        let script = "pip install --quiet --index-url http://93.184.0.1:8080/simple --trusted-host 93.184.0.1 \
                      hello-em >&2 && python3 -c 'import hello_em; print(hello_em.WORD)'";
        assert_eq!(client.printed("env", script).await, "from the index\n");
    });
}

/// An index of packages as a folder: one package.
fn make_index(folder: &Path) {
    let program = r#"
import os, sys, zipfile
os.makedirs("simple/hello-em")
name = "simple/hello-em/hello_em-1.0-py3-none-any.whl"
with zipfile.ZipFile(name, "w") as wheel:
    wheel.writestr("hello_em.py", "WORD = 'from the index'\n")
    wheel.writestr("hello_em-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: hello-em\nVersion: 1.0\n")
    wheel.writestr("hello_em-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
    wheel.writestr("hello_em-1.0.dist-info/RECORD", "")
"#;
    let made = Command::new("python3")
        .args(["-c", program])
        .current_dir(folder)
        .status()
        .expect("it runs");
    assert!(made.success());
}
