//! Output, window by window.

use reqwest::Method;
use serde_json::json;

use crate::world::World;

#[tokio::test]
async fn every_byte_is_read_by_offsets() {
    let world = World::new().await;
    world.environment("e").await;
    let job = world
        .exec(
            "e",
            "for i in $(seq 50000); do printf 'zeile %s ä\\n' $i; done; echo err >&2",
        )
        .await;
    let id = job["id"].as_str().expect("an id");
    let (mut stdout, mut stderr, mut out_at, mut err_at) = (String::new(), String::new(), 0, 0);
    loop {
        let path = format!(
            "/v1/jobs/{id}/output?stdout_offset={out_at}&stderr_offset={err_at}&limit=65537"
        );
        let window = world.get(&path).await.expect(200).json();
        assert_eq!(window["encoding"], "utf-8");
        assert_eq!(
            (&window["stdout_offset"], &window["truncated"]),
            (&json!(out_at), &json!(false))
        );
        stdout += window["stdout"].as_str().expect("a text");
        stderr += window["stderr"].as_str().expect("a text");
        out_at = window["next_stdout_offset"].as_u64().expect("an offset");
        err_at = window["next_stderr_offset"].as_u64().expect("an offset");
        if window["done"] == true {
            break;
        }
    }
    let expected: String = (1..=50_000).map(|i| format!("zeile {i} ä\n")).collect();
    assert!(
        stdout == expected,
        "{} bytes of {}",
        stdout.len(),
        expected.len()
    );
    assert_eq!(stderr, "err\n");
    // Behind the end there is nothing, and that is the end too.
    let beyond = world
        .get(&format!(
            "/v1/jobs/{id}/output?stdout_offset=99999999&stderr_offset=4"
        ))
        .await
        .json();
    assert_eq!(
        (&beyond["stdout"], &beyond["done"]),
        (&json!(""), &json!(true))
    );
}

#[tokio::test]
async fn bytes_that_are_no_text_come_as_base64() {
    let world = World::new().await;
    world.environment("e").await;
    let job = world.exec("e", "printf 'a\\000\\377b'").await;
    let id = job["id"].as_str().expect("an id");
    let window = world.get(&format!("/v1/jobs/{id}/output")).await.json();
    assert_eq!(
        (&window["encoding"], &window["stdout"]),
        (&json!("base64"), &json!("YQD/Yg=="))
    );
    assert_eq!(
        (&window["next_stdout_offset"], &window["done"]),
        (&json!(4), &json!(true))
    );
}

#[tokio::test]
async fn output_is_waited_for_while_the_command_runs() {
    let world = World::new().await;
    world.environment("e").await;
    let body = json!({"command": "#print-then-hang now"});
    let job = world
        .post("/v1/environments/e/exec", body)
        .await
        .expect(202)
        .json();
    let id = job["id"].as_str().expect("an id");
    let request = world
        .request(Method::GET, &format!("/v1/jobs/{id}/output"))
        .header("Prefer", "wait=60");
    let window = world.send(request).await.expect(200).json();
    assert_eq!(
        (&window["stdout"], &window["done"]),
        (&json!("now"), &json!(false))
    );

    let path = format!("/v1/jobs/{id}/output?stdout_offset=3");
    let waiting = world.send(
        world
            .request(Method::GET, &path)
            .header("Prefer", "wait=60"),
    );
    let cancel = format!("/v1/jobs/{id}/cancel");
    let (end, _) = tokio::join!(waiting, world.post(&cancel, json!({})));
    assert_eq!(end.expect(200).json()["done"], true);
}

#[tokio::test]
async fn offsets_that_cannot_be_are_refused() {
    let world = World::idle().await;
    let job = world.post("/v1/environments", json!({})).await.json();
    let id = job["id"].as_str().expect("an id");
    for query in [
        "stdout_offset=-1",
        "limit=0",
        "limit=4194305",
        "stderr_offset=x",
        "stdout_offset=99999999999999999999",
        "offset=1",
    ] {
        let refused = world
            .get(&format!("/v1/jobs/{id}/output?{query}"))
            .await
            .expect(422);
        let field = query.split('=').next().expect("a name");
        assert_eq!(refused.json()["errors"][0]["field"], field);
    }
    world
        .get("/v1/jobs/01920000-0000-7000-8000-000000000000/output")
        .await
        .expect(404);
}
