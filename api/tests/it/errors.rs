//! What is wrong is said clearly, in one shape, and never with a 500.

use std::sync::Arc;

use api::ReadyCheck;
use futures::FutureExt as _;
use reqwest::Method;
use serde_json::json;
use shared::config::Settings;

use crate::world::World;

#[tokio::test]
async fn every_error_is_a_problem() {
    let mut settings = Settings::default();
    settings.server.max_body_bytes = 10_000;
    let world = World::with(settings, Vec::new(), true).await;
    world.environment("e").await;
    let exec = "/v1/environments/e/exec";
    let big = format!("{{\"command\":\"{}\"}}", "x".repeat(10_000));
    let post = |path: &str, body: &str| world.request(Method::POST, path).body(body.to_owned());
    for (request, status, code) in [
        (post(exec, "{"), 400, "malformed"),
        (post(exec, ""), 400, "malformed"),
        (world.bare(Method::GET, "/v1/jobs"), 401, "unauthorized"),
        (
            world.bare(Method::GET, "/v1/jobs").bearer_auth("wrong"),
            401,
            "unauthorized",
        ),
        (
            world
                .bare(Method::GET, "/v1/jobs")
                .basic_auth("a", Some("b")),
            401,
            "unauthorized",
        ),
        (world.request(Method::GET, "/nowhere"), 404, "not_found"),
        (
            world.request(Method::GET, "/v1/environments/none"),
            404,
            "not_found",
        ),
        (
            world.request(Method::PATCH, "/v1/jobs"),
            405,
            "method_not_allowed",
        ),
        (world.request(Method::PUT, exec), 405, "method_not_allowed"),
        (post(exec, &big), 413, "too_large"),
        (
            post(exec, "{}").header("Content-Type", "text/plain"),
            415,
            "unsupported_media_type",
        ),
        (post(&format!("{exec}?wait=1"), "{}"), 422, "invalid"),
        (post(exec, "{}"), 422, "invalid"),
        (
            world.request(Method::GET, "/v1/environments/a%2Fb"),
            422,
            "invalid",
        ),
        (
            world.request(Method::GET, "/v1/environments/%FF"),
            422,
            "invalid",
        ),
        (world.request(Method::GET, "/v1/jobs/1"), 422, "invalid"),
        (
            post(exec, "{}").header("Idempotency-Key", ""),
            422,
            "invalid",
        ),
    ] {
        let shown = format!("{request:?}");
        let answer = world.send(request).await.expect(status);
        assert_eq!(
            answer.header("content-type"),
            "application/problem+json",
            "{shown}"
        );
        let id = answer.header("x-request-id").to_owned();
        let problem = answer.json();
        assert_eq!(problem["code"], code, "{shown}");
        assert_eq!(problem["status"], status, "{shown}");
        assert_eq!(problem["request_id"], id, "{shown}");
        assert!(
            problem["type"]
                .as_str()
                .is_some_and(|kind| kind.ends_with(code)),
            "{shown}"
        );
        assert!(
            problem["title"].is_string() && problem["detail"].is_string(),
            "{shown}"
        );
        assert_eq!(
            problem.get("errors").is_some(),
            code == "invalid",
            "{shown}"
        );
        if status == 401 {
            assert_eq!(answer.header("www-authenticate"), "Bearer");
        }
        if status == 405 {
            assert!(!answer.header("allow").is_empty(), "{shown}");
        }
    }
}

