//! Output: a log read by windows.

use rand::RngExt as _;
use shared::job::{Job, Outcome};
use shared::output::{Chunk, Offsets, Stream};

use super::given::{Given, all_at_once, chunk, completion, content, result_of};

async fn append(given: &Given, job: &Job, chunks: Vec<Chunk>) {
    given
        .store
        .append_output(&job.at(), job.fence, chunks)
        .await
        .expect("appended");
}

async fn window(given: &Given, job: &Job, stdout: u64, stderr: u64, limit: u64) -> Vec<Chunk> {
    given
        .store
        .output(&job.at(), Offsets { stdout, stderr }, limit)
        .await
        .expect("a window")
}

/// The bytes of one stream, which must have no gap after `from`.
fn joined(chunks: &[Chunk], stream: Stream, from: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    for chunk in chunks.iter().filter(|chunk| chunk.stream == stream) {
        assert_eq!(chunk.start, from + bytes.len() as u64);
        assert!(!chunk.data.is_empty());
        bytes.extend_from_slice(&chunk.data);
    }
    bytes
}

pub(super) async fn every_window_is_the_log_cut_at_its_offsets(given: &Given) {
    let job = given.leased_exec("e").await;
    let (out, err) = (content(0, 5000), content(77, 3000));
    let (mut out_at, mut err_at) = (0, 0);
    while out_at < out.len() || err_at < err.len() {
        let size = rand::rng().random_range(1..400);
        let (out_end, err_end) = (
            (out_at + size).min(out.len()),
            (err_at + size / 2).min(err.len()),
        );
        let mut chunks = Vec::new();
        for (stream, all, at, end) in [
            (Stream::Stdout, &out, out_at, out_end),
            (Stream::Stderr, &err, err_at, err_end),
        ] {
            if at < end {
                chunks.push(chunk(stream, at as u64, all.slice(at..end)));
            }
        }
        append(given, &job, chunks).await;
        (out_at, err_at) = (out_end, err_end);
    }
    let end = given.store.output_end(&job.at()).await.expect("works");
    assert_eq!(
        end,
        Offsets {
            stdout: 5000,
            stderr: 3000
        }
    );
    for _ in 0..200 {
        let (stdout, stderr, limit) = {
            let mut random = rand::rng();
            (
                random.random_range(0..5200),
                random.random_range(0..3200),
                random.random_range(0..6000),
            )
        };
        let chunks = window(given, &job, stdout, stderr, limit).await;
        for (stream, all, from) in [
            (Stream::Stdout, &out, stdout),
            (Stream::Stderr, &err, stderr),
        ] {
            let start = usize::try_from(from).unwrap().min(all.len());
            let end = (start + usize::try_from(limit).unwrap()).min(all.len());
            assert_eq!(
                joined(&chunks, stream, from),
                &all[start..end],
                "{from} {limit}"
            );
        }
    }
    assert!(
        window(given, &job, u64::MAX, u64::MAX, u64::MAX)
            .await
            .is_empty()
    );
}

pub(super) async fn dropped_bytes_are_gaps(given: &Given) {
    let job = given.leased_exec("e").await;
    append(given, &job, vec![chunk(Stream::Stdout, 0, "0123456789")]).await;
    append(
        given,
        &job,
        vec![
            chunk(Stream::Stdout, 100, "tail"),
            chunk(Stream::Stderr, 5, "x"),
        ],
    )
    .await;
    let told = |chunks: Vec<Chunk>| -> Vec<(u64, String)> {
        chunks
            .into_iter()
            .filter(|chunk| chunk.stream == Stream::Stdout)
            .map(|chunk| {
                (
                    chunk.start,
                    String::from_utf8_lossy(&chunk.data).into_owned(),
                )
            })
            .collect()
    };
    let owned = |chunks: &[(u64, &str)]| -> Vec<(u64, String)> {
        chunks
            .iter()
            .map(|(start, text)| (*start, (*text).to_owned()))
            .collect()
    };
    let all = told(window(given, &job, 0, 0, 1000).await);
    assert_eq!(all, owned(&[(0, "0123456789"), (100, "tail")]));
    assert_eq!(
        told(window(given, &job, 8, 0, 3).await),
        owned(&[(8, "89"), (100, "t")])
    );
    assert_eq!(
        told(window(given, &job, 10, 0, 9).await),
        owned(&[(100, "tail")])
    );
    assert_eq!(
        told(window(given, &job, 102, 0, 9).await),
        owned(&[(102, "il")])
    );
    let end = given.store.output_end(&job.at()).await.expect("works");
    assert_eq!(
        end,
        Offsets {
            stdout: 104,
            stderr: 6
        }
    );
}

pub(super) async fn what_is_there_already_stays(given: &Given) {
    let job = given.leased_exec("e").await;
    append(given, &job, vec![chunk(Stream::Stdout, 0, "first")]).await;
    append(
        given,
        &job,
        vec![
            chunk(Stream::Stdout, 0, "FIRST"),
            chunk(Stream::Stdout, 5, "second"),
        ],
    )
    .await;
    append(given, &job, Vec::new()).await;
    let mut end = completion(Outcome::success(result_of("")));
    end.chunks = vec![chunk(Stream::Stdout, 5, "SECOND")];
    given.finish(&job, end).await;
    let chunks = window(given, &job, 0, 0, 1000).await;
    assert_eq!(joined(&chunks, Stream::Stdout, 0), b"firstsecond");
}

pub(super) async fn a_log_larger_than_a_window_is_read_window_by_window(given: &Given) {
    const CHUNK: usize = 300_000;
    const CHUNKS: u64 = 12;
    const WINDOW: u64 = 1 << 20;
    let job = given.leased_exec("e").await;
    for number in 0..CHUNKS {
        let start = number * CHUNK as u64;
        append(
            given,
            &job,
            vec![chunk(Stream::Stderr, start, content(start, CHUNK))],
        )
        .await;
    }
    let mut read = Vec::new();
    loop {
        let from = read.len() as u64;
        let chunks = window(given, &job, 0, from, WINDOW).await;
        let bytes = joined(&chunks, Stream::Stderr, from);
        if bytes.is_empty() {
            break;
        }
        assert!(bytes.len() as u64 <= WINDOW);
        read.extend_from_slice(&bytes);
    }
    let all = content(0, CHUNK * usize::try_from(CHUNKS).unwrap());
    assert!(read == all, "every byte came back");
}

pub(super) async fn the_end_of_a_job_comes_after_its_last_byte(given: &Given) {
    let at = given.running("e").await;
    all_at_once(40, |_| {
        let (given, at) = (given.clone(), at.clone());
        async move {
            let job = given.exec(&at).await;
            let job = given.lease(&job).await.job;
            let mut end = completion(Outcome::success(result_of("")));
            end.chunks = vec![chunk(Stream::Stdout, 0, "last")];
            let reader = tokio::spawn({
                let (given, job) = (given.clone(), job.clone());
                async move {
                    while !given.job(&job).await.state.is_terminal() {
                        tokio::task::yield_now().await;
                    }
                    given
                        .store
                        .output_end(&job.at())
                        .await
                        .expect("works")
                        .stdout
                }
            });
            given.finish(&job, end).await;
            assert_eq!(reader.await.expect("the reader ends"), 4);
        }
    })
    .await;
}
