//! What the service tells of itself, and how it stops.

use std::sync::Arc;

use api::ReadyCheck;
use futures::FutureExt as _;
use jiff::Timestamp;
use reqwest::Method;
use serde_json::json;
use shared::config::{AuthMode, Settings};
use shared::ids::EnvironmentUid;
use shared::orphan::{Orphan, OrphanKind};

use crate::world::{World, key_of};

#[tokio::test]
async fn readiness_names_every_backend() {
    let world = World::idle().await;
    let ready = world
        .send(world.bare(Method::GET, "/ready"))
        .await
        .expect(200);
    assert_eq!(
        ready.json(),
        json!({"store": "ok", "queue": "ok", "blobs": "ok"})
    );

    let check = ReadyCheck {
        name: "runtime",
        check: Arc::new(|| async { Err("/secret/place is missing".to_owned()) }.boxed()),
    };
    let world = World::with(Settings::default(), vec![check], false).await;
    let ready = world
        .send(world.bare(Method::GET, "/ready"))
        .await
        .expect(503);
    assert_eq!(ready.json()["runtime"], "error");
    assert_eq!(ready.json()["store"], "ok");
    assert!(!String::from_utf8_lossy(&ready.body).contains("secret"));
    world
        .send(world.bare(Method::GET, "/health"))
        .await
        .expect(200);
}

#[tokio::test]
async fn status_and_metrics_count() {
    let world = World::idle().await;
    let status = world.get("/status").await.expect(200).json();
    assert_eq!(status["state"], "IDLE");
    world
        .post("/v1/environments", json!({"id": "e"}))
        .await
        .expect(202);
    let status = world.get("/status").await.expect(200).json();
    assert_eq!(status["state"], "Working");
    assert_eq!(status["jobs"], json!({"create": {"queued": 1}}));
    assert_eq!(status["environments"]["pending"], 1);
    assert!(status["detail"].is_string() && status["last_update"].is_string());
    assert_eq!(status["orphans"], json!([]));
    let orphan = Orphan {
        uid: EnvironmentUid::new("aaaaaaaaaa").expect("a uid"),
        kind: OrphanKind::Volume,
        since: Timestamp::from_second(1_800_000_000).expect("a time"),
        goes_at: Timestamp::from_second(1_800_000_600).expect("a time"),
    };
    let noted = world.backends.store.note_orphans(vec![orphan]).await;
    noted.expect("noted");
    let status = world.get("/status").await.expect(200).json();
    assert_eq!(
        status["orphans"],
        json!([{
            "uid": "aaaaaaaaaa", "kind": "volume",
            "since": "2027-01-15T08:00:00Z", "goes_at": "2027-01-15T08:10:00Z",
        }])
    );
    let metrics = world.get("/metrics").await.expect(200);
    let text = String::from_utf8_lossy(&metrics.body).into_owned();
    assert!(
        text.contains("environment_manager_jobs{kind=\"create\",state=\"queued\"} 1\n"),
        "{text}"
    );
    for path in ["/status", "/metrics"] {
        world.send(world.bare(Method::GET, path)).await.expect(401);
    }
}

#[tokio::test]
async fn without_keys_everybody_is_the_default_tenant() {
    let mut settings = Settings::default();
    settings.auth.mode = AuthMode::None;
    let world = World::with(settings, Vec::new(), false).await;
    let request = world
        .bare(Method::POST, "/v1/environments")
        .json(&json!({"id": "e"}));
    world.send(request).await.expect(202);
    world.get("/v1/environments/e").await.expect(200);
}

#[tokio::test]
async fn a_key_opens_and_closes_without_a_restart() {
    let world = World::idle().await;
    let key = key_of("default", "a-key-that-comes-later");
    let status = async || {
        let request = world.bare(Method::GET, "/v1/environments");
        let answer = world.send(request.bearer_auth("a-key-that-comes-later"));
        answer.await.status.as_u16()
    };
    let becomes = async |wanted: u16| {
        let began = std::time::Instant::now();
        while status().await != wanted {
            assert!(began.elapsed().as_secs() < 60, "it is never {wanted}");
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    assert_eq!(status().await, 401);
    let store = &world.backends.store;
    store.put_key(key.clone()).await.expect("accepted");
    becomes(200).await;
    let revoked = store.remove_key(&key.tenant, &key.name).await;
    assert!(revoked.expect("revoked"));
    becomes(401).await;
    world.get("/v1/environments").await.expect(200);
}

#[tokio::test]
async fn a_stop_answers_who_waits_and_ends() {
    let world = World::new().await;
    world.environment("e").await;
    let request = world
        .request(Method::POST, "/v1/environments/e/exec")
        .json(&json!({"command": "#hang"}));
    let waiting = tokio::spawn(request.header("Prefer", "wait=300").send());
    // The command runs, so its request waits.
    loop {
        let jobs = world.get("/v1/jobs?state=running").await.json();
        if jobs["jobs"].as_array().is_some_and(|jobs| !jobs.is_empty()) {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    world.soft.cancel();
    let answer = waiting.await.expect("a task").expect("a response");
    assert_eq!(answer.status(), 202);
    drop(answer);
    world.served.await.expect("a task").expect("served");
}

#[tokio::test]
async fn the_documentation_needs_nothing_but_the_service() {
    let world = World::idle().await;
    let page = world
        .send(world.bare(Method::GET, "/docs"))
        .await
        .expect(200);
    assert_eq!(page.header("content-type"), "text/html; charset=utf-8");
    let policy = page.header("content-security-policy");
    assert!(
        policy.starts_with("default-src 'none'; connect-src 'self';"),
        "{policy}"
    );
    assert!(
        !policy.contains("unsafe") && policy.matches("'sha256-").count() == 2,
        "{policy}"
    );
    let text = String::from_utf8(page.body.clone()).expect("text");
    assert!(text.contains("fetch(\"/openapi.json\")"));
}
