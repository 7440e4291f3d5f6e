//! Output as server-sent events.

use futures::StreamExt as _;
use reqwest::Method;
use serde_json::{Value, json};
use shared::clock::{Clock as _, SystemClock};
use shared::ports::Cutoffs;

use crate::world::{World, key_of};

/// One event: its name, its id, its data.
type Event = (String, String, Value);

/// Reads events until one is enough or the stream ends.
async fn events(
    world: &World,
    path: &str,
    last: Option<&str>,
    enough: impl Fn(&Event) -> bool,
) -> Vec<Event> {
    let mut request = world.request(Method::GET, path);
    if let Some(last) = last {
        request = request.header("Last-Event-ID", last);
    }
    let response = request.send().await.expect("a response");
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    assert_eq!(response.headers()["cache-control"], "no-store");
    let (mut bytes, mut unread, mut found) = (response.bytes_stream(), Vec::new(), Vec::new());
    while let Some(piece) = bytes.next().await {
        // What comes at once may end within a character.
        unread.extend_from_slice(&piece.expect("no break"));
        while let Some(end) = unread.windows(2).position(|two| two == b"\n\n") {
            let block = String::from_utf8(unread.drain(..end + 2).collect()).expect("text");
            found.extend(parse(block.trim_end()));
            if found.last().is_some_and(&enough) {
                return found;
            }
        }
    }
    assert_eq!(unread, b"", "an event that is not whole");
    found
}

fn parse(block: &str) -> Option<Event> {
    if block == ": ping" {
        return None;
    }
    let field = |name: &str| {
        let mut lines = block.lines().filter_map(|line| line.strip_prefix(name));
        let value = lines.next().expect("a field").to_owned();
        assert_eq!(lines.next(), None, "one line of {name}");
        value
    };
    let data = serde_json::from_str(&field("data: ")).expect("JSON");
    Some((field("event: "), field("id: "), data))
}

fn of<'a>(events: &'a [Event], name: &'a str) -> impl Iterator<Item = &'a Event> {
    events.iter().filter(move |event| event.0 == name)
}

#[tokio::test]
async fn every_byte_comes_once_and_the_end_is_said() {
    let world = World::new().await;
    world.environment("e").await;
    let script = "for i in $(seq 60000); do printf 'zeile %s ä\\n' $i; done; echo err >&2; exit 3";
    let job = world.exec("e", script).await;
    let path = format!(
        "/v1/jobs/{}/output/stream",
        job["id"].as_str().expect("an id")
    );
    let all = events(&world, &path, None, |_| false).await;
    let mut stdout = String::new();
    for (_, id, data) in of(&all, "stdout") {
        assert_eq!(data["offset"], stdout.len());
        assert!(data.get("encoding").is_none());
        stdout += data["data"].as_str().expect("text");
        assert_eq!(
            id.split('-').next(),
            Some(stdout.len().to_string().as_str())
        );
    }
    let expected: String = (1..=60_000).map(|i| format!("zeile {i} ä\n")).collect();
    assert!(stdout == expected, "{} of {}", stdout.len(), expected.len());
    let stderr: Vec<_> = of(&all, "stderr")
        .map(|event| event.2["data"].clone())
        .collect();
    assert_eq!(stderr, [json!("err\n")]);
    let (name, id, end) = all.last().expect("an end");
    assert_eq!((name.as_str(), id), ("end", &format!("{}-4", stdout.len())));
    assert_eq!(
        (&end["state"], &end["result"]["exit_code"]),
        (&json!("failed"), &json!(3))
    );
    assert_eq!(of(&all, "end").count(), 1);

    // From every event on the rest is the same again.
    for (at, event) in all.iter().enumerate().step_by(3) {
        let rest = events(&world, &path, Some(&event.1), |_| false).await;
        assert_eq!(rest.last(), all.last());
        let from = of(&all[..=at], "stdout")
            .map(|e| e.2["data"].as_str().expect("text").len())
            .sum::<usize>();
        let text: String = of(&rest, "stdout")
            .map(|e| e.2["data"].as_str().expect("text"))
            .collect();
        assert!(text == expected[from..], "after {}", event.1);
    }
    // An id counts before offsets, which do as well.
    let offsets = format!("{path}?stdout_offset={}&stderr_offset=4", stdout.len());
    assert_eq!(events(&world, &offsets, None, |_| false).await.len(), 1);
    let both = events(&world, &offsets, Some("0-4"), |_| false).await;
    assert!(both.len() > 1);
}

#[tokio::test]
async fn bytes_that_are_no_text_are_base64_one_by_one() {
    let world = World::new().await;
    world.environment("e").await;
    let job = world
        .exec("e", "printf 'a\\000\\377b'; echo fine >&2")
        .await;
    let path = format!(
        "/v1/jobs/{}/output/stream",
        job["id"].as_str().expect("an id")
    );
    let all = events(&world, &path, None, |_| false).await;
    let stdout = of(&all, "stdout").next().expect("output");
    assert_eq!(
        stdout.2,
        json!({"offset": 0, "data": "YQD/Yg==", "encoding": "base64"})
    );
    let stderr = of(&all, "stderr").next().expect("output");
    assert_eq!(stderr.2, json!({"offset": 0, "data": "fine\n"}));
}

