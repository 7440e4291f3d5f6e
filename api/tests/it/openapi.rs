//! The document and the routes are the same.

use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};
use shared::config::Settings;

use crate::world::World;

const ROUTER: &str = include_str!("../../src/router.rs");

fn document() -> Value {
    serde_json::to_value(api::openapi()).expect("serialises")
}

fn operations(document: &Value) -> Vec<(String, String)> {
    let paths = document["paths"].as_object().expect("paths");
    paths
        .iter()
        .flat_map(|(path, item)| {
            let methods = item.as_object().expect("an item").keys();
            methods.map(|method| (method.to_uppercase(), path.clone()))
        })
        .collect()
}

#[test]
fn the_document_is_the_one_that_was_agreed_on() {
    let mut document = document();
    document["info"]["version"] = json!("(the program's)");
    insta::assert_json_snapshot!("openapi", document);
}

#[test]
fn every_documented_path_stands_in_the_router_and_the_other_way_round() {
    let document = document();
    let mut written: Vec<&str> = ROUTER
        .lines()
        .filter(|line| line.contains("routes!("))
        .map(|line| line.rsplit("// ").next().expect("a comment").trim())
        .collect();
    written.sort_unstable();
    let mut documented: Vec<&str> = document["paths"]
        .as_object()
        .expect("paths")
        .keys()
        .map(String::as_str)
        .collect();
    documented.sort_unstable();
    assert_eq!(written, documented);
}

#[test]
fn it_is_openapi_3_1_with_a_key() {
    let document = document();
    assert!(
        document["openapi"]
            .as_str()
            .is_some_and(|version| version.starts_with("3.1."))
    );
    assert_eq!(
        document["components"]["securitySchemes"]["key"]["scheme"],
        "bearer"
    );
    assert_eq!(document["security"], json!([{"key": []}]));
    for (method, path) in operations(&document) {
        let operation = &document["paths"][&path][method.to_lowercase()];
        assert!(
            operation["responses"].get("200").is_some()
                || operation["responses"].get("202").is_some(),
            "{path}"
        );
        assert!(operation["summary"].is_string(), "{method} {path}");
    }
    // Every schema that is named is there.
    let text = document.to_string();
    for name in text
        .split("#/components/schemas/")
        .skip(1)
        .filter_map(|rest| rest.split('"').next())
    {
        assert!(
            document["components"]["schemas"].get(name).is_some(),
            "{name}"
        );
    }
}

#[tokio::test]
async fn every_documented_operation_is_served() {
    let world = World::idle().await;
    let served = world
        .send(world.bare(reqwest::Method::GET, "/openapi.json"))
        .await
        .expect(200);
    assert_eq!(served.json(), document());
    for (method, path) in operations(&document()) {
        let concrete = path
            .replace("{env}", "none")
            .replace("/jobs/{id}", "/jobs/1")
            .replace("/artifacts/{id}", "/artifacts/1");
        let method: reqwest::Method = method.parse().expect("a method");
        let answer = world.send(world.request(method.clone(), &concrete)).await;
        assert_ne!(answer.status, 405, "{method} {path}");
        let text = String::from_utf8_lossy(&answer.body).into_owned();
        assert!(!text.contains("no such route"), "{method} {path}: {text}");
        assert!(answer.status.as_u16() < 500, "{method} {path}: {text}");
    }
}

/// Requests that are wrong in every way in which one to any route can be.
fn wrong_requests(world: &World, method: &Method, path: &str) -> Vec<RequestBuilder> {
    let named =
        |environment: &str, id: &str| path.replace("{env}", environment).replace("{id}", id);
    let good = named("e", "01920000-0000-7000-8000-000000000000");
    let request = |path: &str| world.request(method.clone(), path);
    let json = |body: &str| {
        let request = request(&good).header("Content-Type", "application/json");
        request.body(body.to_owned())
    };
    vec![
        request(&good),
        world.bare(method.clone(), &good),
        request(&named("none", "01920000-0000-7000-8000-000000000001")),
        request(&named("a%2Fb", "1")),
        request(&named("%FF", "%FF")),
        request(&format!("{good}?no_such_parameter=1")),
        request(&format!("{good}?path=%ZZ")),
        request(&good).header("Idempotency-Key", ""),
        request(&good)
            .header("Content-Type", "text/plain")
            .body("{}"),
        json("{"),
        json("{}"),
        json("[]"),
        json("5"),
        json(r#"{"no_such_field": 1}"#),
        json(&format!("{{\"x\":\"{}\"}}", "x".repeat(10_000))),
    ]
}

#[tokio::test]
async fn whatever_a_wrong_request_is_answered_stands_in_the_document() {
    let mut settings = Settings::default();
    settings.server.max_body_bytes = 10_000;
    settings.server.sync_wait_seconds = 0;
    settings.server.create_wait_seconds = 0;
    let world = World::with(settings, Vec::new(), false).await;
    let document = document();
    let (mut wrong, mut seen) = (Vec::new(), 0);
    for (method, path) in operations(&document) {
        let responses = &document["paths"][&path][method.to_lowercase()]["responses"];
        let verb: Method = method.parse().expect("a method");
        let mut answered = std::collections::BTreeSet::new();
        for request in wrong_requests(&world, &verb, &path) {
            answered.insert(world.send(request).await.status.as_u16());
            seen += 1;
        }
        for status in &answered {
            if responses.get(status.to_string()).is_none() {
                wrong.push(format!("{method} {path} answers {status}"));
            }
        }
        // And none is promised that never comes.
        for status in [413, 415, 422] {
            let is_documented = responses.get(status.to_string()).is_some();
            if is_documented && !answered.contains(&status) {
                wrong.push(format!("{method} {path} never answers {status}"));
            }
        }
    }
    assert!(seen > 500, "{seen}");
    assert_eq!(wrong, [""; 0], "{wrong:#?}");
}
