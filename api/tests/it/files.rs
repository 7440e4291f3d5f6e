//! Files in and out.

use reqwest::Method;
use serde_json::json;
use shared::staging::PART_BYTES;

use crate::world::{Answer, World};

const FILES: &str = "/v1/environments/e/files";
/// Bytes that go in more than two parts.
const SOME_PARTS: usize = 2 * PART_BYTES + (1 << 20);

const CONTENT: &str = "/v1/environments/e/files/content";

async fn put(world: &World, query: &str, body: Vec<u8>) -> Answer {
    let request = world.request(Method::PUT, &format!("{CONTENT}?{query}"));
    world.send(request.body(body)).await
}

/// Bytes that differ at every place.
fn bytes(length: usize) -> Vec<u8> {
    (0..length)
        .map(|i| (i.wrapping_mul(31) >> 3) as u8)
        .collect()
}

#[tokio::test]
async fn files_of_every_size_come_back_as_they_went() {
    let world = World::new().await;
    world.environment("e").await;
    for size in [0, 1, 256 * 1024, 256 * 1024 + 1, PART_BYTES, SOME_PARTS + 7] {
        let written = put(&world, "path=dir/file", bytes(size)).await.expect(200);
        assert!(!written.header("x-job-id").is_empty());
        assert_eq!(written.json()["size"], size);
        assert_eq!(written.json()["sha256"].as_str().map(str::len), Some(64));
        let read = world
            .get(&format!("{CONTENT}?path=/app/dir/file"))
            .await
            .expect(200);
        assert!(read.body == bytes(size), "{} of {size}", read.body.len());
        assert_eq!(read.header("content-type"), "application/octet-stream");
        assert_eq!(read.header("content-length"), size.to_string());
        assert!(read.header("etag").starts_with('"'));
        assert!(
            read.header("last-modified").ends_with(" GMT"),
            "{:?}",
            read.headers
        );
    }
}

#[tokio::test]
async fn a_streamed_body_of_unknown_length_is_taken() {
    let world = World::new().await;
    world.environment("e").await;
    let pieces = (0..100).map(|i| Ok::<_, std::io::Error>(vec![i; 100_000]));
    let body = reqwest::Body::wrap_stream(futures::stream::iter(pieces));
    let request = world
        .request(Method::PUT, &format!("{CONTENT}?path=big"))
        .body(body);
    let written = world.send(request).await.expect(200);
    assert_eq!(written.json()["size"], 10_000_000);
}

#[tokio::test]
async fn a_body_that_breaks_off_writes_nothing() {
    let world = World::new().await;
    world.environment("e").await;
    let pieces = [Ok(vec![0; 300_000]), Err(std::io::Error::other("gone"))];
    let body = reqwest::Body::wrap_stream(futures::stream::iter(pieces));
    let request = world
        .request(Method::PUT, &format!("{CONTENT}?path=half"))
        .body(body);
    if let Ok(answer) = request.send().await {
        assert_eq!(answer.status(), 400);
    }
    world.get(&format!("{CONTENT}?path=half")).await.expect(404);
    assert_eq!(
        world
            .backends
            .blobs
            .list("staging", "")
            .await
            .expect("listed"),
        Vec::new()
    );
}

#[tokio::test]
async fn a_download_that_fails_midway_is_never_whole() {
    let world = World::new().await;
    world.environment("e").await;
    put(&world, "path=breaks", bytes(SOME_PARTS))
        .await
        .expect(200);
    let request = world.request(Method::GET, &format!("{CONTENT}?path=breaks"));
    let response = request.send().await.expect("a head, or an error");
    if response.status() == 200 {
        assert!(response.bytes().await.is_err());
    } else {
        assert_eq!(response.status(), 409);
    }
}

