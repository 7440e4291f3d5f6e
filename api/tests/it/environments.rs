//! Environments through their lives.

use reqwest::Method;
use serde_json::json;

use crate::world::{OTHER_KEY, World};

#[tokio::test]
async fn an_environment_lives_and_goes() {
    let world = World::new().await;
    let body = json!({
        "id": "A.b_c-", "env": {"TOKEN": "hunter2"}, "labels": {"team": "x"},
        "resources": {"cpu": 0.5, "memory": "512Mi"}, "workdir": "/app/src", "ttl_seconds": 3600,
    });
    let created = world
        .post_wait("/v1/environments", body.clone())
        .await
        .expect(200);
    assert_eq!(created.header("preference-applied"), "wait=60");
    let job = created.json();
    assert_eq!(
        (&job["kind"], &job["state"]),
        (&json!("create"), &json!("succeeded"))
    );

    let found = world.get("/v1/environments/A.b_c-").await.expect(200);
    assert!(!String::from_utf8_lossy(&found.body).contains("hunter2"));
    let found = found.json();
    assert_eq!(found["id"], "A.b_c-");
    assert_eq!(found["spec"]["env"], json!(["TOKEN"]));
    assert_eq!(found["spec"]["image"], "host");
    assert_eq!(found["spec"]["resources"]["cpu"], "500m");
    assert_eq!(found["spec"]["resources"]["memory"], "512Mi");
    assert_eq!(found["spec"]["network"]["egress"], "none");
    assert_eq!(found["status"]["phase"], "running");
    assert_eq!(found["created_by"], job["id"]);

    // Again with the same spec it is the same job, with another a conflict.
    let again = world.post("/v1/environments", body).await.expect(200);
    assert_eq!(again.json()["id"], job["id"]);
    let other = world
        .post("/v1/environments", json!({"id": "A.b_c-"}))
        .await
        .expect(409);
    assert_eq!(other.json()["code"], "environment_exists");

    let path = "/v1/environments/A.b_c-";
    for (verb, phase) in [("stop", "stopped"), ("start", "running")] {
        let done = world
            .post_wait(&format!("{path}/{verb}"), json!({}))
            .await
            .expect(200);
        assert_eq!(done.json()["state"], "succeeded");
        assert_eq!(world.get(path).await.json()["status"]["phase"], phase);
    }
    let refused = world
        .post(&format!("{path}/start"), json!({}))
        .await
        .expect(409);
    assert_eq!(refused.json()["code"], "environment_running");

    let delete = world
        .request(Method::DELETE, path)
        .header("Prefer", "wait=60");
    world.send(delete).await.expect(200);
    assert_eq!(
        world.get(path).await.expect(200).json()["status"]["phase"],
        "deleted"
    );
    let gone = world
        .post(&format!("{path}/exec"), json!({"command": "true"}))
        .await
        .expect(410);
    assert_eq!(gone.json()["code"], "environment_deleted");
    let listed = world.get("/v1/environments").await.json();
    assert_eq!(listed, json!({"environments": [], "next_page_token": ""}));
}

#[tokio::test]
async fn a_stopped_environment_runs_nothing() {
    let world = World::new().await;
    world.environment("e").await;
    world
        .post_wait("/v1/environments/e/stop", json!({}))
        .await
        .expect(200);
    let refused = world
        .post("/v1/environments/e/exec", json!({"command": "true"}))
        .await
        .expect(409);
    assert_eq!(refused.json()["code"], "environment_stopped");
}

#[tokio::test]
async fn an_environment_without_a_name_gets_one() {
    let world = World::new().await;
    let job = world
        .post_wait("/v1/environments", json!({}))
        .await
        .expect(200)
        .json();
    let id = job["environment"].as_str().expect("a name");
    assert!(id.starts_with("env-") && id.len() == 14, "{id}");
    // Stop and start take no body at all, too.
    let stop = world.request(Method::POST, &format!("/v1/environments/{id}/stop"));
    world
        .send(stop.header("Prefer", "wait=60"))
        .await
        .expect(200);
}

#[tokio::test]
async fn lists_are_paged_and_filtered() {
    let world = World::idle().await;
    for index in 0..5 {
        let labels = json!({"parity": if index % 2 == 0 { "even" } else { "odd" }});
        let body = json!({"id": format!("e{index}"), "labels": labels});
        world.post("/v1/environments", body).await.expect(202);
    }
    let ids = |page: &serde_json::Value| -> Vec<String> {
        let items = page["environments"].as_array().expect("items").iter();
        items
            .map(|item| item["id"].as_str().expect("an id").to_owned())
            .collect()
    };
    let (mut all, mut token) = (Vec::new(), String::new());
    loop {
        let path = format!("/v1/environments?page_size=2&page_token={token}");
        let page = world.get(&path).await.expect(200).json();
        all.extend(ids(&page));
        token = page["next_page_token"]
            .as_str()
            .expect("a token")
            .to_owned();
        if token.is_empty() {
            break;
        }
    }
    assert_eq!(all, ["e0", "e1", "e2", "e3", "e4"]);
    let odd = world
        .get("/v1/environments?label=parity=odd")
        .await
        .expect(200)
        .json();
    assert_eq!(ids(&odd), ["e1", "e3"]);
    let pending = world
        .get("/v1/environments?phase=pending")
        .await
        .expect(200)
        .json();
    assert_eq!(ids(&pending).len(), 5);
    let none = world
        .get("/v1/environments?phase=running")
        .await
        .expect(200)
        .json();
    assert_eq!(ids(&none), Vec::<String>::new());
    world
        .get("/v1/environments?phase=running&label=a=b")
        .await
        .expect(422);
    world.get("/v1/environments?phase=asleep").await.expect(422);
    let bad = world
        .get("/v1/environments?page_token=nonsense")
        .await
        .expect(422);
    assert_eq!(bad.json()["errors"][0]["field"], "page_token");
}

