//! Paths of every kind on every file operation, and ids of every shape.

use std::collections::BTreeSet;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures::StreamExt as _;
use reqwest::Method;
use serde_json::{Value, json};
use tests::program::{Answer, Client, DataFolder, LONG, Program};

/// The operations that change something.
const CHANGES: [&str; 7] = [
    "put",
    "original put",
    "mkdir",
    "unpack",
    "move there",
    "move away",
    "delete",
];

/// Every file operation on one path, and what it answered: first those that only read. `archive` is what is unpacked there.
async fn every_operation(
    client: &Client,
    path: &str,
    archive: &Bytes,
) -> Vec<(&'static str, Answer)> {
    let publish = json!({ "path": path, "bucket": "bucket", "destination": "published" });
    let original = |more: Value| {
        let mut body = json!({ "environment_id": "env", "path": path });
        body.as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        body
    };
    let published = client.request(Method::POST, "/v1/environments/env/artifacts");
    let published = client
        .send(published.header("Prefer", "wait=30").json(&publish))
        .await;
    let post = async |what: &str, body: Value| {
        let at = format!("/v1/environments/env/files/{what}");
        client.post(&at, &body).await
    };
    let archive = client
        .request(Method::PUT, "/v1/environments/env/files/archive")
        .query(&[("path", path)])
        .body(archive.clone());
    client.put_file("env", "own", "own").await.expect(200);
    let pack = client
        .request(Method::GET, "/v1/environments/env/files/archive")
        .query(&[("path", path)]);
    let whole_machine = ["/", ".."].contains(&path);
    let mut answers = Vec::new();
    if !whole_machine {
        answers.push(("pack", client.send(pack).await));
    }
    answers.extend([
        ("list", client.list_files("env", &[("path", path)]).await),
        ("get", client.get_file("env", path).await),
        ("publish", published),
        (
            "original list",
            client
                .post("/list_files_in_environment", &original(json!({})))
                .await,
        ),
        (
            "original get",
            client
                .post("/download_from_environment", &original(json!({})))
                .await,
        ),
        ("put", client.put_file("env", path, "new").await),
        (
            "original put",
            client
                .post(
                    "/upload_to_environment",
                    &original(json!({ "content": "new" })),
                )
                .await,
        ),
        ("mkdir", post("mkdir", json!({ "path": path })).await),
        ("unpack", client.send(archive).await),
        (
            "move there",
            post("move", json!({ "from": "own", "to": path })).await,
        ),
        (
            "move away",
            post("move", json!({ "from": path, "to": "moved" })).await,
        ),
        (
            "delete",
            client
                .remove_file("env", &[("path", path), ("recursive", "true")])
                .await,
        ),
    ]);
    answers
}