#[tokio::test]
async fn what_a_download_staged_goes() {
    let world = World::new().await;
    world.environment("e").await;
    put(&world, "path=big", bytes(SOME_PARTS)).await.expect(200);
    let read = world.get(&format!("{CONTENT}?path=big")).await.expect(200);
    let mine = format!("default/{}/", read.header("x-job-id"));
    // It goes after the answer, so it may still be there for a moment.
    for _ in 0..600 {
        if world
            .backends
            .blobs
            .list("staging", &mine)
            .await
            .expect("listed")
            .is_empty()
        {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    panic!("parts were left");
}

#[tokio::test]
async fn folders_are_listed_page_by_page() {
    let world = World::new().await;
    world.environment("e").await;
    for name in ["b", "a", "c", "%FF%20x"] {
        put(&world, &format!("path={name}&mode=0600"), bytes(3))
            .await
            .expect(200);
    }
    let page = world.get(&format!("{FILES}?page_size=3")).await.expect(200);
    assert!(!page.header("x-job-id").is_empty());
    let page = page.json();
    assert_eq!(page["path"], "/app");
    let first = &page["entries"][0];
    assert_eq!(
        (&first["name"], &first["path"]),
        (&json!("a"), &json!("/app/a"))
    );
    assert_eq!(
        (&first["type"], &first["size"], &first["mode"]),
        (&json!("file"), &json!(3), &json!("0600"))
    );
    let token = page["next_page_token"].as_str().expect("a token");
    let rest = world
        .get(&format!("{FILES}?path=.&page_token={token}"))
        .await
        .expect(200)
        .json();
    assert_eq!(rest["entries"][0]["encoding"], "base64");
    assert_eq!(rest["entries"][0]["name"], "/yB4");
    assert_eq!(rest["next_page_token"], "");
    // The bytes of a name that is not UTF-8 find it again.
    let read = world
        .get(&format!("{CONTENT}?path=%FF+x"))
        .await
        .expect(200);
    assert_eq!(read.body, bytes(3));
}

#[tokio::test]
async fn files_are_removed() {
    let world = World::new().await;
    world.environment("e").await;
    put(&world, "path=d/f", bytes(1)).await.expect(200);
    let delete =
        |query: &str| world.send(world.request(Method::DELETE, &format!("{FILES}?{query}")));
    let full = delete("path=d").await.expect(409);
    assert_eq!(full.json()["code"], "directory_not_empty");
    assert_eq!(
        delete("path=d&recursive=true").await.expect(200).json()["removed"],
        1
    );
    let none = delete("path=d").await.expect(404).json();
    assert_eq!(none["code"], "file_not_found");
    assert!(none["job"].is_string());
}

#[tokio::test]
async fn wrong_paths_and_modes_are_named() {
    let world = World::new().await;
    world.environment("e").await;
    for (method, path, field) in [
        (Method::GET, CONTENT.to_owned(), "path"),
        (Method::GET, format!("{CONTENT}?path="), "path"),
        (Method::GET, format!("{CONTENT}?path=a%00b"), "path"),
        (Method::GET, format!("{CONTENT}?path=a&range=1"), "range"),
        (Method::PUT, format!("{CONTENT}?path=a&mode=rwx"), "mode"),
        (
            Method::PUT,
            format!("{CONTENT}?path={}", "x".repeat(4096)),
            "path",
        ),
        (Method::DELETE, FILES.to_owned(), "path"),
        (
            Method::DELETE,
            format!("{FILES}?path=a&recursive=1"),
            "recursive",
        ),
        (Method::GET, format!("{FILES}?depth=0"), "depth"),
        (Method::GET, format!("{FILES}?page_token=*"), "page_token"),
    ] {
        let refused = world.send(world.request(method, &path)).await.expect(422);
        assert_eq!(refused.json()["errors"][0]["field"], field, "{path}");
    }
    world.get("/v1/environments/none/files").await.expect(404);
    let large = vec![0; 300 * 1024];
    let request = world.request(Method::PUT, "/v1/environments/none/files/content?path=a");
    world.send(request.body(large)).await.expect(404);
}

#[tokio::test]
async fn a_list_that_takes_long_is_a_job() {
    let world = World::idle().await;
    world
        .post("/v1/environments", json!({"id": "e"}))
        .await
        .expect(202);
    let request = world
        .request(Method::GET, FILES)
        .header("Prefer", "respond-async");
    let answer = world.send(request).await.expect(202);
    assert_eq!(answer.header("preference-applied"), "respond-async");
    assert_eq!(answer.json()["kind"], "list");
    let request = world
        .request(Method::GET, &format!("{CONTENT}?path=a"))
        .header("Prefer", "wait=0");
    assert_eq!(
        world.send(request).await.expect(202).json()["kind"],
        "download"
    );
}

#[tokio::test]
async fn ranges_and_tags_say_what_of_a_file_is_wanted() {
    let world = World::new().await;
    world.environment("e").await;
    let all = bytes(SOME_PARTS + 7);
    put(&world, "path=big", all.clone()).await.expect(200);
    let get = async |headers: &[(&str, &str)]| {
        let request = world.request(Method::GET, &format!("{CONTENT}?path=big"));
        let request = headers.iter().fold(request, |request, (name, value)| {
            request.header(*name, *value)
        });
        world.send(request).await
    };
    let size = all.len();
    let whole = get(&[]).await.expect(200);
    let etag = whole.header("etag").to_owned();
    assert_eq!(whole.header("accept-ranges"), "bytes");
    for (range, first, last) in [
        ("bytes=0-0".to_owned(), 0, 0),
        ("bytes=5-4999999".to_owned(), 5, 4_999_999),
        (format!("bytes={}-", size - 3), size - 3, size - 1),
        ("bytes=-10".to_owned(), size - 10, size - 1),
        (format!("bytes=100-{}", size * 2), 100, size - 1),
    ] {
        let part = get(&[("Range", &range)]).await.expect(206);
        assert!(part.body == all[first..=last], "{range}");
        assert_eq!(
            part.header("content-range"),
            format!("bytes {first}-{last}/{size}")
        );
        assert_eq!(
            part.header("content-length"),
            (last - first + 1).to_string()
        );
        assert_eq!(part.header("etag"), etag);
    }
    for ignored in ["bytes=5-1", "bytes=0-1,5-6", "lines=0-1"] {
        let whole = get(&[("Range", ignored)]).await.expect(200);
        assert_eq!(whole.body.len(), size, "{ignored}");
    }
    let beyond = get(&[("Range", &format!("bytes={size}-"))])
        .await
        .expect(416);
    assert_eq!(beyond.header("content-range"), format!("bytes */{size}"));
    assert_eq!(beyond.json()["code"], "range_not_satisfiable");

    let known = get(&[("If-None-Match", &format!("\"x\", W/{etag}"))])
        .await
        .expect(304);
    assert_eq!((known.header("etag"), known.body.len()), (etag.as_str(), 0));
    get(&[("If-None-Match", "*"), ("Range", "bytes=0-1")])
        .await
        .expect(304);
    get(&[("If-None-Match", "\"x\"")]).await.expect(200);
    get(&[("If-Range", &etag), ("Range", "bytes=0-1")])
        .await
        .expect(206);
    get(&[("If-Range", "\"x\""), ("Range", "bytes=0-1")])
        .await
        .expect(200);

    let head = world.request(Method::HEAD, &format!("{CONTENT}?path=big"));
    let head = world.send(head).await.expect(200);
    assert_eq!(
        (head.header("content-length"), head.header("etag")),
        (size.to_string().as_str(), etag.as_str())
    );
    assert_eq!(head.body.len(), 0);
    let known = world.request(Method::HEAD, &format!("{CONTENT}?path=big"));
    world
        .send(known.header("If-None-Match", &etag))
        .await
        .expect(304);
    let none = world.request(Method::HEAD, &format!("{CONTENT}?path=none"));
    world.send(none).await.expect(404);
    put(&world, "path=empty", Vec::new()).await.expect(200);
    let request = world.request(Method::GET, &format!("{CONTENT}?path=empty"));
    world
        .send(request.header("Range", "bytes=0-"))
        .await
        .expect(416);
}

#[tokio::test]
async fn files_are_moved_and_folders_made() {
    let world = World::new().await;
    world.environment("e").await;
    put(&world, "path=a", bytes(3)).await.expect(200);
    let post = async |what: &str, body| world.post(&format!("{FILES}/{what}"), body).await;
    let moved = post("move", json!({"from": "a", "to": {"base64": "/w=="}}))
        .await
        .expect(200);
    assert!(!moved.header("x-job-id").is_empty());
    let moved = moved.json();
    assert_eq!(
        (&moved["to"], &moved["encoding"]),
        (&json!("/w=="), &json!("base64"))
    );
    assert_eq!(
        world
            .get(&format!("{CONTENT}?path=%FF"))
            .await
            .expect(200)
            .body,
        bytes(3)
    );
    let gone = post("move", json!({"from": "a", "to": "b"}))
        .await
        .expect(404)
        .json();
    assert_eq!(gone["code"], "file_not_found");
    let made = post("mkdir", json!({"path": "d", "parents": true}))
        .await
        .expect(200)
        .json();
    assert_eq!((&made["path"], &made["made"]), (&json!("d"), &json!(true)));
    let there = post("mkdir", json!({"path": "d"})).await.expect(409).json();
    assert_eq!(there["code"], "already_exists");
    for (what, body, field) in [
        ("move", json!({"from": "a"}), "to"),
        ("move", json!({"from": "", "to": "b"}), "from"),
        ("move", json!({"from": "a", "to": "b\u{0}"}), "to"),
        ("mkdir", json!({}), "path"),
        ("mkdir", json!({"path": "d", "parents": 1}), "parents"),
        ("mkdir", json!({"path": "d", "mode": 1}), "mode"),
    ] {
        let refused = post(what, body.clone()).await.expect(422).json();
        assert_eq!(refused["errors"][0]["field"], field, "{body}");
    }
    let kinds = world.get("/v1/jobs?kind=move").await.expect(200).json();
    assert_eq!(kinds["jobs"][1]["input"]["from"], "YQ==");
}

#[tokio::test]
async fn archives_of_every_size_come_back_as_they_went() {
    let world = World::new().await;
    world.environment("e").await;
    let archive = format!("{FILES}/archive");
    for size in [0, 10, 300_000, SOME_PARTS] {
        put(&world, "path=dir/file", bytes(size)).await.expect(200);
        let packed = world.get(&format!("{archive}?path=dir")).await.expect(200);
        assert_eq!(packed.header("content-type"), "application/x-tar");
        assert!(packed.body.len() >= size && packed.body.len() % 512 == 0);
        let length = packed.body.len();
        let request = world.request(Method::PUT, &format!("{archive}?path=copy{size}"));
        let unpacked = world
            .send(request.body(packed.body))
            .await
            .expect(200)
            .json();
        assert_eq!(unpacked["size"], length);
        let read = world
            .get(&format!("{CONTENT}?path=copy{size}/file"))
            .await
            .expect(200);
        assert!(read.body == bytes(size), "{size}");
    }
    put(&world, "path=breaks/file", bytes(SOME_PARTS))
        .await
        .expect(200);
    let request = world.request(Method::GET, &format!("{archive}?path=breaks"));
    let response = request.send().await.expect("a head, or an error");
    if response.status() == 200 {
        assert!(response.bytes().await.is_err(), "it is never whole");
    } else {
        assert_eq!(response.status(), 409);
    }
    world.get(&format!("{archive}?path=none")).await.expect(404);
    let request = world
        .request(Method::PUT, &archive)
        .body("no archive at all".repeat(100));
    let refused = world.send(request).await.expect(422).json();
    assert_eq!(refused["code"], "archive_refused");
    world
        .get(&format!("{archive}?path=a%00b"))
        .await
        .expect(422);
}
