//! Images through the real program: fetched once, told of while it lasts, gone when it is cut off, refused in words.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tempfile::TempDir;
use tests::images::{Layout, Registry, Tiny};
use tests::program::{Client, DataFolder, Program, files_below, id_of, processes_with, wait_until};
use tests::proxy::{Fault, Plan, Proxy};
use worker::runtime::oci::Standing;

/// Stands before `skopeo` in the PATH: notes each call, waits while the file `hold` is there, then is the real one.
struct Gate {
    folder: TempDir,
}

impl Gate {
    fn new() -> Self {
        let gate = Self {
            folder: tempfile::tempdir().expect("a folder"),
        };
        let here = gate.folder.path().display();
        let script = format!(
            "#!/bin/sh\necho call >> {here}/calls\necho begun > begun\n\
             while [ -e {here}/hold ]; do sleep 0.01; done\nexec /usr/bin/skopeo \"$@\"\n"
        );
        let program = gate.folder.path().join("skopeo");
        fs::write(&program, script).expect("written");
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("set");
        gate
    }

    fn path(&self) -> String {
        let path = std::env::var("PATH").expect("a PATH");
        format!("{}:{path}", self.folder.path().display())
    }

    fn close(&self) {
        fs::write(self.folder.path().join("hold"), "").expect("written");
    }

    fn open(&self) {
        fs::remove_file(self.folder.path().join("hold")).expect("removed");
    }

    fn calls(&self) -> usize {
        let calls = fs::read_to_string(self.folder.path().join("calls"));
        calls.unwrap_or_default().lines().count()
    }

    /// What the command line of a program that waits at the gate holds.
    fn marker(&self) -> String {
        self.folder.path().join("skopeo").display().to_string()
    }
}

async fn started(image: &Layout, gate: &Gate) -> Program {
    started_with(image, gate, &[]).await
}

async fn started_with(image: &Layout, gate: &Gate, more: &[(&str, &str)]) -> Program {
    let folder = image.folder().display().to_string();
    let path = gate.path();
    let variables = [("EM_IMAGES__FOLDERS", folder.as_str()), ("PATH", &path)];
    Program::start_with(&[&variables[..], more].concat()).await
}

async fn create(client: &Client, id: &str, image: &str) -> String {
    let body = json!({"id": id, "image": image});
    let job = client.post("/v1/environments", &body).await.expect(202);
    id_of(&job.json()).to_owned()
}

async fn status(client: &Client, id: &str) -> Value {
    let path = format!("/v1/environments/{id}");
    client.get(&path).await.expect(200).json()["status"].clone()
}

async fn told_of_the_pull(client: &Client, id: &str) {
    wait_until("the status tells of the pull", async || {
        let status = status(client, id).await;
        status["reason"] == "pulling" && status["phase"] == "creating"
    })
    .await;
}

