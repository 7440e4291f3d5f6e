//! The original endpoints, to the byte.

use reqwest::Method;
use serde_json::json;
use shared::config::Settings;

use crate::world::{Answer, World};

fn text(answer: &Answer) -> &str {
    std::str::from_utf8(&answer.body).expect("UTF-8")
}

#[tokio::test]
async fn a_client_of_the_original_finds_what_it_expects() {
    let world = World::new().await;
    let id = "exec-gplan_0a1b";
    let created = world
        .post(
            "/create_environment",
            json!({"environment_id": id, "unknown": 1}),
        )
        .await
        .expect(200);
    assert_eq!(text(&created), r#"{"environment_id":"exec-gplan_0a1b"}"#);
    assert_eq!(created.header("content-type"), "application/json");
    let job = created.header("x-job-id").to_owned();
    assert_eq!(
        world
            .get(&format!("/v1/jobs/{job}"))
            .await
            .expect(200)
            .json()["kind"],
        "create"
    );
    // A running one is reused, whatever its image.
    let again = world
        .post(
            "/create_environment",
            json!({"environment_id": id, "base_image": "other:1"}),
        )
        .await;
    assert_eq!(again.expect(200).header("x-job-id"), job);

    let run = |command: &str| {
        world.post(
            "/exec_in_environment",
            json!({"environment_id": id, "command": command}),
        )
    };
    let ran = run("echo ' hi '; echo warn >&2").await.expect(200);
    assert_eq!(
        text(&ran),
        r#"{"stdout":"hi","stderr":"warn","exit_code":0}"#
    );
    let failed = run("echo no >&2; exit 3").await.expect(200);
    assert_eq!(
        text(&failed),
        r#"{"stdout":"","stderr":"no","exit_code":3,"error":"no"}"#
    );
    let silent = run("exit 4").await.expect(200);
    assert_eq!(
        text(&silent),
        r#"{"stdout":"","stderr":"","exit_code":4,"error":"Command failed with exit code 4"}"#
    );

    let up = json!({"environment_id": id, "path": "d/a.txt", "content": "héllo"});
    let uploaded = world.post("/upload_to_environment", up).await.expect(200);
    assert_eq!(text(&uploaded), r#"{"uploaded":"d/a.txt"}"#);
    let down = json!({"environment_id": id, "path": "d/a.txt"});
    let downloaded = world
        .post("/download_from_environment", down)
        .await
        .expect(200);
    assert_eq!(text(&downloaded), r#"{"content":"héllo"}"#);

    let listed = world
        .post("/list_files_in_environment", json!({"environment_id": id}))
        .await
        .expect(200)
        .json();
    let entry = &listed["files"][0];
    assert_eq!(
        (&entry["name"], &entry["type"]),
        (&json!("d"), &json!("directory"))
    );
    assert!(entry["size"].is_u64() && entry["last_modified"].is_i64());

    let publish = json!({"environment_id": id, "path": "d/a.txt", "bucket": "b", "destination": "x/a.txt", "task_id": ""});
    let published = world
        .post("/upload_to_cloud_and_index", publish)
        .await
        .expect(200)
        .json();
    assert!(
        published["artifact_id"]
            .as_str()
            .is_some_and(|id| id.starts_with("art-"))
    );
    assert!(
        published["gcs_uri"]
            .as_str()
            .is_some_and(|uri| uri.ends_with("/b/x/a.txt"))
    );

    for _ in 0..2 {
        let deleted = world
            .post("/delete_environment", json!({"environment_id": id}))
            .await
            .expect(200);
        assert_eq!(text(&deleted), r#"{"deleted":"exec-gplan_0a1b"}"#);
    }
    assert_eq!(text(&world.get("/health").await), r#"{"status":"ok"}"#);
}

#[tokio::test]
async fn whatever_is_there_runs_afterwards() {
    let world = World::new().await;
    let create = |id: &str| world.post("/create_environment", json!({"environment_id": id}));
    create("e").await.expect(200);
    world
        .post_wait("/v1/environments/e/stop", json!({}))
        .await
        .expect(200);
    create("e").await.expect(200);
    assert_eq!(
        world.get("/v1/environments/e").await.json()["status"]["phase"],
        "running"
    );
    world
        .post("/delete_environment", json!({"environment_id": "e"}))
        .await
        .expect(200);
    create("e").await.expect(200);
    assert_eq!(
        world.get("/v1/environments/e").await.json()["status"]["phase"],
        "running"
    );
    // Many at once are one environment.
    let all = futures::future::join_all((0..8).map(|_| create("f"))).await;
    for answer in all {
        answer.expect(200);
    }
    // One that has failed gets a new life; here that fails as well, but it is another one.
    create("broken").await;
    let first = world.get("/v1/environments/broken").await.json();
    assert_eq!(first["status"]["phase"], "failed");
    create("broken").await;
    let second = world.get("/v1/environments/broken").await.json();
    assert_ne!(first["created_by"], second["created_by"]);
}

#[tokio::test]
async fn ends_that_have_no_exit_code_are_errors() {
    let world = World::new().await;
    world.environment("e").await;
    for (command, status, word) in [
        ("#signal 9", 422, "signal 9"),
        ("#oom", 503, "out of memory"),
        ("#lost", 503, "environment_gone"),
        ("#timed_out", 504, "timed_out"),
    ] {
        let body = json!({"environment_id": "e", "command": command});
        let answer = world
            .post("/exec_in_environment", body)
            .await
            .expect(status);
        let job = answer.header("x-job-id").to_owned();
        let body = answer.json();
        assert_eq!(
            body.as_object().map(serde_json::Map::len),
            Some(1),
            "{body}"
        );
        let detail = body["detail"].as_str().expect("a text");
        assert!(
            detail.contains(word) && detail.contains(&job) && !job.is_empty(),
            "{detail}"
        );
    }
}

#[tokio::test]
async fn a_command_that_outlives_the_wait_goes_on() {
    let mut settings = Settings::default();
    settings.server.sync_wait_seconds = 1;
    let world = World::with(settings, Vec::new(), true).await;
    world.environment("e").await;
    let body = json!({"environment_id": "e", "command": "#hang"});
    let answer = world.post("/exec_in_environment", body).await.expect(504);
    let job = answer.header("x-job-id");
    assert!(
        answer.json()["detail"]
            .as_str()
            .is_some_and(|detail| detail.contains(job))
    );
    assert_eq!(
        world.get(&format!("/v1/jobs/{job}")).await.json()["state"],
        "running"
    );
    world
        .post(&format!("/v1/jobs/{job}/cancel"), json!({}))
        .await;
}

#[tokio::test]
async fn large_and_binary_content_goes_both_ways() {
    let world = World::new().await;
    world.environment("e").await;
    let large = "äö".repeat(2_000_000);
    let up = json!({"environment_id": "e", "path": "big", "content": large});
    world.post("/upload_to_environment", up).await.expect(200);
    let down = json!({"environment_id": "e", "path": "big"});
    let content = world
        .post("/download_from_environment", down)
        .await
        .expect(200)
        .json();
    assert!(content["content"] == large);

    let up =
        json!({"environment_id": "e", "path": "raw", "content": "/wA=\n", "encoding": "base64"});
    world.post("/upload_to_environment", up).await.expect(200);
    let mut down = json!({"environment_id": "e", "path": "raw"});
    let refused = world
        .post("/download_from_environment", down.clone())
        .await
        .expect(422)
        .json();
    assert!(
        refused["detail"]
            .as_str()
            .is_some_and(|detail| detail.contains("base64"))
    );
    down["encoding"] = json!("base64");
    let read = world
        .post("/download_from_environment", down)
        .await
        .expect(200);
    assert_eq!(text(&read), r#"{"content":"/wA="}"#);

    let body = json!({"environment_id": "e", "command": "yes ä | head -c 3000000"});
    let ran = world
        .post("/exec_in_environment", body)
        .await
        .expect(200)
        .json();
    assert_eq!(
        ran["stdout"].as_str().map(|out| out.ends_with('ä')),
        Some(true)
    );
    assert_eq!(ran["stdout"].as_str().map(str::len), Some(2_999_999));
    assert_eq!(ran.get("truncated"), None);
    let body = json!({"environment_id": "e", "command": "head -c 17000000 /dev/zero"});
    let ran = world
        .post("/exec_in_environment", body)
        .await
        .expect(200)
        .json();
    assert_eq!(ran["truncated"], true);
    assert_eq!(ran["stdout"].as_str().map(str::len), Some(16 << 20));
}

#[tokio::test]
async fn a_folder_of_any_size_is_listed_whole() {
    let world = World::new().await;
    world.environment("e").await;
    let folder = world.folder("e");
    for index in 0..10_001 {
        std::fs::write(folder.join(format!("{index:05}")), "").expect("written");
    }
    let body = json!({"environment_id": "e", "path": "."});
    let listed = world
        .post("/list_files_in_environment", body)
        .await
        .expect(200)
        .json();
    assert_eq!(listed["files"].as_array().map(Vec::len), Some(10_001));
}

#[tokio::test]
async fn errors_are_details() {
    let world = World::new().await;
    world.environment("e").await;
    world.environment("s").await;
    world
        .post_wait("/v1/environments/s/stop", json!({}))
        .await
        .expect(200);
    for (path, body, status, word) in [
        (
            "/exec_in_environment",
            json!({"environment_id": "none", "command": "true"}),
            404,
            "none",
        ),
        (
            "/exec_in_environment",
            json!({"environment_id": "s", "command": "true"}),
            409,
            "stopped",
        ),
        (
            "/exec_in_environment",
            json!({"environment_id": "e"}),
            422,
            "command",
        ),
        (
            "/exec_in_environment",
            json!({"environment_id": "e", "command": 5}),
            422,
            "command",
        ),
        (
            "/exec_in_environment",
            json!({"environment_id": "e", "command": "a", "timeout_seconds": 0}),
            422,
            "timeout_seconds",
        ),
        (
            "/exec_in_environment",
            json!({"environment_id": "../e", "command": "a"}),
            422,
            "environment_id",
        ),
        ("/create_environment", json!({}), 422, "environment_id"),
        (
            "/create_environment",
            json!({"environment_id": "x", "base_image": "a b"}),
            422,
            "base_image",
        ),
        (
            "/upload_to_environment",
            json!({"environment_id": "e", "path": "a"}),
            422,
            "content",
        ),
        (
            "/upload_to_environment",
            json!({"environment_id": "e", "path": "a", "content": "", "encoding": "rot13"}),
            422,
            "encoding",
        ),
        (
            "/download_from_environment",
            json!({"environment_id": "e", "path": "none"}),
            404,
            "job",
        ),
        (
            "/list_files_in_environment",
            json!({"environment_id": "e", "path": "none"}),
            404,
            "job",
        ),
        (
            "/upload_to_cloud_and_index",
            json!({"environment_id": "e", "path": "a", "bucket": "staging", "destination": "x"}),
            422,
            "bucket",
        ),
    ] {
        let answer = world.post(path, body.clone()).await.expect(status);
        assert_eq!(answer.header("content-type"), "application/json");
        let detail = answer.json()["detail"].as_str().expect("a text").to_owned();
        assert!(detail.contains(word), "{path} {body}: {detail}");
    }
    let bare = world
        .bare(Method::POST, "/exec_in_environment")
        .json(&json!({}));
    let refused = world.send(bare).await.expect(401);
    assert!(refused.json()["detail"].is_string());
    let wrong = world
        .send(world.request(Method::GET, "/exec_in_environment"))
        .await
        .expect(405);
    assert!(wrong.json()["detail"].is_string());
    let broken = world
        .request(Method::POST, "/exec_in_environment")
        .body("{");
    assert!(world.send(broken).await.expect(400).json()["detail"].is_string());
}
