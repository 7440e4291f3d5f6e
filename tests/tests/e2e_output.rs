//! Output of every size and shape, read back by offset to the last byte.

use serde_json::{Value, json};
use tests::program::{Client, Drain, Gap, Output, Program};

const MIB: u64 = 1 << 20;

/// Bytes of the end of a stream that are kept beyond the limit.
const TAIL: u64 = 64 * 1024;

/// Writes numbered lines of 16 bytes to both streams, in turns of 64 KiB: argument 1 for standard output, 2 for standard
/// error, in bytes.
const NUMBERED: &str = "
import os, sys
sizes = {1: int(sys.argv[1]), 2: int(sys.argv[2])}
written = {1: 0, 2: 0}
while written != sizes:
    for fd in (1, 2):
        at, upto = written[fd], min(written[fd] + 65536, sizes[fd])
        data = b''.join(b'%d %013d\\n' % (fd, line) for line in range(at // 16, upto // 16))
        while data:
            data = data[os.write(fd, data):]
        written[fd] = upto
";

/// The bytes of a stream from an offset on, as the script above writes them.
fn numbered(fd: u8, from: u64, to: u64) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(usize::try_from(to - from).unwrap());
    for line in from / 16..to.div_ceil(16) {
        bytes.extend_from_slice(format!("{fd} {line:013}\n").as_bytes());
    }
    let skipped = usize::try_from(from % 16).unwrap();
    bytes[skipped..skipped + usize::try_from(to - from).unwrap()].to_vec()
}

/// Asserts that what was kept is what was written, where it was written.
fn assert_numbered(drain: &Drain, fd: u8, total: u64) {
    assert_eq!(drain.end, total);
    let (mut at, mut read) = (0, 0);
    let gaps = drain.gaps.iter().copied().chain([Gap {
        start: total,
        end: total,
    }]);
    for gap in gaps {
        let length = usize::try_from(gap.start - at).unwrap();
        assert!(
            drain.bytes[read..read + length] == numbered(fd, at, gap.start),
            "stream {fd} differs between {at} and {}",
            gap.start
        );
        read += length;
        at = gap.end;
    }
    assert_eq!(read, drain.bytes.len());
}

async fn run(client: &Client, script: &str, arguments: &[&str]) -> (Value, Output) {
    let command: Vec<_> = ["python3", "-c", script]
        .into_iter()
        .chain(arguments.iter().copied())
        .collect();
    let id = client
        .submit(
            "env",
            &json!({ "command": command, "timeout_seconds": 300 }),
        )
        .await;
    // It is read while it grows.
    let output = client.output(&id).await;
    let job = client.ended(&id).await;
    assert_eq!(job["state"], "succeeded", "{}", job["error"]);
    assert_eq!(job["output"]["stdout_bytes"], output.stdout.end);
    assert_eq!(job["output"]["stderr_bytes"], output.stderr.end);
    assert_eq!(job["output"]["truncated"], output.truncated);
    (job, output)
}

#[tokio::test]
async fn three_hundred_mib_of_both_streams_come_back_to_the_last_byte() {
    let program = Program::start().await;
    let client = program.client();
    client.create("env").await;
    let (stdout, stderr) = (180 * MIB, 120 * MIB);
    let (job, output) = run(
        &client,
        NUMBERED,
        &[&stdout.to_string(), &stderr.to_string()],
    )
    .await;
    assert!(!output.truncated);
    assert!(output.stdout.gaps.is_empty() && output.stderr.gaps.is_empty());
    assert_numbered(&output.stdout, 1, stdout);
    assert_numbered(&output.stderr, 2, stderr);
    let preview = job["result"]["stdout"].as_str().expect("text");
    assert!(
        preview.len() <= 64 * 1024 && preview.starts_with("1 0000000000000\n"),
        "{}",
        preview.len()
    );
    assert!(preview.ends_with(&String::from_utf8(numbered(1, stdout - 16, stdout)).unwrap()));
}

#[tokio::test]
async fn beyond_the_limit_the_beginning_and_the_end_are_kept_and_all_is_counted() {
    let program = Program::start_with(&[("EM_LIMITS__OUTPUT_BYTES", "1Mi")]).await;
    let client = program.client();
    client.create("env").await;
    let (stdout, stderr) = (5 * MIB, 3 * MIB);
    let (_, output) = run(
        &client,
        NUMBERED,
        &[&stdout.to_string(), &stderr.to_string()],
    )
    .await;
    assert!(output.truncated && !output.incomplete);
    let mut head = 0;
    for (drain, fd, total) in [(&output.stdout, 1, stdout), (&output.stderr, 2, stderr)] {
        assert_numbered(drain, fd, total);
        let [gap] = drain.gaps[..] else {
            panic!("{:?}", drain.gaps)
        };
        assert!(total - gap.end >= TAIL, "the last 64 KiB are kept: {gap:?}");
        head += gap.start;
    }
    assert_eq!(head, MIB, "the first bytes up to the limit are kept");
    // Up to the limit nothing is dropped.
    let (_, output) = run(&client, NUMBERED, &["524288", "524288"]).await;
    assert!(!output.truncated);
    assert_numbered(&output.stdout, 1, 524_288);
}

#[tokio::test]
async fn bytes_of_every_kind_come_back() {
    let program = Program::start().await;
    let client = program.client();
    client.create("env").await;
    let every_byte = "import os; os.write(1, bytes(range(256)) * 1000); os.write(2, b'\\0' * 1000)";
    let (job, output) = run(&client, every_byte, &[]).await;
    let expected: Vec<u8> = (0..=255).cycle().take(256_000).collect();
    assert!(output.stdout.bytes == expected);
    assert_eq!(output.stderr.bytes, vec![0; 1000]);
    assert_eq!(job["result"]["encoding"], "base64");

    let (job, output) = run(
        &client,
        "import sys; sys.stdout.write('no newline \\u00e4\\U0001f600')",
        &[],
    )
    .await;
    assert_eq!(
        String::from_utf8(output.stdout.bytes).unwrap(),
        "no newline ä\u{1f600}"
    );
    assert_eq!(job["result"]["stdout"], "no newline ä\u{1f600}");

    let (_, output) = run(&client, "pass", &[]).await;
    assert!(output.stdout.bytes.is_empty() && output.stderr.bytes.is_empty());

    let characters = "import sys; sys.stdout.write('\\u30b0' * 100000)";
    let (job, _) = run(&client, characters, &[]).await;
    let id = job["id"].as_str().unwrap();
    // Windows of a size that no character fits evenly into.
    let output = client.output_in(id, 1000).await;
    assert_eq!(
        String::from_utf8(output.stdout.bytes).unwrap(),
        "グ".repeat(100_000)
    );
}

#[tokio::test]
async fn a_line_of_100_mib_is_one_line() {
    let program = Program::start().await;
    let client = program.client();
    client.create("env").await;
    let line = "import sys\nfor _ in range(100): sys.stdout.write('x' * (1 << 20))";
    let (_, output) = run(&client, line, &[]).await;
    assert_eq!(output.stdout.end, 100 * MIB);
    assert!(!output.truncated && !output.incomplete);
    assert!(output.stdout.gaps.is_empty(), "{:?}", output.stdout.gaps);
    assert_eq!(output.stdout.bytes.len() as u64, 100 * MIB);
    assert!(output.stdout.bytes.iter().all(|byte| *byte == b'x'));
}

#[tokio::test]
async fn windows_begin_anywhere() {
    let program = Program::start().await;
    let client = program.client();
    client.create("env").await;
    let (job, _) = run(&client, NUMBERED, &["100000", "1600"]).await;
    let id = job["id"].as_str().unwrap();
    let window = async |stdout: u64, stderr: u64, limit: u64| {
        let query = format!("stdout_offset={stdout}&stderr_offset={stderr}&limit={limit}");
        client
            .get(&format!("/v1/jobs/{id}/output?{query}"))
            .await
            .expect(200)
            .json()
    };
    for (offset, limit) in [(0, 1), (17, 100), (99_999, 10), (65_530, 4096), (16, 16)] {
        let window = window(offset, 1600, limit).await;
        let expected = numbered(1, offset, (offset + limit).min(100_000));
        assert_eq!(
            window["stdout"].as_str().unwrap().as_bytes(),
            expected,
            "{offset} {limit}"
        );
        assert_eq!(window["stderr"], "");
    }
    let end = window(100_000, 1600, 100).await;
    assert_eq!(end["done"], true, "{end}");
    let beyond = window(1 << 62, 1 << 62, 100).await;
    assert_eq!(
        (&beyond["stdout"], &beyond["done"]),
        (&json!(""), &json!(true)),
        "{beyond}"
    );
}