#[tokio::test]
async fn fields_that_cannot_be_taken_are_named() {
    let world = World::new().await;
    world.environment("e").await;
    let exec = "/v1/environments/e/exec";
    let create = "/v1/environments";
    for (path, body, field) in [
        (exec, json!({}), "command"),
        (exec, json!({"command": null}), "command"),
        (exec, json!({"command": 5}), "command"),
        (exec, json!({"command": []}), "command"),
        (exec, json!({"command": [1]}), "command"),
        (exec, json!({"command": ""}), "command"),
        (exec, json!({"command": "a\u{0}"}), "command"),
        (exec, json!({"command": "x".repeat(200_000)}), "command"),
        (exec, json!({"command": "a", "env": {"A": 1}}), "env"),
        (exec, json!({"command": "a", "env": {"A=": "1"}}), "env"),
        (exec, json!({"command": "a", "env": "A=hunter2"}), "env"),
        (exec, json!({"command": "a", "workdir": "rel"}), "workdir"),
        (exec, json!({"command": "a", "user": "nobody"}), "user"),
        (
            exec,
            json!({"command": "a", "stdin": {"base64": "*"}}),
            "stdin",
        ),
        (
            exec,
            json!({"command": "a", "stdin": "x".repeat(300_000)}),
            "stdin",
        ),
        (
            exec,
            json!({"command": "a", "timeout_seconds": 0}),
            "timeout_seconds",
        ),
        (
            exec,
            json!({"command": "a", "timeout_seconds": 86401}),
            "timeout_seconds",
        ),
        (
            exec,
            json!({"command": "a", "timeout_seconds": "5"}),
            "timeout_seconds",
        ),
        (
            exec,
            json!({"command": "a", "timeout_seconds": -1}),
            "timeout_seconds",
        ),
        (exec, json!({"command": "a", "labels": {"": "x"}}), "labels"),
        (
            exec,
            json!({"command": "a", "labels": {"a=b": "x"}}),
            "labels",
        ),
        (
            exec,
            json!({"command": "a", "callback_url": "http://x"}),
            "callback_url",
        ),
        (create, json!({"id": "-a"}), "id"),
        (create, json!({"id": ""}), "id"),
        (create, json!({"image": ""}), "image"),
        (
            create,
            json!({"resources": {"cpu": "1000"}}),
            "resources.cpu",
        ),
        (create, json!({"resources": {"cpu": 0}}), "resources.cpu"),
        (
            create,
            json!({"resources": {"memory": "1"}}),
            "resources.memory",
        ),
        (
            create,
            json!({"resources": {"storage": "9Pi"}}),
            "resources.storage",
        ),
        (
            create,
            json!({"resources": {"storage": [1]}}),
            "resources.storage",
        ),
        (create, json!({"resources": {"gpu": 1}}), "resources.gpu"),
        (
            create,
            json!({"network": {"egress": "internet"}}),
            "network.egress",
        ),
        (
            create,
            json!({"network": {"egress": "moon"}}),
            "network.egress",
        ),
        (create, json!({"ttl_seconds": 0}), "ttl_seconds"),
        (
            create,
            json!({"idle_timeout_seconds": u64::MAX}),
            "idle_timeout_seconds",
        ),
        (create, json!([]), ""),
    ] {
        let answer = world.post(path, body.clone()).await.expect(422);
        assert!(!String::from_utf8_lossy(&answer.body).contains("hunter2"));
        let problem = answer.json();
        assert_eq!(problem["errors"][0]["field"], field, "{body}: {problem}");
        assert!(
            problem["errors"][0]["message"]
                .as_str()
                .is_some_and(|m| !m.is_empty())
        );
    }
    // All that is wrong is said at once.
    let both = world
        .post(create, json!({"id": "-", "ttl_seconds": 0}))
        .await
        .expect(422)
        .json();
    assert_eq!(both["errors"].as_array().map(Vec::len), Some(2));
}

#[tokio::test]
async fn the_callers_request_id_comes_back() {
    let world = World::idle().await;
    let request = world
        .bare(Method::GET, "/health")
        .header("X-Request-Id", "mine-1");
    assert_eq!(
        world.send(request).await.expect(200).header("x-request-id"),
        "mine-1"
    );
    let request = world
        .bare(Method::GET, "/health")
        .header("X-Request-Id", "no spaces");
    let made = world.send(request).await.expect(200);
    assert_eq!(made.header("x-request-id").len(), 32);
}

#[tokio::test]
async fn a_panic_tells_nothing() {
    let check = ReadyCheck {
        name: "panics",
        check: Arc::new(|| async { panic!("hunter2") }.boxed()),
    };
    let world = World::with(Settings::default(), vec![check], false).await;
    let answer = world.get("/ready").await.expect(500);
    assert!(!String::from_utf8_lossy(&answer.body).contains("hunter2"));
    assert_eq!(answer.json()["code"], "internal");
    assert_eq!(answer.header("content-type"), "application/problem+json");
}

#[tokio::test]
async fn who_sent_a_body_that_nobody_read_is_told_that_the_connection_closes() {
    let world = World::new().await;
    world.environment("e").await;
    let exec = "/v1/environments/e/exec";
    let body = format!("{{\"command\":\"{}\"}}", "x".repeat(10_000));
    let post = |path: &str, body: &str| world.request(Method::POST, path).body(body.to_owned());
    let stranger = world.bare(Method::POST, exec).body(body.clone());
    for (request, status, closes) in [
        (stranger, 401, true),
        (post("/nowhere", &body), 404, true),
        (post(exec, "{"), 400, false),
        (post(exec, &body), 202, false),
        (world.bare(Method::POST, exec), 401, false),
        (world.request(Method::GET, "/nowhere"), 404, false),
    ] {
        let answer = request.send().await.expect("an answer");
        assert_eq!(answer.status(), status);
        let told = answer.headers().get("connection");
        assert_eq!(told.is_some_and(|told| told == "close"), closes, "{status}");
    }
}
