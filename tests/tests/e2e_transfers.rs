//! Large content in and out, archives, and a kill in the middle of each: nothing half done is ever seen, nothing is left.

use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures::StreamExt as _;
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tests::program::{
    Answer, Client, Program, all_ended_long_ago, files_below, id_of, is_stopped, resident,
    wait_until,
};

const MIB: usize = 1 << 20;

/// Bytes of which each piece tells its place.
fn piece(number: usize) -> Vec<u8> {
    let seed = number as u64;
    (0..MIB as u64)
        .map(|at| ((at + seed).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8)
        .collect()
}

fn sha256(bytes: &[u8]) -> String {
    hex(Sha256::digest(bytes).as_slice())
}

fn hex(digest: &[u8]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A body of so many MiB, made as it is sent; and its checksum.
fn body(mebibytes: usize) -> (reqwest::Body, String) {
    let mut hash = Sha256::new();
    (0..mebibytes).for_each(|number| hash.update(piece(number)));
    let pieces = (0..mebibytes).map(|number| Ok::<_, std::io::Error>(piece(number)));
    let body = reqwest::Body::wrap_stream(futures::stream::iter(pieces));
    (body, hex(hash.finalize().as_slice()))
}

fn at(what: &str, path: &str) -> String {
    format!("/v1/environments/env/files/{what}?path={path}")
}

async fn put(client: &Client, what: &str, path: &str, body: impl Into<reqwest::Body>) -> Answer {
    let request = client.request(Method::PUT, &at(what, path));
    client
        .send(request.header("Prefer", "wait=300").body(body))
        .await
}

#[tokio::test]
async fn large_content_needs_little_memory_both_ways() {
    const SIZE: usize = 256;
    let program = Program::start().await;
    let client = program.client();
    client.create("env").await;
    let (warm, _) = body(8);
    put(&client, "content", "warm", warm).await.expect(200);
    client.get_file("env", "warm").await.expect(200);
    reset_peak(program.pid());
    let before = resident(program.pid());
    let (large, sum) = body(SIZE);
    let written = put(&client, "content", "large", large)
        .await
        .expect(200)
        .json();
    assert_eq!(
        (&written["size"], &written["sha256"]),
        (&json!(SIZE * MIB), &json!(sum))
    );

    let response = client
        .request(Method::GET, &at("content", "large"))
        .send()
        .await
        .expect("an answer");
    assert_eq!(response.content_length(), Some((SIZE * MIB) as u64));
    let (mut bytes, mut hash) = (response.bytes_stream(), Sha256::new());
    while let Some(piece) = bytes.next().await {
        hash.update(piece.expect("whole"));
    }
    assert_eq!(hex(hash.finalize().as_slice()), sum);
    // As an archive, and unpacked again from one that is as large.
    let response = client
        .request(Method::GET, &at("archive", "large"))
        .send()
        .await
        .expect("an answer");
    let archive = reqwest::Body::wrap_stream(response.bytes_stream());
    put(&client, "archive", "copy", archive).await.expect(200);
    let copied = client.printed("env", "sha256sum <copy/large").await;
    assert_eq!(copied, format!("{sum}  -\n"));
    let growth = peak(program.pid()).saturating_sub(before) / MIB as u64;
    assert!(growth < 64, "the service grew by {growth} MiB");
}

/// Forgets how much memory a process had at most.
fn reset_peak(pid: nix::unistd::Pid) {
    std::fs::write(format!("/proc/{pid}/clear_refs"), "5").expect("reset");
}

/// How much memory a process had at most.
fn peak(pid: nix::unistd::Pid) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it is there");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kib.expect("a number of KiB") * 1024
}

/// The service, and the volume of its only environment.
struct Place {
    program: Program,
    volume: PathBuf,
}

impl Place {
    async fn new() -> Self {
        let program = Program::start().await;
        program.client().create("env").await;
        Self {
            volume: program.volume().await,
            program,
        }
    }

    fn client(&self) -> Client {
        self.program.client()
    }
}

/// Files and folders of the environment on their way to a name.
fn drafts(place: &Place) -> Vec<PathBuf> {
    fn below(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.starts_with(".em-") && name.ends_with(".part") {
                found.push(entry.path());
            } else if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                below(&entry.path(), found);
            }
        }
    }
    let mut found = Vec::new();
    below(&place.volume, &mut found);
    found
}