/// What the answers hold, as text, to be searched.
fn texts(answers: &[(&'static str, Answer)]) -> String {
    answers.iter().map(|(_, answer)| answer.text()).collect()
}

/// An archive of one small file.
async fn small_archive(client: &Client) -> Bytes {
    client
        .put_file("env", "packed/file", "new")
        .await
        .expect(200);
    let at = "/v1/environments/env/files/archive?path=packed";
    client.get(at).await.expect(200).body
}

/// What two files that no environment may change hold, as the environment and this machine see them.
async fn untouchable(program: &Program, client: &Client) -> (String, Vec<Vec<u8>>) {
    let inside = client.printed("env", "sha256sum /usr/bin/sh /etc/passwd");
    let outside = ["/usr/bin/sh", "/etc/passwd"].map(|path| std::fs::read(path).expect("read"));
    let outside = if program.is_on_cluster() {
        Vec::new()
    } else {
        outside.to_vec()
    };
    (inside.await, outside)
}

#[tokio::test]
async fn no_path_leads_out_of_an_environment() {
    let program = Program::start().await;
    let client = program.client();
    client.create("env").await;
    let secret = format!("outside-{:016x}", rand::random::<u64>());
    let outside = tempfile::TempDir::new().expect("a folder");
    let host_file = outside.path().join("secret");
    std::fs::write(&host_file, &secret).expect("written");
    let host_path = host_file.to_str().unwrap();
    client
        .printed(
            "env",
            &format!("ln -s {host_path} link; ln -s / root; ln -s loop loop; ln -s .. up; mkdir d"),
        )
        .await;

    let archive = small_archive(&client).await;
    let before = untouchable(&program, &client).await;
    let up = "../".repeat(20);
    let mut of_nobody = vec![
        "/etc/shadow".to_owned(),
        "/root/.ssh".to_owned(),
        "/proc/1/environ".to_owned(),
        "/proc/1/mem".to_owned(),
        "/sys/kernel/uevent_helper".to_owned(),
        "/usr/bin/sh".to_owned(),
        "/etc/passwd".to_owned(),
        "root/usr/bin/sh".to_owned(),
        format!("{up}etc/passwd"),
    ];
    let mut paths = vec![
        host_path.to_owned(),
        format!("{up}{host_path}"),
        "link".to_owned(),
        format!("root{host_path}"),
        format!("d/../../up{host_path}"),
        format!("/proc/1/root{host_path}"),
        format!("/proc/self/root{host_path}"),
        format!("/proc/self/cwd/../..{host_path}"),
        "loop".to_owned(),
        "..".to_owned(),
        "/".to_owned(),
        ".".to_owned(),
    ];
    // On a cluster the runner is of the same user as the commands, who may harm their own environment with it.
    let state = if program.is_on_cluster() {
        &mut paths
    } else {
        &mut of_nobody
    };
    state.push("/.em/state".to_owned());
    for path in of_nobody.iter().chain(&paths) {
        for (operation, answer) in every_operation(&client, path, &archive).await {
            let status = answer.status;
            assert!(
                status < 500 || status == 507,
                "{operation} {path}: {status} {}",
                answer.text()
            );
            assert!(
                !answer.text().contains(&secret),
                "{operation} {path} reads the host"
            );
            assert!(
                !(CHANGES.contains(&operation) && of_nobody.contains(path)) || status >= 400,
                "{operation} {path}: {status} {}",
                answer.text()
            );
        }
    }
    assert_eq!(
        std::fs::read_to_string(&host_file).expect("still there"),
        secret
    );
    assert!(untouchable(&program, &client).await == before);
    let alive = client.printed("env", "id -u; cd / && echo works").await;
    assert!(alive.ends_with("works\n"), "{alive}");
    assert!(!program.log().contains("panicked"));
}

#[tokio::test]
async fn files_that_are_no_files_are_refused_and_hold_nobody_up() {
    let program = Program::start().await;
    let client = program.client();
    client.create("env").await;
    client.printed("env", "mkfifo fifo; mkdir folder; python3 -c \"import socket; socket.socket(socket.AF_UNIX).bind('socket')\"").await;
    for path in [
        "fifo",
        "socket",
        "/dev/zero",
        "/dev/null",
        "/dev/full",
        "folder",
        ".",
    ] {
        let answer = client.get_file("env", path).await;
        assert_eq!(answer.status, 409, "{path}: {}", answer.text());
        assert_eq!(answer.json()["status"], 409);
    }
    for path in ["fifo", "/dev/zero", "missing"] {
        let answer = client.list_files("env", &[("path", path)]).await;
        assert!(
            matches!(answer.status, 404 | 409),
            "{path}: {}",
            answer.text()
        );
    }
    client.put_file("env", "folder", "x").await.expect(409);
    client.put_file("env", "fifo/x", "x").await.expect(409);
    client.get_file("env", "missing").await.expect(404);
    client.get_file("env", "fifo/x").await;
    let listed = client.list_files("env", &[]).await.expect(200).json();
    let kinds: BTreeSet<_> = listed["entries"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| {
            (
                entry["name"].as_str().unwrap(),
                entry["type"].as_str().unwrap(),
            )
        })
        .collect();
    assert_eq!(
        kinds,
        BTreeSet::from([
            ("fifo", "other"),
            ("folder", "directory"),
            ("socket", "other")
        ])
    );
    client
        .remove_file("env", &[("path", "fifo")])
        .await
        .expect(200);
    client
        .remove_file("env", &[("path", "folder")])
        .await
        .expect(200);
}

#[tokio::test]
async fn what_is_no_file_holds_no_operation_up() {
    let program = Program::start().await;
    let client = program.client();
    client.create("env").await;
    let archive = small_archive(&client).await;
    let make = "import os, socket; os.mkfifo('fifo'); socket.socket(socket.AF_UNIX).bind('socket')";
    let make = json!({ "command": ["python3", "-c", make] });
    for path in ["fifo", "socket", "/dev/zero", "/dev/null", "/dev/full"] {
        client.remove_file("env", &[("path", "fifo")]).await;
        client.remove_file("env", &[("path", "socket")]).await;
        assert_eq!(client.exec("env", &make).await["state"], "succeeded");
        let answers = tokio::time::timeout(2 * LONG, every_operation(&client, path, &archive));
        let answers = answers
            .await
            .unwrap_or_else(|_| panic!("an operation on {path} hangs"));
        for (operation, answer) in answers {
            let (status, text) = (answer.status, answer.text());
            match operation {
                // The call is answered with its job.
                "publish" => assert_eq!(answer.json()["state"], "failed", "{path}: {text}"),
                // In the volume they are names like others, which their owner may replace, move and remove.
                "move there" | "move away" | "delete" if !path.starts_with('/') => {
                    assert!(matches!(status, 200 | 404), "{operation} {path}: {text}");
                }
                _ => assert!((400..500).contains(&status), "{operation} {path}: {text}"),
            }
        }
    }
    let devices =
        "stat -c '%F %t:%T' /dev/zero /dev/null /dev/full; head -c 3 /dev/zero | od -An -tx1";
    let special = "character special file 1:";
    let expected = format!("{special}5\n{special}3\n{special}7\n 00 00 00\n");
    assert_eq!(client.printed("env", devices).await, expected);
    assert!(!program.log().contains("panicked"));
}

#[tokio::test]
async fn names_of_every_kind_are_written_listed_read_and_removed() {
    let program = Program::start().await;
    let client = program.client();
    client.create("env").await;
    let longest = "n".repeat(255);
    let names = [
        "plain",
        " ",
        "a b",
        "-rf",
        "--",
        "*",
        "?",
        "100%25",
        "#",
        "&x=1",
        "+",
        "new\nline",
        "tab\t",
        "\u{1}",
        "quote'\"",
        "$(reboot)",
        ";",
        "ä",
        "\u{1f600}",
        "back\\slash",
        "...",
        ".hidden",
        &longest,
    ];
    for name in names {
        let written = client
            .put_file("env", &format!("sub/{name}"), name.to_owned())
            .await
            .expect(200)
            .json();
        assert_eq!(written["path"], format!("/app/sub/{name}"));
        let read = client
            .get_file("env", &format!("sub/{name}"))
            .await
            .expect(200);
        assert_eq!(read.text(), name);
        assert_eq!(
            read.header("content-length"),
            Some(name.len().to_string().as_str())
        );
    }
    let listed = client
        .list_files("env", &[("path", "sub"), ("page_size", "1000")])
        .await
        .expect(200)
        .json();
    let found: Vec<_> = listed["entries"]
        .as_array()
        .unwrap()
        .iter()
        .map(|e| e["name"].as_str().unwrap())
        .collect();
    let expected: BTreeSet<_> = names.into_iter().collect();
    assert_eq!(
        found,
        expected.into_iter().collect::<Vec<_>>(),
        "sorted in byte order"
    );
    for name in names {
        client
            .remove_file("env", &[("path", &format!("sub/{name}"))])
            .await
            .expect(200);
    }
    let listed = client
        .list_files("env", &[("path", "sub")])
        .await
        .expect(200)
        .json();
    assert_eq!(listed["entries"], json!([]));
    for bad in ["", "\0", &"n".repeat(256), &"p/".repeat(3000)] {
        let answer = client.put_file("env", bad, "x").await;
        assert!(
            matches!(answer.status, 409 | 422),
            "{}: {}",
            bad.len(),
            answer.text()
        );
        let answer = client.get_file("env", bad).await;
        assert!(
            matches!(answer.status, 404 | 409 | 422),
            "{}: {}",
            bad.len(),
            answer.text()
        );
    }
}

#[tokio::test]
async fn names_that_are_not_utf8_are_listed_and_read() {
    let program = Program::start().await;
    let client = program.client();
    client.create("env").await;
    client
        .printed(
            "env",
            "python3 -c \"open(b'bytes-\\xff\\xfe', 'w').write('content')\"",
        )
        .await;
    let listed = client.list_files("env", &[]).await.expect(200).json();
    let entry = &listed["entries"][0];
    assert_eq!(entry["encoding"], "base64", "{listed}");
    assert_eq!(
        STANDARD.decode(entry["name"].as_str().unwrap()).unwrap(),
        b"bytes-\xff\xfe"
    );
    let at = "/v1/environments/env/files/content?path=bytes-%FF%FE";
    assert_eq!(client.get(at).await.expect(200).text(), "content");
    let written = client.request(Method::PUT, at).body("content, again");
    client.send(written).await.expect(200);
    assert_eq!(client.get(at).await.expect(200).text(), "content, again");
    let published = client
        .request(Method::POST, "/v1/environments/env/artifacts")
        .header("Prefer", "wait=30");
    let path = json!({ "path": { "base64": STANDARD.encode(b"bytes-\xff\xfe") }, "bucket": "b", "destination": "d" });
    let published = client.send(published.json(&path)).await.expect(200).json();
    assert_eq!(published["state"], "succeeded", "{published}");
    let original = client
        .post(
            "/list_files_in_environment",
            &json!({ "environment_id": "env" }),
        )
        .await
        .expect(200);
    assert_eq!(
        original.json()["files"].as_array().map(Vec::len),
        Some(1),
        "{}",
        original.text()
    );
    client
        .delete("/v1/environments/env/files?path=bytes-%FF%FE")
        .await
        .expect(200);
    let listed = client.list_files("env", &[]).await.expect(200).json();
    assert_eq!(listed["entries"], json!([]));
}

#[tokio::test]
async fn a_folder_of_100_000_entries_is_listed_page_by_page() {
    let program = Program::start().await;
    let client = program.client();
    client.create("env").await;
    let make = "import os; os.mkdir('many'); [os.close(os.open(f'many/{n}', os.O_CREAT)) for n in range(100000)]";
    let job = client
        .exec(
            "env",
            &json!({ "command": ["python3", "-c", make], "timeout_seconds": 120 }),
        )
        .await;
    assert_eq!(job["state"], "succeeded", "{job}");
    let (mut names, mut token) = (Vec::new(), String::new());
    loop {
        let query = [
            ("path", "many"),
            ("page_size", "1000"),
            ("page_token", &token),
        ];
        let query = if token.is_empty() {
            &query[..2]
        } else {
            &query[..]
        };
        let page = client.list_files("env", query).await.expect(200).json();
        let entries = page["entries"].as_array().unwrap();
        assert!(entries.len() <= 1000);
        names.extend(
            entries
                .iter()
                .map(|entry| entry["name"].as_str().unwrap().to_owned()),
        );
        token = page["next_page_token"].as_str().unwrap().to_owned();
        if token.is_empty() {
            break;
        }
    }
    let mut expected: Vec<_> = (0..100_000).map(|number| number.to_string()).collect();
    expected.sort();
    assert!(names == expected, "{} names", names.len());
    let removed = client
        .remove_file("env", &[("path", "many"), ("recursive", "true")])
        .await
        .expect(200)
        .json();
    assert_eq!(removed["removed"], 100_001, "{removed}");
}

#[tokio::test]
async fn a_file_that_grows_or_goes_while_it_is_read_is_whole_or_an_error() {
    let program = Program::start().await;
    let client = program.client();
    client.create("env").await;
    client
        .printed("env", "head -c 20000000 /dev/zero | tr '\\0' a > growing")
        .await;
    let grow = "while [ ! -e enough ]; do head -c 20000 /dev/zero | tr '\\0' b >> growing; sleep 0.02; done";
    let growing = client
        .submit("env", &json!({ "command": grow, "timeout_seconds": 120 }))
        .await;
    for _ in 0..5 {
        let answer = client.get_file("env", "growing").await.expect(200);
        let length: usize = answer.header("content-length").unwrap().parse().unwrap();
        assert_eq!(answer.body.len(), length);
        assert!(length >= 20_000_000);
        assert!(answer.body[..20_000_000].iter().all(|byte| *byte == b'a'));
        assert!(answer.body[20_000_000..].iter().all(|byte| *byte == b'b'));
    }
    client.put_file("env", "enough", "").await.expect(200);
    client.ended(&growing).await;
    // One that shrinks under the reader's eyes never ends as if it were whole.
    let at = "/v1/environments/env/files/content?path=growing";
    let response = client
        .request(Method::GET, at)
        .send()
        .await
        .expect("an answer");
    let length = response.content_length().expect("a length");
    client.printed("env", ": > growing").await;
    let mut stream = response.bytes_stream();
    let (mut got, mut broken) = (0, false);
    while let Some(piece) = stream.next().await {
        match piece {
            Ok(piece) => got += piece.len() as u64,
            Err(_) => broken = true,
        }
    }
    assert!(
        broken || got == length,
        "{got} of {length} bytes without an error"
    );
    assert_eq!(
        client
            .get_file("env", "growing")
            .await
            .expect(200)
            .body
            .len(),
        0
    );
}

#[tokio::test]
async fn large_files_go_in_and_come_out() {
    let program = Program::start().await;
    let client = program.client();
    client.create("env").await;
    for size in [0, 1, 256 * 1024, 256 * 1024 + 1, 4 << 20, (40 << 20) + 3] {
        let content = tests::conformance::blobs::content(size as u64, size);
        let sum = tests::conformance::blobs::sha256(&content);
        let written = client
            .put_file("env", "deep/er/file", content.clone())
            .await
            .expect(200)
            .json();
        assert_eq!(
            (&written["size"], &written["sha256"]),
            (&json!(size), &json!(sum))
        );
        let read = client.get_file("env", "deep/er/file").await.expect(200);
        assert!(read.body == content, "{size} bytes");
        let published = client
            .request(Method::POST, "/v1/environments/env/artifacts")
            .header("Prefer", "wait=60");
        let body = json!({ "path": "deep/er/file", "bucket": "bucket", "destination": format!("out/{size}") });
        let job = client.send(published.json(&body)).await.expect(200).json();
        assert_eq!(
            (&job["state"], &job["result"]["sha256"]),
            (&json!("succeeded"), &json!(sum)),
            "{job}"
        );
        let uri = job["result"]["uri"]
            .as_str()
            .unwrap()
            .strip_prefix("file://")
            .expect("a file URI");
        assert!(std::fs::read(uri).expect("the object") == content);
        let id = job["result"]["artifact_id"].as_str().unwrap();
        let artifact = client
            .get(&format!("/v1/artifacts/{id}/content"))
            .await
            .expect(200);
        assert!(artifact.body == content);
    }
    let staged = program.folder().path().join("blobs/staging");
    tests::program::wait_until("nothing is staged any more", async || {
        tests::program::files_below(&staged).is_empty()
    })
    .await;
}

#[tokio::test]
async fn ids_of_every_allowed_shape_are_kept_as_they_are() {
    let program = Program::start().await;
    let client = program.client();
    let longest = "L".repeat(63);
    for id in [
        "A.b_c-",
        "0",
        "exec-gplan_0a1b2c3d",
        "exec-env-1751",
        "test-env",
        "Test-Env",
        "a..b",
        &longest,
    ] {
        client.create(id).await;
        assert_eq!(client.printed(id, "echo here; pwd").await, "here\n/app\n");
        let shown = client
            .get(&format!("/v1/environments/{id}"))
            .await
            .expect(200)
            .json();
        assert_eq!(shown["id"], id);
        let gone = client
            .delete(&format!("/v1/environments/{id}"))
            .await
            .expect(202)
            .json();
        assert_eq!(
            client.ended(gone["id"].as_str().unwrap()).await["state"],
            "succeeded"
        );
    }
}

#[tokio::test]
async fn a_data_folder_with_a_path_of_200_bytes_works() {
    let program = Program::start_on(DataFolder::with_path_length(200), &[]).await;
    let client = program.client();
    client.create("env").await;
    client.put_file("env", "file", "content").await.expect(200);
    assert_eq!(client.printed("env", "cat file").await, "content");
    assert_eq!(
        texts(&[("get", client.get_file("env", "file").await)]),
        "content"
    );
}