/// What is in the folder of images but images.
fn leftovers(program: &Program) -> Vec<PathBuf> {
    let entries = fs::read_dir(program.folder().path().join("images")).expect("a folder");
    let paths = entries.map(|entry| entry.expect("an entry").path());
    let hidden = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with(".pulling") || name.starts_with(".removing")
    };
    paths.filter(hidden).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_creates_fetch_an_image_once() {
    let (image, gate) = (Tiny::new().made(), Gate::new());
    let program = started(&image, &gate).await;
    let client = program.client();
    gate.close();
    let mut jobs = Vec::new();
    for number in 0..10 {
        jobs.push(create(&client, &format!("env-{number}"), &image.reference()).await);
    }
    for number in 0..10 {
        told_of_the_pull(&client, &format!("env-{number}")).await;
    }
    gate.open();
    for job in jobs {
        let job = client.ended(&job).await;
        assert_eq!(job["state"], "succeeded", "{job}");
    }
    assert_eq!(gate.calls(), 1);
    let status = status(&client, "env-3").await;
    assert_eq!(
        (&status["phase"], &status["reason"]),
        (&json!("running"), &Value::Null)
    );
    assert_eq!(leftovers(&program), [""; 0].map(PathBuf::from));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_and_a_command_that_pull_the_same_take_turns() {
    let (image, gate) = (Tiny::new().made(), Gate::new());
    let program = started(&image, &gate).await;
    let client = program.client();
    gate.close();
    let job = create(&client, "env", &image.reference()).await;
    told_of_the_pull(&client, "env").await;
    wait_until("the service fetches it", async || gate.calls() == 1).await;
    let data = program.folder().path().to_owned();
    let (folder, reference, path) = (image.folder().to_owned(), image.reference(), gate.path());
    let pulling = tokio::task::spawn_blocking(move || {
        images_command_on(&path, &data, &folder, &["pull", &reference])
    });
    let marker = format!("pull\0{}\0--data-dir", image.reference());
    wait_until("the command is there", async || {
        !processes_with(&marker).is_empty()
    })
    .await;
    assert!(!pulling.is_finished(), "it has what nobody has fetched");
    assert_eq!(gate.calls(), 1, "both fetch it at once");
    gate.open();
    let (pulled, _) = pulling.await.expect("it ends");
    assert!(pulled.starts_with("sha256:"), "{pulled}");
    let job = client.ended(&job).await;
    assert_eq!(job["state"], "succeeded", "{job}");
    // A command looks itself whether the reference leads elsewhere now.
    assert_eq!(gate.calls(), 2);
    let (listed, _) = images_command(program.folder().path(), image.folder(), &["list"]);
    assert_eq!(listed.lines().count(), 2, "{listed}");
    assert_eq!(leftovers(&program), [""; 0].map(PathBuf::from));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_ends_with_the_service_and_is_begun_anew_by_the_next() {
    let (image, gate) = (Tiny::new().made(), Gate::new());
    let mut program = started(&image, &gate).await;
    let client = program.client();
    gate.close();
    let job = create(&client, "env", &image.reference()).await;
    told_of_the_pull(&client, "env").await;
    wait_until("the pulling program is at the gate", async || {
        gate.calls() == 1
    })
    .await;
    assert_eq!(leftovers(&program).len(), 1);
    program.kill9();
    wait_until("the pulling program has ended", async || {
        processes_with(&gate.marker()).is_empty()
    })
    .await;
    program.restart().await;
    gate.open();
    let job = program.client().ended(&job).await;
    assert_eq!(job["state"], "succeeded", "{job}");
    assert_eq!(leftovers(&program), [""; 0].map(PathBuf::from));
    assert_eq!(gate.calls(), 2);
}

/// The images that are there, as a list of them shows them while no service runs.
fn listed(program: &Program, image: &Layout) -> usize {
    let (listed, _) = images_command(program.folder().path(), image.folder(), &["list"]);
    listed.lines().count() - 1
}

/// Removes the environment and every image; nothing is left of either.
async fn nothing_is_left(program: &Program, image: &Layout) {
    if !Standing::of_this_process().expect("/proc").is_namespace() {
        // By this its cgroups are found; in a namespace there are none, and images share their ids.
        program.note_instance();
    }
    let client = program.client();
    let delete = client.delete("/v1/environments/env").await.expect(202);
    client.ended(id_of(&delete.json())).await;
    images_command(program.folder().path(), image.folder(), &["prune", "--all"]);
    let images = program.folder().path().join("images");
    let entries = fs::read_dir(&images).expect("a folder");
    let names = entries.map(|entry| entry.expect("an entry").file_name());
    // What the image `host` stands on is no image of anybody's.
    let names: Vec<_> = names
        .filter(|name| !name.to_string_lossy().starts_with("host-"))
        .collect();
    assert_eq!(names, [".references"]);
    assert_eq!(
        files_below(&images.join(".references")),
        [""; 0].map(PathBuf::from)
    );
    let locks = fs::read_dir(program.folder().environments().join(".locks")).expect("a folder");
    let locks = locks.map(|entry| entry.expect("an entry").file_name());
    let of_images: Vec<_> = locks
        .filter(|name| name.to_string_lossy().starts_with("image-"))
        .collect();
    assert_eq!(of_images, [""; 0].map(std::ffi::OsString::from));
    assert_eq!(program.folder().traces(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_that_is_killed_within_a_layer_is_begun_anew() {
    const MIB: u64 = 1 << 20;
    let layer = "import os\nentry('large', content=os.urandom(16 << 20))";
    let (image, registry) = (Tiny::new().layer(layer).made(), Registry::start());
    let proxy = Proxy::start(registry.address().parse().expect("an address")).await;
    proxy.plan(|| {
        Some(Plan {
            after: 6 * MIB,
            fault: Some(Fault::Stall),
        })
    });
    let address = proxy.address().to_string();
    let pushed = registry.push(&image, "group/large:1");
    let reference = pushed.replace(registry.address(), &address);
    let allowed = [
        ("EM_IMAGES__REGISTRIES", &*address),
        ("EM_IMAGES__PLAIN_HTTP", &address),
    ];
    let mut program = Program::start_with(&allowed).await;
    let client = program.client();
    let job = create(&client, "env", &reference).await;
    let fetched = |program: &Program| -> u64 {
        let files = leftovers(program)
            .into_iter()
            .flat_map(|path| files_below(&path));
        files
            .map(|file| file.metadata().map_or(0, |found| found.len()))
            .sum()
    };
    wait_until("a part of the layer is here", async || {
        proxy.struck() > 0 && fetched(&program) > 4 * MIB
    })
    .await;
    wait_until("the status tells how much", async || {
        let status = status(&client, "env").await;
        let message = status["message"].as_str().unwrap_or_default().to_owned();
        message.starts_with(&format!("fetching {reference}: ")) && !message.contains(": 0 ")
    })
    .await;
    program.kill9();
    assert!(fetched(&program) < 16 * MIB);
    assert_eq!(listed(&program, &image), 0);
    wait_until("the fetching program has ended", async || {
        processes_with(&format!("docker://{reference}")).is_empty()
    })
    .await;
    proxy.calm();
    program.restart().await;
    let client = program.client();
    let job = client.ended(&job).await;
    assert_eq!(job["state"], "succeeded", "{job}");
    let size = client.printed("env", "stat -c %s /large").await;
    assert_eq!(size, format!("{}\n", 16 * MIB));
    nothing_is_left(&program, &image).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_is_there_whole_or_not_at_all_wherever_its_pull_is_killed() {
    const FILES: usize = 20_000;
    let layer = format!("for number in range({FILES}): entry(f'many/{{number}}', content=b'x')");
    let image = Tiny::new().layer(&layer).made();
    let folder = image.folder().display().to_string();
    for (place, there) in [
        ("image_unpacking", 0),
        ("image_shelving", 0),
        ("image_shelved", 1),
    ] {
        let failpoint = format!("{place}:kill");
        let variables = [
            ("EM_IMAGES__FOLDERS", &*folder),
            ("EM_FAILPOINT", &failpoint),
        ];
        let mut program = Program::start_with(&variables).await;
        let job = create(&program.client(), "env", &image.reference()).await;
        program.until_killed().await;
        if place == "image_unpacking" {
            let [pulling] = &leftovers(&program)[..] else {
                panic!("one pull");
            };
            let unpacked = files_below(&pulling.join("image/root/many")).len();
            assert!((1..FILES).contains(&unpacked), "{unpacked}");
        }
        assert_eq!(listed(&program, &image), there, "{place}");
        program.set("EM_FAILPOINT", None);
        program.restart().await;
        let client = program.client();
        let job = client.ended(&job).await;
        assert_eq!(job["state"], "succeeded", "{place}: {job}");
        let many = client.printed("env", "ls /many | grep -c .").await;
        assert_eq!(many, format!("{FILES}\n"), "{place}");
        assert_eq!(leftovers(&program), [""; 0].map(PathBuf::from), "{place}");
        nothing_is_left(&program, &image).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_pull_left_goes_though_nobody_pulls_again() {
    let (image, gate) = (Tiny::new().made(), Gate::new());
    let mut program = started(&image, &gate).await;
    let client = program.client();
    gate.close();
    create(&client, "env", &image.reference()).await;
    told_of_the_pull(&client, "env").await;
    client.delete("/v1/environments/env").await;
    program.kill9();
    program.restart().await;
    let client = program.client();
    wait_until("the environment is gone", async || {
        client.get("/v1/environments/env").await.status == 404
            || status(&client, "env").await["phase"] == "deleted"
    })
    .await;
    wait_until("nothing of the pull is left", async || {
        leftovers(&program).is_empty()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delete_does_not_wait_for_a_pull() {
    let (image, gate) = (Tiny::new().made(), Gate::new());
    let program = started(&image, &gate).await;
    let client = program.client();
    gate.close();
    let create = create(&client, "env", &image.reference()).await;
    told_of_the_pull(&client, "env").await;
    let delete = client
        .delete("/v1/environments/env")
        .await
        .expect(202)
        .json();
    assert_eq!(client.ended(id_of(&delete)).await["state"], "succeeded");
    assert_eq!(client.ended(&create).await["state"], "cancelled");
    wait_until("the pull has ended", async || {
        leftovers(&program).is_empty() && processes_with(&gate.marker()).is_empty()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_that_wait_for_their_environment_hold_no_slot() {
    let (image, gate) = (Tiny::new().made(), Gate::new());
    let one = ("EM_WORKER__CONCURRENCY", "1");
    let program = started_with(&image, &gate, &[one]).await;
    let client = program.client();
    gate.close();
    create(&client, "env", &image.reference()).await;
    told_of_the_pull(&client, "env").await;
    let mut waiting = Vec::new();
    for number in 0..5 {
        let body = json!({"command": format!("echo {number}")});
        waiting.push(client.submit("env", &body).await);
    }
    client.create("other").await;
    assert_eq!(client.printed("other", "echo through").await, "through\n");
    for job in &waiting {
        let job = client.job(job).await;
        assert_eq!(
            (&job["state"], &job["attempts"]),
            (&json!("queued"), &json!(0)),
            "{job}"
        );
    }
    gate.open();
    for (number, job) in waiting.iter().enumerate() {
        let job = client.ended(job).await;
        assert_eq!(job["result"]["stdout"], format!("{number}\n"), "{job}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn creates_that_wait_for_a_pull_hold_up_nobody() {
    let (image, gate) = (Tiny::new().made(), Gate::new());
    let program = started(&image, &gate).await;
    let client = program.client();
    gate.close();
    // More than a worker begins at a time.
    let mut slow = Vec::new();
    for number in 0..40 {
        slow.push(create(&client, &format!("slow-{number}"), &image.reference()).await);
    }
    told_of_the_pull(&client, "slow-39").await;
    client.create("env").await;
    assert_eq!(client.printed("env", "echo well").await, "well\n");
    for what in ["stop", "start"] {
        let path = format!("/v1/environments/env/{what}");
        let job = client.post(&path, &json!({})).await.expect(202).json();
        assert_eq!(client.ended(id_of(&job)).await["state"], "succeeded");
    }
    for environment in ["env", "slow-7"] {
        let path = format!("/v1/environments/{environment}");
        let job = client.delete(&path).await.expect(202).json();
        assert_eq!(client.ended(id_of(&job)).await["state"], "succeeded");
    }
    assert_eq!(client.ended(&slow.remove(7)).await["state"], "cancelled");
    assert_eq!(status(&client, "slow-0").await["reason"], "pulling");
    gate.open();
    for job in slow {
        let job = client.ended(&job).await;
        assert_eq!(job["state"], "succeeded", "{job}");
    }
    assert_eq!(gate.calls(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_without_room_is_not_the_fault_of_an_image() {
    let (image, gate) = (Tiny::new().made(), Gate::new());
    let disk = DataFolder::with_small_disk_at("images", 100);
    let folders = image.folder().display().to_string();
    let variables = [("EM_IMAGES__FOLDERS", &*folders), ("PATH", &gate.path())];
    let program = Program::start_on(disk, &variables).await;
    let client = program.client();
    gate.close();
    let job = create(&client, "env", &image.reference()).await;
    told_of_the_pull(&client, "env").await;
    let ballast = program.folder().fill("images");
    let job = client.ended(&job).await;
    assert_eq!(job["state"], "failed", "{job}");
    assert_eq!(job["error"]["code"], "no_space_for_image", "{job}");
    let failed = status(&client, "env").await;
    assert_eq!(failed["reason"], "no_space_for_image", "{failed}");
    assert_eq!(leftovers(&program), [""; 0].map(PathBuf::from));
    fs::remove_file(ballast).expect("removed");
    gate.open();
    let job = create(&client, "other", &image.reference()).await;
    let job = client.ended(&job).await;
    assert_eq!(job["state"], "succeeded", "{job}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_cannot_be_had_fails_the_create() {
    let (image, gate) = (Tiny::new().made(), Gate::new());
    let program = started(&image, &gate).await;
    let client = program.client();
    let missing = format!("oci:{}:missing", image.path().display());
    for (number, (reference, why)) in [
        (missing.as_str(), "missing"),
        ("oci:/etc:x", "images.folders"),
        ("localhost:1/x", "images.registries"),
        ("not an image", ""),
        ("Not:An:Image", "not well-formed"),
    ]
    .into_iter()
    .enumerate()
    {
        let id = format!("env-{number}");
        let body = json!({"id": id, "image": reference});
        let answer = client.post("/v1/environments", &body).await;
        if why.is_empty() {
            answer.expect(422);
            continue;
        }
        let job = client.ended(id_of(&answer.expect(202).json())).await;
        assert_eq!(job["error"]["code"], "image_not_found", "{job}");
        let message = job["error"]["message"].as_str().expect("a message");
        assert!(message.contains(why), "{message}");
        let data = program.folder().path().display().to_string();
        assert!(!message.contains(&data), "{message}");
        let status = status(&client, &id).await;
        assert_eq!(
            (&status["phase"], &status["reason"]),
            (&json!("failed"), &json!("image_not_found"))
        );
    }
    assert_eq!(leftovers(&program), [""; 0].map(PathBuf::from));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_is_asked_once_and_in_clear_only_if_it_may_be() {
    let (image, registry) = (
        Tiny::new().set("config.env", "FROM=registry").made(),
        Registry::start(),
    );
    let reference = registry.push(&image, "group/tiny:1");
    let allowed = ("EM_IMAGES__REGISTRIES", registry.address());
    let strict = Program::start_with(&[allowed]).await;
    let client = strict.client();
    let job = client
        .ended(&create(&client, "env", &reference).await)
        .await;
    assert_eq!(job["error"]["code"], "image_not_found", "{job}");
    drop(strict);

    let clear = ("EM_IMAGES__PLAIN_HTTP", registry.address());
    let mut program = Program::start_with(&[allowed, clear]).await;
    let client = program.client();
    client
        .create_from(&json!({"id": "env", "image": reference}))
        .await;
    assert_eq!(client.printed("env", "echo $FROM").await, "registry\n");
    let missing = create(&client, "other", &reference.replace("tiny", "none")).await;
    let job = client.ended(&missing).await;
    assert_eq!(job["error"]["code"], "image_not_found", "{job}");
    // What was fetched needs no registry any more.
    drop(registry);
    program.kill9();
    program.restart().await;
    let client = program.client();
    client
        .create_from(&json!({"id": "again", "image": reference}))
        .await;
    assert_eq!(leftovers(&program), [""; 0].map(PathBuf::from));
}

#[tokio::test(flavor = "multi_thread")]
async fn images_are_listed_pulled_and_pruned_while_the_service_runs() {
    let (image, gate) = (Tiny::new().made(), Gate::new());
    let program = started(&image, &gate).await;
    let client = program.client();
    let run =
        |arguments: &[&str]| images_command(program.folder().path(), image.folder(), arguments);
    let (pulled, _) = run(&["pull", &image.reference()]);
    let id = pulled.trim().to_owned();
    assert!(id.starts_with("sha256:") && id.len() == 71, "{id}");
    let short = &id[..19];
    client
        .create_from(&json!({"id": "env", "image": image.reference()}))
        .await;
    let (listed, _) = run(&["list"]);
    let row = listed.lines().nth(1).expect("an image");
    assert!(
        row.starts_with(short) && row.contains(" yes ") && row.ends_with(&image.reference()),
        "{listed}"
    );
    let (pruned, said) = run(&["prune", "--all"]);
    assert_eq!((pruned.as_str(), said.as_str()), ("", "0 removed, 0\n"));
    let delete = client
        .delete("/v1/environments/env")
        .await
        .expect(202)
        .json();
    client.ended(id_of(&delete)).await;
    assert_eq!(run(&["prune"]).0, "", "it was used just now");
    assert_eq!(run(&["prune", "--all"]).0, pulled);
    assert_eq!(run(&["list"]).0.lines().count(), 1);
}

/// Runs `environment-manager image …`; what it printed, and what it said beside that.
fn images_command(data: &Path, folder: &Path, arguments: &[&str]) -> (String, String) {
    let path = std::env::var("PATH").expect("a PATH");
    images_command_on(&path, data, folder, arguments)
}

/// The same with the programs of another PATH.
fn images_command_on(
    path: &str,
    data: &Path,
    folder: &Path,
    arguments: &[&str],
) -> (String, String) {
    let (data, folders) = (data.display().to_string(), folder.display().to_string());
    let arguments = [&["image"], arguments, &["--data-dir", &data]].concat();
    let variables = [("EM_IMAGES__FOLDERS", folders.as_str()), ("PATH", path)];
    let output = Program::command_with(&arguments, &variables);
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    let said = text(output.stderr);
    assert!(output.status.success(), "{arguments:?}: {said}");
    (text(output.stdout), said)
}