/// Files on their way into the blob store.
fn blobs_on_their_way(place: &Place) -> usize {
    files_below(&place.program.folder().path().join("blobs/.tmp")).len()
}

/// What waits between the service and its environments.
fn staged(place: &Place) -> usize {
    files_below(&place.program.folder().path().join("blobs/staging")).len()
}

/// Waits until no job is open and nothing of any is left on the way.
async fn settled(place: &Place) {
    let client = place.client();
    wait_until("every job has ended", async || {
        let status = client.get("/status").await.expect(200).json();
        status["jobs"]
            .as_object()
            .is_some_and(serde_json::Map::is_empty)
    })
    .await;
    wait_until("nothing is left on the way", async || {
        drafts(place).is_empty() && staged(place) == 0 && blobs_on_their_way(place) == 0
    })
    .await;
}

/// What there is of a file: nothing, or its checksum.
async fn seen(client: &Client, path: &str) -> Option<String> {
    let answer = client.get_file("env", path).await;
    match answer.status {
        404 => None,
        200 => Some(sha256(&answer.body)),
        _ => panic!("{}", answer.text()),
    }
}

/// Sends a request to a service that freezes at a point of its code, waits there until it looks as said, kills it, and
/// starts another one. Nobody was answered.
async fn killed_at(
    place: &mut Place,
    point: &str,
    request: impl FnOnce(&Client) -> RequestBuilder,
    (what, looks): (&str, impl Fn(&Place) -> bool),
) {
    // What was answered before may still be cleared away.
    settled(place).await;
    place.program.kill9();
    place
        .program
        .set("EM_FAILPOINT", Some(&format!("{point}:stop")));
    place.program.restart().await;
    let client = place.client();
    let request = request(&client);
    let sent = tokio::spawn(async move { client.try_send(request).await });
    wait_until(&format!("it is frozen at {point}"), async || {
        is_stopped(place.program.pid())
    })
    .await;
    wait_until(what, async || looks(place)).await;
    place.program.kill9();
    let answer = sent.await.expect("it ends");
    assert!(answer.is_err(), "{point}: {answer:?}");
    place.program.set("EM_FAILPOINT", None);
    place.program.restart().await;
}

/// A body that begins as it should and then goes neither on nor to its end.
fn endless(mebibytes: usize) -> reqwest::Body {
    let pieces = (0..mebibytes).map(|number| Ok::<_, std::io::Error>(piece(number)));
    let stalled = futures::stream::iter(pieces).chain(futures::stream::pending());
    reqwest::Body::wrap_stream(stalled)
}

/// Whether content of at least one mebibyte is on its way into the volume.
fn some_is_written(place: &Place) -> bool {
    let is_large = |path: &PathBuf| path.metadata().is_ok_and(|found| found.len() >= MIB as u64);
    drafts(place)
        .iter()
        .any(|draft| is_large(draft) || draft.is_dir() && files_below(draft).iter().any(&is_large))
}

/// Deletes the environment: no process, mount, folder or cgroup that a kill has left is there then.
async fn nothing_outlives_it(place: &Place) {
    place.program.note_instance();
    let client = place.client();
    let delete = client.delete("/v1/environments/env").await.expect(202);
    let deleted = client.ended(id_of(&delete.json())).await;
    assert_eq!(deleted["state"], "succeeded", "{deleted}");
    assert_eq!(place.program.traces().await, Vec::<String>::new());
}

/// The jobs of a kind, newest first.
async fn jobs_of(client: &Client, kind: &str) -> Vec<Value> {
    let found = client.get(&format!("/v1/jobs?kind={kind}")).await;
    let jobs = found.expect(200).json()["jobs"].clone();
    jobs.as_array().expect("a list").clone()
}

/// What lies under a name of the volume, as the machine sees it.
fn on_disk(place: &Place, path: &str) -> Option<String> {
    let bytes = std::fs::read(place.volume.join(path)).ok()?;
    Some(sha256(&bytes))
}