#[tokio::test]
async fn output_comes_while_the_command_runs() {
    let world = World::new().await;
    world.environment("e").await;
    let body = json!({"command": "#print-then-hang now"});
    let job = world
        .post("/v1/environments/e/exec", body)
        .await
        .expect(202)
        .json();
    let id = job["id"].as_str().expect("an id");
    let path = format!("/v1/jobs/{id}/output/stream");
    let begun = events(&world, &path, None, |event| event.0 == "stdout").await;
    assert_eq!(
        begun.last().map(|event| &event.2["data"]),
        Some(&json!("now"))
    );
    let following = events(&world, &path, Some("3-0"), |_| false);
    let cancel = format!("/v1/jobs/{id}/cancel");
    let (rest, _) = tokio::join!(following, world.post(&cancel, json!({})));
    assert_eq!(rest.len(), 1);
    assert_eq!(
        (rest[0].0.as_str(), &rest[0].2["state"]),
        ("end", &json!("cancelled"))
    );
}

#[tokio::test]
async fn a_stream_without_an_end_is_what_a_stopping_service_leaves() {
    let world = World::new().await;
    world.environment("e").await;
    let body = json!({"command": "#print-then-hang now"});
    let job = world
        .post("/v1/environments/e/exec", body)
        .await
        .expect(202)
        .json();
    let path = format!(
        "/v1/jobs/{}/output/stream",
        job["id"].as_str().expect("an id")
    );
    let soft = world.soft.clone();
    let all = events(&world, &path, None, |event| {
        if event.0 == "stdout" {
            soft.cancel();
        }
        false
    })
    .await;
    assert_eq!(of(&all, "end").count(), 0);
    world
        .served
        .await
        .expect("no panic")
        .expect("it ends in order");
}

#[tokio::test]
async fn what_cannot_be_followed_is_refused() {
    let world = World::idle().await;
    let job = world.post("/v1/environments", json!({})).await.json();
    let path = format!(
        "/v1/jobs/{}/output/stream",
        job["id"].as_str().expect("an id")
    );
    for bad in ["", "x", "1", "1-", "-1-0", "1-99999999999999999999"] {
        let request = world
            .request(Method::GET, &path)
            .header("Last-Event-ID", bad);
        let refused = world.send(request).await.expect(422).json();
        assert_eq!(refused["errors"][0]["field"], "Last-Event-ID", "{bad}");
    }
    let refused = world
        .get(&format!("{path}?limit=1"))
        .await
        .expect(422)
        .json();
    assert_eq!(refused["errors"][0]["field"], "limit");
    world
        .get("/v1/jobs/01920000-0000-7000-8000-000000000000/output/stream")
        .await
        .expect(404);
}

/// Output that nobody reads, more than is sent ahead.
const MUCH: &str = "head -c 8388608 /dev/zero | tr '\\0' x";

#[tokio::test]
async fn a_stream_breaks_off_when_its_key_is_revoked() {
    let world = World::new().await;
    world.environment("e").await;
    let body = json!({"command": "#print-then-hang now"});
    let running = world.post("/v1/environments/e/exec", body).await;
    let running = running.expect(202).json();
    let ended = world.exec("e", MUCH).await;
    let key = key_of("default", "a-key-for-a-while");
    let store = &world.backends.store;
    store.put_key(key.clone()).await.expect("accepted");
    let opened = async |path: &str| loop {
        let request = world.bare(Method::GET, path);
        let response = request.bearer_auth("a-key-for-a-while").send().await;
        let response = response.expect("a response");
        // What was read of the keys is used for a moment.
        if response.status() != 401 {
            assert_eq!(response.status(), 200);
            return response.bytes_stream();
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    };
    // One that waits for output, and one that does not take what there is.
    let mut followed = Vec::new();
    for job in [&running, &ended] {
        let id = job["id"].as_str().expect("an id");
        let mut bytes = opened(&format!("/v1/jobs/{id}/output/stream")).await;
        bytes.next().await.expect("a piece").expect("whole");
        followed.push(bytes);
    }
    let revoked = store.remove_key(&key.tenant, &key.name).await;
    assert!(revoked.expect("works"));
    for mut bytes in followed {
        let last = loop {
            match bytes.next().await {
                Some(Ok(piece)) => assert!(!contains(&piece, b"event: end")),
                other => break other,
            }
        };
        assert!(last.is_some_and(|piece| piece.is_err()), "it is cut off");
    }
    // Whose key is still accepted reads on.
    let id = running["id"].as_str().expect("an id");
    let path = format!("/v1/jobs/{id}/output/stream");
    let following = events(&world, &path, None, |_| false);
    let cancel = format!("/v1/jobs/{id}/cancel");
    let (rest, _) = tokio::join!(following, world.post(&cancel, json!({})));
    assert_eq!(of(&rest, "end").count(), 1);
}

#[tokio::test]
async fn a_stream_breaks_off_when_its_job_is_removed() {
    let world = World::new().await;
    world.environment("e").await;
    let job = world.exec("e", MUCH).await;
    let id = job["id"].as_str().expect("an id");
    let request = world.request(Method::GET, &format!("/v1/jobs/{id}/output/stream"));
    let mut bytes = request.send().await.expect("a response").bytes_stream();
    bytes.next().await.expect("a piece").expect("whole");
    let now = SystemClock.now();
    let all = Cutoffs {
        jobs_before: now,
        reads_before: now,
        keys_before: now,
    };
    let removed = world.backends.store.prune(all, 10).await.expect("works");
    assert!(removed.iter().any(|at| at.job.to_string() == id));
    let last = loop {
        match bytes.next().await {
            Some(Ok(piece)) => {
                assert!(!contains(&piece, b"event: end"));
                assert!(!contains(&piece, b": ping"));
            }
            other => break other,
        }
    };
    assert!(last.is_some_and(|piece| piece.is_err()), "it is cut off");
}

fn contains(piece: &[u8], part: &[u8]) -> bool {
    piece.windows(part.len()).any(|window| window == part)
}
