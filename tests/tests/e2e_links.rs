//! Links that are exchanged while somebody works below them: nothing outside of an environment is ever read, written or
//! removed, however often a folder becomes a link on the way.

use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

use bytes::Bytes;
use nix::fcntl::{RenameFlags, renameat2};
use reqwest::Method;
use serde_json::{Value, json};
use tempfile::TempDir;
use tests::images::Tiny;
use tests::program::{Client, Program, files_below, id_of, wait_until};
use tests::rounds;

/// What stands in the files outside. No answer may hold it.
const SECRET: &str = "a secret of the machine";

/// A folder of the machine that everybody may read, change and remove: only what stands between keeps anybody from it.
struct Canary {
    folder: TempDir,
    before: Vec<Seen>,
}

/// A file or folder as it is: its name, content, inode, mode, and when it or its names were changed.
type Seen = (PathBuf, Option<String>, u64, u32, (i64, i64));

impl Canary {
    fn new() -> Self {
        let folder = TempDir::with_prefix("em-canary-").expect("a folder");
        let below = folder.path().join("sub");
        fs::create_dir(&below).expect("made");
        for name in ["file", "sub/file"] {
            let file = folder.path().join(name);
            fs::write(&file, SECRET).expect("written");
            fs::set_permissions(&file, fs::Permissions::from_mode(0o666)).expect("set");
        }
        for folder in [folder.path(), &below] {
            fs::set_permissions(folder, fs::Permissions::from_mode(0o777)).expect("set");
        }
        let before = Self::look(folder.path());
        Self { folder, before }
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn look(folder: &Path) -> Vec<Seen> {
        let entries = fs::read_dir(folder).expect("it is there");
        let below = entries.map(|entry| entry.expect("an entry").path());
        let mut seen = Vec::new();
        for path in below.chain([folder.to_owned()]) {
            let found = fs::symlink_metadata(&path).expect("it is there");
            if found.is_dir() && path != folder {
                seen.extend(Self::look(&path));
            }
            let content = fs::read_to_string(&path).ok();
            let changed = (found.ctime(), found.ctime_nsec());
            seen.push((path, content, found.ino(), found.mode(), changed));
        }
        seen.sort();
        seen
    }

    #[track_caller]
    fn is_untouched(&self, after: &str) {
        assert_eq!(Self::look(self.path()), self.before, "after {after}");
    }
}

/// Exchanges a folder and a link again and again, as a process of the environment: one that leads by an absolute path and
/// one that climbs. Where the links lead is a folder of the environment too, so that what follows them finds something.
fn exchanging(outside: &Path) -> String {
    let outside = outside.display();
    format!(
        r#"
import ctypes, os, shutil
libc = ctypes.CDLL(None, use_errno=True)
outside = "{outside}"
def folder(path):
    os.makedirs(path + "/sub", exist_ok=True)
    for name in ("file", "sub/file"):
        with open(path + "/" + name, "w") as file: file.write("inside")
folder(outside)
for name, to in (("absolute", outside), ("climbing", "../" * 30 + outside[1:])):
    os.symlink(to, "link-" + name)
print("begun", flush=True)
rounds = 0
while not os.path.exists("/app/enough"):
    for name in ("absolute", "climbing"):
        if not os.path.lexists(name):
            folder(name)
        for _ in range(200):
            libc.syscall(316, -100, b"link-" + name.encode(), -100, name.encode(), 2)
        rounds += 200
    # What was moved or removed meanwhile is made anew, whichever of the two it was.
    for name, to in (("absolute", outside), ("climbing", "../" * 30 + outside[1:])):
        for place in ("link-" + name, name):
            if not os.path.lexists(place):
                os.symlink(to, place)
        if all(map(os.path.islink, (name, "link-" + name))):
            os.remove(name)
    if not os.path.isdir(outside):
        folder(outside)
print(rounds)
"#
    )
}

/// One of everything that can be done below a name that is exchanged; every answer, as bytes.
async fn everything_below(client: &Client, name: &str, archive: &Bytes) -> Vec<(String, Bytes)> {
    let mut answers = Vec::new();
    let mut note = |what: &str, answer: tests::program::Answer| {
        assert!(answer.status < 500, "{what} {name}: {}", answer.text());
        answers.push((format!("{what} {name}: {}", answer.status), answer.body));
    };
    let below = |rest: &str| format!("{name}/{rest}");
    let post = async |at: &str, body: Value| {
        let request = client.request(Method::POST, at).json(&body);
        client.send(request.header("Prefer", "wait=60")).await
    };
    let files = "/v1/environments/env/files";
    let at_archive = |path: &str, method: Method| {
        let request = client.request(method, &format!("{files}/archive"));
        request.query(&[("path", path)])
    };
    let original = |more: Value| {
        let mut body = json!({ "environment_id": "env", "path": below("file") });
        let fields = body.as_object_mut().expect("an object");
        fields.extend(more.as_object().expect("an object").clone());
        body
    };
    note("get", client.get_file("env", &below("file")).await);
    note("put", client.put_file("env", &below("file"), "new").await);
    note("put", client.put_file("env", &below("a/b/c"), "new").await);
    note("put", client.put_file("env", name, "new").await);
    note(
        "list",
        client
            .list_files("env", &[("path", name), ("depth", "3")])
            .await,
    );
    note("pack", client.send(at_archive(name, Method::GET)).await);
    note(
        "pack",
        client.send(at_archive(&below("sub"), Method::GET)).await,
    );
    let unpack = at_archive(name, Method::PUT).body(archive.clone());
    note("unpack", client.send(unpack).await);
    let unpack = at_archive(&below("sub"), Method::PUT).body(archive.clone());
    note("unpack", client.send(unpack).await);
    note(
        "mkdir",
        post(
            &format!("{files}/mkdir"),
            json!({ "path": below("made/here"), "parents": true }),
        )
        .await,
    );
    for (from, to) in [("own", below("moved")), ("own", below("sub/file"))] {
        client.put_file("env", from, "own").await.expect(200);
        note(
            "move there",
            post(&format!("{files}/move"), json!({ "from": from, "to": to })).await,
        );
    }
    for from in ["file", "sub"] {
        let to = format!("taken-{:016x}", rand::random::<u64>());
        note(
            "move away",
            post(
                &format!("{files}/move"),
                json!({ "from": below(from), "to": to }),
            )
            .await,
        );
        note("get", client.get_file("env", &to).await);
    }
    let publish = json!({ "path": below("file"), "bucket": "taken", "destination": format!("{:016x}", rand::random::<u64>()) });
    note(
        "publish",
        post("/v1/environments/env/artifacts", publish).await,
    );
    note(
        "original get",
        post("/download_from_environment", original(json!({}))).await,
    );
    note(
        "original put",
        post(
            "/upload_to_environment",
            original(json!({ "content": "new" })),
        )
        .await,
    );
    note(
        "original list",
        post(
            "/list_files_in_environment",
            original(json!({ "path": name })),
        )
        .await,
    );
    for path in [
        below("sub/file"),
        below("sub"),
        below("file"),
        name.to_owned(),
    ] {
        let query = [("path", &*path), ("recursive", "true")];
        note("remove", client.remove_file("env", &query).await);
    }
    answers
}

/// An archive with a file and a folder.
async fn archive(client: &Client) -> Bytes {
    for path in ["packed/file", "packed/sub/file"] {
        client.put_file("env", path, "new").await.expect(200);
    }
    let at = "/v1/environments/env/files/archive?path=packed";
    client.get(at).await.expect(200).body
}

fn holds_the_secret(bytes: &[u8]) -> bool {
    bytes
        .windows(SECRET.len())
        .any(|part| part == SECRET.as_bytes())
}

#[tokio::test(flavor = "multi_thread")]
async fn no_operation_leaves_an_environment_by_a_link_that_is_exchanged() {
    let canary = Canary::new();
    let program = Program::start().await;
    let client = program.client();
    client.create("env").await;
    let archive = archive(&client).await;
    let command = json!({ "command": ["python3", "-c", exchanging(canary.path())] });
    let exchanging = client.submit("env", &command).await;
    wait_until("the links are exchanged", async || {
        let at = format!("/v1/jobs/{exchanging}/output");
        let output = client.get(&at).await.expect(200).json();
        output["stdout"]
            .as_str()
            .is_some_and(|said| said.contains("begun"))
    })
    .await;
    let mut done = std::collections::BTreeMap::<String, usize>::new();
    for round in 0..rounds(12) {
        let (absolute, climbing) = tokio::join!(
            everything_below(&client, "absolute", &archive),
            everything_below(&client, "climbing", &archive),
        );
        for (what, answered) in absolute.into_iter().chain(climbing) {
            assert!(!holds_the_secret(&answered), "{what} in round {round}");
            *done.entry(what).or_default() += 1;
        }
        canary.is_untouched(&format!("round {round}"));
    }
    println!("{done:#?}");
    client.put_file("env", "enough", "").await.expect(200);
    let job = client.ended(&exchanging).await;
    assert_eq!(job["state"], "succeeded", "{job}");
    let published = program.folder().path().join("blobs");
    for file in files_below(&published) {
        assert!(
            !holds_the_secret(&fs::read(&file).expect("readable")),
            "{file:?}"
        );
    }
    for what in [
        "get",
        "put",
        "list",
        "pack",
        "unpack",
        "mkdir",
        "move there",
        "move away",
    ] {
        let well = done
            .iter()
            .filter(|(key, _)| key.starts_with(what) && key.ends_with(": 200"));
        assert!(
            well.map(|(_, count)| count).sum::<usize>() > 0,
            "{what} never succeeded: {done:?}"
        );
    }
    for verb in ["stop", "start"] {
        let at = format!("/v1/environments/env/{verb}");
        let job = client.post(&at, &json!({})).await.expect(202).json();
        assert_eq!(client.ended(id_of(&job)).await["state"], "succeeded");
    }
    let delete = client.delete("/v1/environments/env").await.expect(202);
    let job = client.ended(id_of(&delete.json())).await;
    assert_eq!(job["state"], "succeeded", "{job}");
    canary.is_untouched("the environment's end");
}

/// Exchanges pairs of names on the machine until it is told to end.
struct Exchanger {
    ended: Arc<AtomicBool>,
    count: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Exchanger {
    /// Of names in a folder that may move; what is gone is left out.
    fn begin(folder: &Path, pairs: Vec<(String, String)>) -> Self {
        let folder = File::open(folder).expect("a folder");
        let (ended, count) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicU64::new(0)),
        );
        let (end, counter) = (Arc::clone(&ended), Arc::clone(&count));
        let thread = std::thread::spawn(move || {
            while !end.load(Ordering::Relaxed) {
                for (one, other) in &pairs {
                    let flags = RenameFlags::RENAME_EXCHANGE;
                    let exchanged = renameat2(&folder, &**one, &folder, &**other, flags);
                    counter.fetch_add(u64::from(exchanged.is_ok()), Ordering::Relaxed);
                }
            }
        });
        Self {
            ended,
            count,
            thread: Some(thread),
        }
    }

    fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }
}

impl Drop for Exchanger {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_is_removed_without_leaving_it_while_its_links_are_exchanged() {
    const PAIRS: usize = 200;
    let canary = Canary::new();
    let program = Program::start().await;
    let client = program.client();
    for round in 0..rounds(5) {
        client.create("env").await;
        program.folder().note_instance();
        let volume = program.folder().volume();
        let mut pairs = Vec::new();
        for number in 0..PAIRS {
            let (here, link) = (format!("here{number}"), format!("link{number}"));
            fs::create_dir_all(volume.join(&here).join("sub")).expect("made");
            fs::write(volume.join(&here).join("sub/file"), "inside").expect("written");
            fs::write(volume.join(&here).join("file"), "inside").expect("written");
            symlink(canary.path(), volume.join(&link)).expect("linked");
            pairs.push((here, link));
        }
        let exchanger = Exchanger::begin(&volume, pairs);
        wait_until("they are exchanged", async || exchanger.count() > 1000).await;
        let before = exchanger.count();
        let delete = client.delete("/v1/environments/env").await.expect(202);
        let job = client.ended(id_of(&delete.json())).await;
        assert_eq!(job["state"], "succeeded", "{job}");
        assert!(exchanger.count() > before);
        drop(exchanger);
        canary.is_untouched(&format!("round {round}"));
        assert_eq!(program.folder().traces(), [""; 0]);
    }
}

#[test]
fn an_image_outside_is_never_had_by_a_link_that_is_exchanged() {
    let (inside, outside) = (
        Tiny::new().made(),
        Tiny::new().set("config.env", "FROM=outside").made(),
    );
    let pull = |data: &Path, folder: &Path, layout: &Path| {
        let (data, folder) = (data.display().to_string(), folder.display().to_string());
        let reference = format!("oci:{}:test", layout.display());
        let arguments = ["image", "pull", &reference, "--data-dir", &data];
        Program::command_with(&arguments, &[("EM_IMAGES__FOLDERS", &folder)])
    };
    let said = |output: &std::process::Output| String::from_utf8_lossy(&output.stdout).into_owned();
    let data = tempfile::tempdir().expect("a folder");
    let theirs = said(&pull(
        &data.path().join("theirs"),
        outside.folder(),
        &outside.path(),
    ));
    assert!(theirs.starts_with("sha256:"), "{theirs}");
    symlink(outside.path(), inside.folder().join("link")).expect("linked");
    let pair = ("layout".to_owned(), "link".to_owned());
    let exchanger = Exchanger::begin(inside.folder(), vec![pair]);
    let (mut pulled, mut refused) = (0, 0);
    for _ in 0..rounds(40) {
        let output = pull(&data.path().join("ours"), inside.folder(), &inside.path());
        match output.status.success() {
            true => {
                assert_ne!(said(&output), theirs);
                pulled += 1;
            }
            false => refused += 1,
        }
    }
    assert!(exchanger.count() > 1000);
    println!("{pulled} pulled, {refused} refused");
    assert!(
        pulled > 0 && refused > 0,
        "{pulled} pulled, {refused} refused"
    );
    let images = fs::read_dir(data.path().join("ours/images")).expect("a folder");
    let names = images.map(|entry| entry.expect("an entry").file_name());
    let names: Vec<_> = names
        .filter(|name| !name.to_string_lossy().starts_with('.'))
        .collect();
    assert_eq!(names.len(), 1, "{names:?}");
}