#[tokio::test]
async fn an_upload_that_is_killed_while_it_comes_in_never_was() {
    let mut place = Place::new().await;
    let client = place.client();
    client.put_file("env", "old", "old").await.expect(200);
    let before = on_disk(&place, "old");
    for (what, path) in [
        ("content", "new"),
        ("content", "old"),
        ("archive", "folder"),
    ] {
        let client = place.client();
        let request = client
            .request(Method::PUT, &at(what, path))
            .body(endless(8));
        let sent = tokio::spawn(async move { client.try_send(request).await });
        wait_until("most of it is here", async || {
            let incoming = files_below(&place.program.folder().path().join("blobs/.tmp"));
            let sizes = incoming.iter().filter_map(|path| path.metadata().ok());
            sizes.map(|found| found.len()).sum::<u64>() >= 4 * MIB as u64
        })
        .await;
        place.program.kill9();
        assert!(sent.await.expect("it ends").is_err());
        place.program.restart().await;
        settled(&place).await;
        assert_eq!(on_disk(&place, "old"), before);
        assert_eq!(seen(&place.client(), "new").await, None);
        assert_eq!(seen(&place.client(), "folder").await, None);
    }
    let client = place.client();
    assert_eq!(jobs_of(&client, "upload").await.len(), 1, "that of `old`");
    assert_eq!(jobs_of(&client, "unpack").await, [] as [Value; 0]);
    for path in ["new", "old"] {
        let (content, sum) = body(8);
        put(&client, "content", path, content).await.expect(200);
        assert_eq!(seen(&client, path).await, Some(sum));
    }
    nothing_outlives_it(&place).await;
}

#[tokio::test]
async fn an_upload_that_is_killed_once_it_is_accepted_is_done_once_and_whole() {
    let mut place = Place::new().await;
    let client = place.client();
    client.put_file("env", "old", "old").await.expect(200);
    let mut size = 20;
    let mut accepted = 1;
    for path in ["new", "old"] {
        for point in ["content_opening", "content_ending", "content_written"] {
            let before = on_disk(&place, path);
            let (content, sum) = body(size);
            let is_visible = point == "content_written";
            let request = |client: &Client| {
                client
                    .request(Method::PUT, &at("content", path))
                    .body(content)
            };
            let looks = |place: &Place| {
                let found = on_disk(place, path);
                let so_far = if is_visible {
                    Some(&sum)
                } else {
                    before.as_ref()
                };
                assert_eq!(found.as_ref(), so_far, "{point}: whole or as it was");
                staged(place) == 1 && (point != "content_ending" || some_is_written(place))
            };
            killed_at(&mut place, point, request, ("it is on its way", looks)).await;
            settled(&place).await;
            accepted += 1;
            size += 1;
            let client = place.client();
            let jobs = jobs_of(&client, "upload").await;
            assert_eq!(jobs.len(), accepted, "{point}");
            assert_eq!(jobs[0]["state"], "succeeded", "{point}: {}", jobs[0]);
            assert_eq!(jobs[0]["result"]["sha256"], sum.as_str(), "{point}");
            assert_eq!(seen(&client, path).await, Some(sum), "{point}");
        }
    }
    nothing_outlives_it(&place).await;
}

#[tokio::test]
async fn an_archive_that_is_killed_once_it_is_accepted_is_unpacked_once_and_whole() {
    let mut place = Place::new().await;
    let client = place.client();
    let make = "mkdir -p src/a/b there/a; echo old >there/a/kept; \
                for i in $(seq 20); do head -c 1500000 /dev/urandom >src/a/b/$i; done";
    client.printed("env", make).await;
    let archive = client.get(&at("archive", "src")).await.expect(200).body;
    let mut accepted = 0;
    for path in ["fresh", "there"] {
        for point in ["content_opening", "content_ending", "content_written"] {
            let unpacked = place.volume.join(path).join("a/b");
            let names = files_below(&unpacked).len();
            let is_visible = point == "content_written";
            let archive = archive.clone();
            let request = |client: &Client| {
                client
                    .request(Method::PUT, &at("archive", path))
                    .body(archive)
            };
            let looks = |place: &Place| {
                let found = files_below(&unpacked).len();
                assert_eq!(found, if is_visible { 20 } else { names }, "{point}");
                staged(place) == 1 && (point != "content_ending" || some_is_written(place))
            };
            killed_at(&mut place, point, request, ("it is on its way", looks)).await;
            settled(&place).await;
            accepted += 1;
            let client = place.client();
            let jobs = jobs_of(&client, "unpack").await;
            assert_eq!(jobs.len(), accepted, "{point}");
            assert_eq!(jobs[0]["state"], "succeeded", "{point}: {}", jobs[0]);
            let compare = format!("diff -r src/a/b {path}/a/b && cat there/a/kept");
            assert_eq!(client.printed("env", &compare).await, "old\n", "{point}");
            client.printed("env", &format!("rm -r {path}/a/b")).await;
        }
    }
    nothing_outlives_it(&place).await;
}

