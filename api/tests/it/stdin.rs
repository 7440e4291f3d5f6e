//! Input to commands, as far as the API takes it.

use reqwest::Method;
use serde_json::{Value, json};
use shared::ids::{JobRef, TenantId};

use crate::world::{Answer, World};

/// A command that waits for a worker.
async fn waiting(world: &World, body: Value) -> String {
    world.post("/v1/environments", json!({"id": "e"})).await;
    let job = world
        .post("/v1/environments/e/exec", body)
        .await
        .expect(202)
        .json();
    job["id"].as_str().expect("an id").to_owned()
}

async fn write(world: &World, job: &str, query: &str, body: impl Into<reqwest::Body>) -> Answer {
    let request = world.request(Method::POST, &format!("/v1/jobs/{job}/stdin?{query}"));
    world
        .send(request.header("Prefer", "wait=0").body(body))
        .await
}

async fn kept(world: &World, job: &str) -> (u64, Vec<u8>, bool) {
    let at = JobRef {
        tenant: TenantId::default_tenant(),
        job: job.parse().expect("an id"),
    };
    let waiting = world
        .backends
        .store
        .stdin(&at, 0, 1 << 30)
        .await
        .expect("works");
    (waiting.start, waiting.data.to_vec(), waiting.closed)
}

#[tokio::test]
async fn offsets_make_a_call_repeatable() {
    let world = World::idle().await;
    let body = json!({"command": "cat", "stdin": "first ", "stdin_open": true});
    let job = waiting(&world, body).await;
    let next = |answer: Answer| {
        answer.expect(200).json()["next_offset"]
            .as_u64()
            .expect("a number")
    };
    // Offsets count from what came with the command.
    assert_eq!(next(write(&world, &job, "offset=6", "abc").await), 9);
    assert_eq!(next(write(&world, &job, "offset=6", "abc").await), 9);
    assert_eq!(next(write(&world, &job, "offset=8", "cde").await), 11);
    assert_eq!(next(write(&world, &job, "", "f").await), 12);
    let gap = write(&world, &job, "offset=13", "x")
        .await
        .expect(409)
        .json();
    assert_eq!(gap["code"], "stdin_gap");
    assert!(
        gap["detail"]
            .as_str()
            .is_some_and(|text| text.contains("12")),
        "{gap}"
    );
    assert_eq!(next(write(&world, &job, "eof=true", "").await), 12);
    assert_eq!(
        next(write(&world, &job, "offset=11&eof=true", "f").await),
        12
    );
    let closed = write(&world, &job, "", "g").await.expect(409).json();
    assert_eq!(closed["code"], "stdin_closed");
    assert_eq!(kept(&world, &job).await, (6, b"abcdef".to_vec(), true));
    let shown = world.get(&format!("/v1/jobs/{job}")).await.expect(200);
    assert!(!String::from_utf8_lossy(&shown.body).contains("abc"));
}

#[tokio::test]
async fn a_command_that_does_not_read_takes_only_so_much() {
    let world = World::idle().await;
    let job = waiting(&world, json!({"command": "cat", "stdin_open": true})).await;
    let refused = write(&world, &job, "offset=0", vec![7; 9 << 20])
        .await
        .expect(429);
    assert!(!refused.header("retry-after").is_empty());
    let refused = refused.json();
    assert_eq!(refused["code"], "stdin_full");
    let (start, data, _) = kept(&world, &job).await;
    // A piece is as large as it came, and is taken whole.
    let (most, piece) = (
        shared::stdin::BACKLOG_BYTES,
        shared::stdin::PIECE_BYTES as u64,
    );
    let kept = data.len() as u64;
    assert!(start == 0 && kept <= most && kept + piece > most, "{kept}");
    let detail = refused["detail"].as_str().expect("a text");
    assert!(
        detail.contains(&format!("next_offset: {}", data.len())),
        "{detail}"
    );
}

#[tokio::test]
async fn what_takes_no_input_says_so() {
    let world = World::idle().await;
    let job = waiting(&world, json!({"command": "cat"})).await;
    let refused = write(&world, &job, "", "x").await.expect(409).json();
    assert_eq!(refused["code"], "stdin_not_open");
    let open = waiting(&world, json!({"command": "cat", "stdin_open": true})).await;
    write(&world, &open, "", "secret").await.expect(200);
    world
        .post(&format!("/v1/jobs/{open}/cancel"), json!({}))
        .await
        .expect(200);
    let ended = write(&world, &open, "", "x").await.expect(409).json();
    assert_eq!(ended["code"], "job_ended");
    assert_eq!(kept(&world, &open).await.1, b"", "nothing outlives the job");
    write(&world, "01920000-0000-7000-8000-000000000000", "", "x")
        .await
        .expect(404);
    for query in ["offset=-1", "eof=1", "at=0"] {
        let refused = write(&world, &open, query, "x").await.expect(422).json();
        assert_eq!(
            refused["errors"][0]["field"],
            query.split('=').next().expect("a name")
        );
    }
    let create = world.get("/v1/jobs?kind=create").await.json()["jobs"][0]["id"].clone();
    let refused = write(&world, create.as_str().expect("an id"), "", "x")
        .await
        .expect(409);
    assert_eq!(refused.json()["code"], "stdin_not_open");
}
