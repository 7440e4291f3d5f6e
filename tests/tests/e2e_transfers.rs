//! Large content in and out, archives, and a kill in the middle of each: nothing half done is ever seen, nothing is left.

use std::path::{Path, PathBuf};

use futures::StreamExt as _;
use reqwest::Method;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tests::program::{Answer, Client, Program, files_below, resident, wait_until};

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

/// Sends a request and kills the service as soon as the condition holds.
async fn killed_when(
    place: &mut Place,
    request: reqwest::RequestBuilder,
    what: &str,
    condition: impl Fn(&Place) -> bool,
) {
    let sent = tokio::spawn(async move {
        match request.send().await {
            Ok(response) => response.bytes().await.map(drop),
            Err(error) => Err(error),
        }
    });
    wait_until(what, async || condition(place) || sent.is_finished()).await;
    place.program.kill9();
    let _ = sent.await;
    place.program.restart().await;
}

/// Whether a moment has come.
type Seen = fn(&Place) -> bool;

#[tokio::test]
async fn an_upload_that_is_killed_is_whole_or_not_there() {
    let mut place = Place::new().await;
    place
        .client()
        .put_file("env", "old", "old")
        .await
        .expect(200);
    let moments: [(&str, Seen); 3] = [
        ("the body is staged", |place| blobs_on_their_way(place) > 0),
        ("the content is staged", |place| staged(place) > 0),
        ("the file is written", |place| !drafts(place).is_empty()),
    ];
    for (number, (what, moment)) in moments.into_iter().enumerate() {
        for path in [format!("new{number}"), "old".to_owned()] {
            let before = seen(&place.client(), &path).await;
            let (content, sum) = body(48 + number);
            let request = place.client().request(Method::PUT, &at("content", &path));
            killed_when(&mut place, request.body(content), what, moment).await;
            let found = seen(&place.client(), &path).await;
            let accepted = place.client().get("/v1/jobs?kind=upload").await.json();
            let newest = &accepted["jobs"][0];
            if newest["input"]["path"] == path.as_str()
                && newest["input"]["size"] == (48 + number) * MIB
            {
                let ended = place
                    .client()
                    .ended(newest["id"].as_str().expect("an id"))
                    .await;
                assert_eq!(
                    ended["state"], "succeeded",
                    "an accepted upload is done: {ended}"
                );
                assert_eq!(seen(&place.client(), &path).await, Some(sum));
            } else {
                assert_eq!(found, before, "one that was not accepted changes nothing");
            }
        }
    }
    wait_until("no draft is left", async || drafts(&place).is_empty()).await;
    assert_eq!(blobs_on_their_way(&place), 0);
}

#[tokio::test]
async fn reads_that_are_killed_leave_nothing() {
    let mut place = Place::new().await;
    let (content, sum) = body(64);
    put(&place.client(), "content", "dir/large", content)
        .await
        .expect(200);
    for what in ["content", "archive"] {
        let path = if what == "content" {
            "dir/large"
        } else {
            "dir"
        };
        let request = place.client().request(Method::GET, &at(what, path));
        killed_when(&mut place, request, "parts are there", |place| {
            staged(place) > 1
        })
        .await;
        settled(&place).await;
    }
    assert_eq!(seen(&place.client(), "dir/large").await, Some(sum));
}

#[tokio::test]
async fn a_publish_that_is_killed_is_done_once_and_whole() {
    let mut place = Place::new().await;
    let (content, sum) = body(64);
    put(&place.client(), "content", "large", content)
        .await
        .expect(200);
    let request = place
        .client()
        .request(Method::POST, "/v1/environments/env/artifacts");
    let publish = json!({ "path": "large", "bucket": "results", "destination": "large" });
    let request = request.header("Prefer", "wait=60").json(&publish);
    killed_when(&mut place, request, "the object is written", |place| {
        blobs_on_their_way(place) > 0
    })
    .await;
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
}

#[tokio::test]
async fn an_archive_that_is_killed_is_unpacked_whole_or_not_at_all() {
    let mut place = Place::new().await;
    let client = place.client();
    client.printed("env", "mkdir -p src/a/b there/a; for i in $(seq 40); do head -c 1000000 /dev/urandom >src/a/b/$i; done; echo old >there/a/kept").await;
    let archive = client.get(&at("archive", "src")).await.expect(200).body;
    for (number, path) in ["fresh", "there", "fresh2", "there"]
        .into_iter()
        .enumerate()
    {
        let request = place.client().request(Method::PUT, &at("archive", path));
        let request = request.body(archive.clone());
        killed_when(&mut place, request, "it is unpacked", |place| {
            !drafts(place).is_empty()
        })
        .await;
        settled(&place).await;
        let client = place.client();
        let newest: Value = client.get("/v1/jobs?kind=unpack").await.json()["jobs"][0].clone();
        assert_eq!(
            newest["state"], "succeeded",
            "{number}: an accepted archive is unpacked: {newest}"
        );
        let same = client
            .printed(
                "env",
                &format!("diff -r src/a/b {path}/a/b && cat there/a/kept"),
            )
            .await;
        assert_eq!(same, "old\n");
    }
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