/// How much of an answer comes before it breaks off, of which the first piece was awaited before the kill.
async fn read_before_a_kill(place: &mut Place, request: RequestBuilder) -> usize {
    let response = request.send().await.expect("an answer");
    assert_eq!(response.status(), 200);
    let mut bytes = response.bytes_stream();
    let mut read = bytes.next().await.expect("a piece").expect("bytes").len();
    place.program.kill9();
    loop {
        match bytes.next().await {
            Some(Ok(piece)) => read += piece.len(),
            Some(Err(_)) => return read,
            None => panic!("{read} bytes are passed off as the whole"),
        }
    }
}

#[tokio::test]
async fn reads_that_are_killed_are_never_taken_for_whole_and_leave_nothing() {
    const SIZE: usize = 64;
    let mut place = Place::new().await;
    let (content, sum) = body(SIZE);
    put(&place.client(), "content", "dir/large", content)
        .await
        .expect(200);
    settled(&place).await;
    for (what, kind, path) in [
        ("content", "download", "dir/large"),
        ("archive", "pack", "dir"),
    ] {
        // While the service still reads.
        let request = |client: &Client| client.request(Method::GET, &at(what, path));
        let looks = ("a part is there", |place: &Place| staged(place) > 0);
        killed_at(&mut place, "part_told", request, looks).await;
        settled(&place).await;
        let jobs = jobs_of(&place.client(), kind).await;
        assert_eq!(jobs[0]["error"]["code"], "interrupted", "{}", jobs[0]);

        // While the caller does, who is slower than the service.
        let request = place.client().request(Method::GET, &at(what, path));
        let read = read_before_a_kill(&mut place, request).await;
        assert!(read < SIZE * MIB, "{read}");
        // Nobody may read it any more, and it goes as soon as that is long ago.
        all_ended_long_ago(&place.program, kind);
        place.program.restart().await;
        settled(&place).await;
    }
    let client = place.client();
    assert_eq!(seen(&client, "dir/large").await, Some(sum.clone()));
    let response = client.request(Method::GET, &at("archive", "dir"));
    let archive = client.send(response).await.expect(200);
    put(&client, "archive", "copy", archive.body)
        .await
        .expect(200);
    assert_eq!(seen(&client, "copy/large").await, Some(sum));
    nothing_outlives_it(&place).await;
}

#[tokio::test]
async fn files_of_the_original_endpoints_that_are_killed_are_whole_or_not_there() {
    let mut place = Place::new().await;
    let content = STANDARD.encode(piece(7));
    let download = json!({ "environment_id": "env", "path": "new", "encoding": "base64" });
    let mut upload = download.clone();
    upload["content"] = json!(content);
    let post = |path: &'static str, body: &Value| {
        let body = body.clone();
        move |client: &Client| client.request(Method::POST, path).json(&body)
    };
    let looks = ("nothing is seen of it", |place: &Place| {
        assert_eq!(on_disk(place, "new"), None);
        staged(place) == 1
    });
    let request = post("/upload_to_environment", &upload);
    killed_at(&mut place, "content_ending", request, looks).await;
    settled(&place).await;
    assert_eq!(seen(&place.client(), "new").await, Some(sha256(&piece(7))));
    let looks = ("a part is there", |place: &Place| staged(place) > 0);
    let request = post("/download_from_environment", &download);
    killed_at(&mut place, "part_told", request, looks).await;
    settled(&place).await;
    let client = place.client();
    let again = client.post("/upload_to_environment", &upload).await;
    again.expect(200);
    let read = client.post("/download_from_environment", &download).await;
    assert_eq!(read.expect(200).json()["content"], content);
    nothing_outlives_it(&place).await;
}

