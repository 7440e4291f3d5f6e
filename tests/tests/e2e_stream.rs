//! Output that is followed: over a kill of the service, and by a thousand readers of whom some never read.

use std::cell::Cell;

use futures::StreamExt as _;
use futures::future::join_all;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use reqwest::Method;
use serde_json::json;
use tests::program::{Client, Followed, Program, resident, wait_until};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

const MIB: u64 = 1 << 20;

/// Writes numbered lines to both streams for a while.
const SLOWLY: &str = "for i in $(seq 400); do echo line $i; echo err $i >&2; sleep 0.02; done";

#[tokio::test]
async fn a_reader_goes_on_where_it_was_after_kill_9() {
    let mut program = Program::start().await;
    let client = program.client();
    client.create("env").await;
    let job = client.submit("env", &json!({ "command": SLOWLY })).await;
    let mut followed = Followed::default();
    for bytes in [100, 500, 1000] {
        let client = program.client();
        let running = Cell::new(Some(&mut program));
        let kill = |followed: &Followed| {
            if followed.stdout.len() > bytes
                && let Some(program) = running.take()
            {
                program.kill9();
            }
            false
        };
        // The connection is cut in the middle of an event or between two: either is no loss.
        assert!(client.follow(&job, &mut followed, kill).await.is_err());
        assert!(followed.end.is_none());
        program.restart().await;
    }
    let client = program.client();
    while followed.end.is_none() {
        let reading = client.follow(&job, &mut followed, |_| false).await;
        reading.expect("the service runs on");
    }
    let lines = |word: &str| -> String { (1..=400).map(|i| format!("{word} {i}\n")).collect() };
    assert_eq!(String::from_utf8_lossy(&followed.stdout), lines("line"));
    assert_eq!(String::from_utf8_lossy(&followed.stderr), lines("err"));
    assert_eq!(followed.end.expect("an end")["state"], "succeeded");
}

/// A caller that asks for a stream and never reads it.
async fn deaf(client: &Client, job: &str) -> TcpStream {
    let (address, key) = (client.address(), client.key());
    let mut socket = TcpStream::connect(&address).await.expect("a connection");
    let request = format!(
        "GET /v1/jobs/{job}/output/stream HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {key}\r\n\r\n"
    );
    socket.write_all(request.as_bytes()).await.expect("sent");
    socket
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_readers_of_whom_some_never_read() {
    // As the service does by itself.
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
    setrlimit(Resource::RLIMIT_NOFILE, most, most).expect("raised");
    let program = Program::start().await;
    let client = program.client();
    client.create("env").await;
    // More than any buffer on the way holds, written as long as the readers come.
    let script = "head -c 33554432 /dev/zero | tr '\\0' x; while [ ! -e stop ]; do sleep 0.1; done; echo end";
    let job = client.submit("env", &json!({ "command": script })).await;
    wait_until("the output is in the store", async || {
        let path = format!(
            "/v1/jobs/{job}/output?stdout_offset={}&limit=1",
            32 * MIB - 1
        );
        client.get(&path).await.expect(200).json()["stdout"] == "x"
    })
    .await;
    let before = resident(program.pid());
    let mut never_read = Vec::new();
    for _ in 0..300 {
        never_read.push(deaf(&client, &job).await);
    }
    let readers = (0..700).map(|_| {
        let (client, job) = (client.clone(), job.clone());
        tokio::spawn(async move {
            // At the end of what is there, so that all wait for the same last line.
            let mut followed = Followed::from(32 * MIB - 16);
            let reading = client.follow(&job, &mut followed, |_| false).await;
            reading.expect("no break");
            (
                followed.stdout.split_off(followed.stdout.len() - 20),
                followed.end.is_some(),
            )
        })
    });
    let readers: Vec<_> = readers.collect();
    // All others are answered meanwhile.
    assert_eq!(
        client.printed("env", "echo works; touch stop").await,
        "works\n"
    );
    for ended in join_all(readers).await {
        let (tail, end) = ended.expect("no panic");
        assert_eq!(tail, b"xxxxxxxxxxxxxxxxend\n");
        assert!(end);
    }
    let growth = resident(program.pid()).saturating_sub(before);
    assert!(
        growth < 256 * MIB,
        "the service grew by {} MiB",
        growth / MIB
    );
    drop(never_read);
}

#[tokio::test]
async fn a_stream_on_which_nothing_is_said_is_kept_open_by_comments() {
    let program = Program::start().await;
    let client = program.client();
    client.create("env").await;
    let script = "echo begun; while [ ! -e stop ]; do sleep 0.1; done; echo end";
    let job = client.submit("env", &json!({ "command": script })).await;
    let path = format!("/v1/jobs/{job}/output/stream");
    let response = client.request(Method::GET, &path).send().await;
    let mut bytes = response.expect("an answer").bytes_stream();
    let mut text = String::new();
    let mut is_told_to_end = false;
    while let Some(piece) = bytes.next().await {
        text.push_str(std::str::from_utf8(&piece.expect("no break")).expect("text"));
        if text.contains(": ping\n\n") && !is_told_to_end {
            client.put_file("env", "stop", "").await.expect(200);
            is_told_to_end = true;
        }
    }
    assert!(is_told_to_end, "{text}");
    let blocks: Vec<&str> = text.split_terminator("\n\n").collect();
    let events = blocks.iter().filter(|block| **block != ": ping");
    let events: Vec<&str> = events
        .filter_map(|block| block.lines().find(|line| line.starts_with("event: ")))
        .collect();
    assert_eq!(
        events,
        ["event: stdout", "event: stdout", "event: end"],
        "{text}"
    );
}
