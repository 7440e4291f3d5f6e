//! The document and the routes are the same.

use serde_json::{Value, json};

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
