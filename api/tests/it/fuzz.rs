//! Whatever is sent, the answer is no 500 and no panic.

use axum::Router;
use axum::body::Body;
use axum::http::{Method, Request, StatusCode};
use proptest::prelude::*;
use serde_json::{Value, json};
use shared::config::Settings;
use tower::ServiceExt as _;

use crate::world::{Backends, KEY};

const POSTS: [&str; 13] = [
    "/v1/environments",
    "/v1/environments/e/exec",
    "/v1/environments/e/stop",
    "/v1/environments/e/start",
    "/v1/environments/e/artifacts",
    "/v1/jobs/01920000-0000-7000-8000-000000000000/cancel",
    "/create_environment",
    "/delete_environment",
    "/exec_in_environment",
    "/upload_to_environment",
    "/download_from_environment",
    "/list_files_in_environment",
    "/upload_to_cloud_and_index",
];

/// Field names that some route knows, so that arbitrary bodies come far.
const FIELDS: [&str; 28] = [
    "id",
    "image",
    "env",
    "labels",
    "resources",
    "cpu",
    "memory",
    "storage",
    "network",
    "egress",
    "ttl_seconds",
    "idle_timeout_seconds",
    "workdir",
    "command",
    "user",
    "stdin",
    "base64",
    "timeout_seconds",
    "signal",
    "grace_seconds",
    "path",
    "bucket",
    "destination",
    "metadata",
    "environment_id",
    "base_image",
    "content",
    "encoding",
];

fn any_json() -> impl Strategy<Value = Value> {
    let text = prop_oneof![
        "\\PC{0,12}",
        Just("e".to_owned()),
        Just("/app".to_owned()),
        Just("base64".to_owned()),
        Just("512Mi".to_owned()),
        Just("a\0b".to_owned()),
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        text.prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 24, 6, |inner| {
        let name = prop_oneof![4 => prop::sample::select(&FIELDS[..]).prop_map(str::to_owned), 1 => "\\PC{0,6}"];
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(name, inner, 0..8).prop_map(|map| json!(map)),
        ]
    })
}

/// A service that never waits, and whose jobs nobody takes.
struct Still {
    runtime: tokio::runtime::Runtime,
    router: Router,
    _backends: Backends,
}

impl Still {
    fn new() -> Self {
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        let backends = runtime.block_on(Backends::new());
        let mut settings = Settings::default();
        settings.server.sync_wait_seconds = 0;
        settings.server.create_wait_seconds = 0;
        let router = runtime.block_on(async { backends.router(settings) });
        let still = Self {
            runtime,
            router,
            _backends: backends,
        };
        let made = still.send(Method::POST, "/v1/environments", br#"{"id":"e"}"#.to_vec());
        assert_eq!(made, StatusCode::ACCEPTED);
        still
    }

    fn send(&self, method: Method, uri: &str, body: Vec<u8>) -> StatusCode {
        let request = Request::builder()
            .method(method)
            .uri(uri)
            .header("Authorization", format!("Bearer {KEY}"))
            .header("Prefer", "wait=0")
            .body(Body::from(body));
        let Ok(request) = request else {
            return StatusCode::BAD_REQUEST;
        };
        let answer = self.runtime.block_on(self.router.clone().oneshot(request));
        answer.expect("an answer").status()
    }
}

/// What a wrong request may be answered with. 504 is an original endpoint that does not wait.
fn fine(status: StatusCode) -> bool {
    !status.is_server_error() || status == StatusCode::GATEWAY_TIMEOUT
}

#[test]
fn any_json_body_is_answered() {
    let still = Still::new();
    proptest!(|(path in prop::sample::select(&POSTS[..]), body in any_json())| {
        let status = still.send(Method::POST, path, body.to_string().into_bytes());
        prop_assert!(fine(status), "{} {} {}", status, path, body);
    });
}

#[test]
fn any_bytes_are_answered() {
    let still = Still::new();
    proptest!(|(path in prop::sample::select(&POSTS[..]), body: Vec<u8>)| {
        prop_assert!(fine(still.send(Method::POST, path, body)));
    });
}

#[test]
fn any_query_is_answered() {
    let still = Still::new();
    let job = "/v1/jobs/01920000-0000-7000-8000-000000000000/output";
    let paths = [
        "/v1/environments",
        "/v1/jobs",
        "/v1/artifacts",
        job,
        "/v1/environments/e/files",
    ];
    let names = [
        "page_token",
        "page_size",
        "phase",
        "label",
        "kind",
        "state",
        "path",
        "depth",
        "stdout_offset",
        "limit",
    ];
    proptest!(|(
        path in prop::sample::select(paths.to_vec()),
        pairs in prop::collection::vec((prop::sample::select(names.to_vec()), prop_oneof!["[!-~]{0,20}", "[A-Za-z0-9_-]{0,60}", "[0-9]{1,22}"]), 0..3),
    )| {
        let query: Vec<String> = pairs.iter().map(|(name, value)| format!("{name}={}", value.replace('#', "%23"))).collect();
        let status = still.send(Method::GET, &format!("{path}?{}", query.join("&")), Vec::new());
        prop_assert!(fine(status), "{} {:?}", status, query);
    });
}

#[test]
fn any_path_of_a_file_is_taken() {
    let still = Still::new();
    proptest!(|(path in prop::collection::vec(1u8..=255, 1..200))| {
        let encoded: String = path.iter().map(|byte| format!("%{byte:02x}")).collect();
        let content = format!("/v1/environments/e/files/content?path={encoded}");
        prop_assert_eq!(still.send(Method::GET, &content, Vec::new()), StatusCode::ACCEPTED);
        prop_assert_eq!(still.send(Method::PUT, &content, path), StatusCode::ACCEPTED);
        let files = format!("/v1/environments/e/files?path={encoded}");
        prop_assert_eq!(still.send(Method::DELETE, &files, Vec::new()), StatusCode::ACCEPTED);
    });
}

#[test]
fn any_id_is_found_or_refused() {
    let still = Still::new();
    proptest!(|(id in "[!-~]{1,70}")| {
        let id = id.replace(['/', '?', '#', '%'], "_");
        for path in [format!("/v1/environments/{id}"), format!("/v1/jobs/{id}"), format!("/v1/artifacts/{id}")] {
            let status = still.send(Method::GET, &path, Vec::new());
            prop_assert!(status.is_client_error() || id == "e", "{} {}", status, path);
        }
    });
}