#[tokio::test]
async fn a_publish_that_is_killed_is_done_once_and_whole() {
    let mut place = Place::new().await;
    let (content, sum) = body(24);
    put(&place.client(), "content", "large", content)
        .await
        .expect(200);
    settled(&place).await;
    let publish = json!({ "path": "large", "bucket": "results", "destination": "large" });
    let request = |client: &Client| {
        let request = client.request(Method::POST, "/v1/environments/env/artifacts");
        request.header("Prefer", "wait=60").json(&publish)
    };
    let looks = ("the object is there", |place: &Place| {
        place
            .program
            .folder()
            .path()
            .join("blobs/results/large")
            .exists()
    });
    killed_at(&mut place, "object_written", request, looks).await;
    settled(&place).await;
    let client = place.client();
    let artifacts = client.get("/v1/artifacts").await.expect(200).json();
    assert_eq!(
        artifacts["artifacts"].as_array().map(Vec::len),
        Some(1),
        "{artifacts}"
    );
    let artifact = &artifacts["artifacts"][0];
    assert_eq!(artifact["sha256"], sum.as_str());
    let id = artifact["id"].as_str().expect("an id");
    let content = client
        .get(&format!("/v1/artifacts/{id}/content"))
        .await
        .expect(200);
    assert_eq!(sha256(&content.body), sum);
    nothing_outlives_it(&place).await;
}

#[tokio::test]
async fn archives_travel_between_environments() {
    let program = Program::start().await;
    let client = program.client();
    client.create("env").await;
    client.create("other").await;
    client.printed("env", "mkdir -p d/e; echo one >d/e/f; ln -s f d/e/l; ln d/e/f d/hard; chmod 700 d/e/f; mkfifo d/fifo").await;
    let archive = client.get(&at("archive", "d")).await.expect(200);
    assert_eq!(archive.header("content-type"), Some("application/x-tar"));
    let request = client.request(
        Method::PUT,
        "/v1/environments/other/files/archive?path=/app/new/place",
    );
    let unpacked = client
        .send(request.body(archive.body))
        .await
        .expect(200)
        .json();
    assert_eq!(
        (&unpacked["path"], &unpacked["entries"]),
        (&json!("/app/new/place"), &json!(4))
    );
    let shown = client
        .printed(
            "other",
            "cd new/place; cat e/l hard; stat -c '%a %h' e/f; ls",
        )
        .await;
    assert_eq!(shown, "one\none\n700 2\ne\nhard\n");

    let refused = put(&client, "archive", "x", "hello".repeat(500))
        .await
        .expect(422)
        .json();
    assert_eq!(refused["code"], "archive_refused", "{refused}");
    let post = async |what: &str, body: Value| {
        client
            .post(&format!("/v1/environments/env/files/{what}"), &body)
            .await
    };
    post("mkdir", json!({ "path": "m/n" })).await.expect(404);
    post("mkdir", json!({ "path": "m/n", "parents": true }))
        .await
        .expect(200);
    let moved = post("move", json!({ "from": "d/e", "to": "m/n/o" }))
        .await
        .expect(200)
        .json();
    assert_eq!(moved["to"], "/app/m/n/o");
    assert_eq!(client.printed("env", "cat m/n/o/f").await, "one\n");
    let other = post("move", json!({ "from": "m", "to": "/tmp/m" }))
        .await
        .expect(422)
        .json();
    assert_eq!(other["code"], "other_file_system", "{other}");
    let range = client
        .request(Method::GET, &at("content", "m/n/o/f"))
        .header("Range", "bytes=1-2");
    let part = client.send(range).await.expect(206);
    assert_eq!(
        (part.body.as_ref(), part.header("content-range")),
        (&b"ne"[..], Some("bytes 1-2/4"))
    );
    for range in ["bytes=-2", "bytes=2-"] {
        let request = client.request(Method::GET, &at("content", "m/n/o/f"));
        let part = client.send(request.header("Range", range)).await;
        let part = part.expect(206);
        assert_eq!(
            (part.body.as_ref(), part.header("content-range")),
            (&b"e\n"[..], Some("bytes 2-3/4")),
            "{range}"
        );
    }
    let beyond = client.request(Method::GET, &at("content", "m/n/o/f"));
    let beyond = client.send(beyond.header("Range", "bytes=9-")).await;
    assert_eq!(
        beyond.expect(416).header("content-range"),
        Some("bytes */4")
    );
    let head = client
        .send(client.request(Method::HEAD, &at("content", "m/n/o/f")))
        .await
        .expect(200);
    assert_eq!(head.header("content-length"), Some("4"));
    let etag = head.header("etag").expect("a tag").to_owned();
    let again = client.request(Method::GET, &at("content", "m/n/o/f"));
    client
        .send(again.header("If-None-Match", &etag))
        .await
        .expect(304);
    client.printed("env", "echo two >m/n/o/f").await;
    let again = client.request(Method::GET, &at("content", "m/n/o/f"));
    client
        .send(again.header("If-None-Match", &etag))
        .await
        .expect(200);
}