#[tokio::test]
async fn tenants_do_not_see_each_other() {
    let world = World::new().await;
    world.environment("e").await;
    let job = world.exec("e", "true").await;
    let job = job["id"].as_str().expect("an id");
    for path in [
        "/v1/environments/e".to_owned(),
        format!("/v1/jobs/{job}"),
        format!("/v1/jobs/{job}/output"),
    ] {
        let request = world.bare(Method::GET, &path).bearer_auth(OTHER_KEY);
        world.send(request).await.expect(404);
    }
    let request = world
        .bare(Method::POST, &format!("/v1/jobs/{job}/cancel"))
        .bearer_auth(OTHER_KEY);
    world.send(request).await.expect(404);
}

#[tokio::test]
async fn labels_and_times_are_changed() {
    let world = World::idle().await;
    let body = json!({"id": "e", "labels": {"a": "1", "b": "2"}, "ttl_seconds": 60});
    world.post("/v1/environments", body).await.expect(202);
    let patch = async |body: serde_json::Value| {
        let request = world.request(Method::PATCH, "/v1/environments/e");
        world.send(request.json(&body)).await
    };
    let changed = patch(json!({"labels": {"a": null, "c": "3"}, "idle_timeout_seconds": 5})).await;
    let spec = changed.expect(200).json()["spec"].clone();
    assert_eq!(spec["labels"], json!({"b": "2", "c": "3"}));
    assert_eq!(
        (&spec["ttl_seconds"], &spec["idle_timeout_seconds"]),
        (&json!(60), &json!(5))
    );
    let spec = patch(json!({"ttl_seconds": null})).await.expect(200).json()["spec"].clone();
    assert_eq!(
        (&spec["ttl_seconds"], &spec["idle_timeout_seconds"]),
        (&json!(null), &json!(5))
    );
    let same = patch(json!({})).await.expect(200).json();
    assert_eq!(same["spec"], spec);
    assert_eq!(world.get("/v1/environments/e").await.json()["spec"], spec);
    for (body, field) in [
        (json!({"ttl_seconds": 0}), "ttl_seconds"),
        (json!({"idle_timeout_seconds": -1}), "idle_timeout_seconds"),
        (json!({"labels": {"": "x"}}), "labels"),
        (json!({"labels": {"a": 1}}), "labels.a"),
        (json!({"labels": {"a=b": "x"}}), "labels"),
        (json!({"image": "host"}), "image"),
    ] {
        let refused = patch(body.clone()).await.expect(422).json();
        assert_eq!(refused["errors"][0]["field"], field, "{body}");
    }
    let many: serde_json::Map<_, _> = (0..64).map(|i| (format!("l{i}"), json!("x"))).collect();
    let refused = patch(json!({"labels": many})).await.expect(422).json();
    assert_eq!(refused["errors"][0]["field"], "labels");
    let none = world.request(Method::PATCH, "/v1/environments/none");
    world.send(none.json(&json!({}))).await.expect(404);
    let delete = world.request(Method::DELETE, "/v1/environments/e");
    world.send(delete).await.expect(202);
    let gone = patch(json!({})).await.expect(410).json();
    assert_eq!(gone["code"], "environment_deleting");
}

#[tokio::test]
async fn jobs_are_found_by_their_labels() {
    let world = World::idle().await;
    for (environment, run) in [("e", "1"), ("e", "2"), ("f", "1")] {
        world
            .post("/v1/environments", json!({"id": environment}))
            .await;
        let body = json!({"command": "true", "labels": {"run": run, "odd/name": "x=y"}});
        let path = format!("/v1/environments/{environment}/exec");
        world.post(&path, body).await.expect(202);
    }
    for (query, count) in [
        ("label=run=1", 2),
        ("label=run=1&environment=e", 1),
        ("label=run=3", 0),
        ("label=run=", 0),
        ("label=odd/name=x=y", 3),
        ("kind=exec&environment=e", 2),
    ] {
        let page = world
            .get(&format!("/v1/jobs?{query}"))
            .await
            .expect(200)
            .json();
        assert_eq!(
            page["jobs"].as_array().map(Vec::len),
            Some(count),
            "{query}"
        );
    }
    for (query, field) in [
        ("label=run", "label"),
        ("label==x", "label"),
        ("label=run=1&kind=exec", "label"),
        ("label=run=1&state=queued", "label"),
        ("kind=exec&state=queued", "state"),
    ] {
        let refused = world
            .get(&format!("/v1/jobs?{query}"))
            .await
            .expect(422)
            .json();
        assert_eq!(refused["errors"][0]["field"], field, "{query}");
    }
}
