//! Large outputs, large results, many jobs.

use shared::job::{JobState, Outcome};
use shared::output::{Offsets, Stream};
use shared::ports::{Cutoffs, JobFilter};
use tests::conformance::store::given::{chunk, completion, exec_input, page, result_of};

use super::fresh;

const MIB: u64 = 1 << 20;

/// 300 MiB in both streams, each MiB filled with its number.
#[tokio::test(flavor = "multi_thread")]
async fn hundreds_of_mebibytes_come_back_window_by_window() {
    let (_folder, given) = fresh();
    let job = given.leased_exec("e").await;
    let filled = |number: u64| vec![u8::try_from(number % 251).expect("small"); 1 << 20];
    for number in 0..150 {
        let chunks = [Stream::Stdout, Stream::Stderr]
            .map(|stream| chunk(stream, number * MIB, filled(number)));
        given
            .store
            .append_output(&job.at(), job.fence, chunks.into())
            .await
            .expect("appended");
    }
    let mut from = Offsets::default();
    loop {
        let window = given
            .store
            .output(&job.at(), from, 4 * MIB + 77)
            .await
            .expect("a window");
        for chunk in &window {
            assert_eq!(chunk.start, from.of(chunk.stream));
            for (place, byte) in (chunk.start..).zip(&chunk.data).step_by(997) {
                assert_eq!(u64::from(*byte), place / MIB % 251, "at {place}");
            }
            *from.of_mut(chunk.stream) = chunk.end();
        }
        let size: usize = window.iter().map(|chunk| chunk.data.len()).sum();
        assert!(size as u64 <= 2 * (4 * MIB + 77));
        if window.is_empty() {
            break;
        }
    }
    assert_eq!(
        from,
        Offsets {
            stdout: 150 * MIB,
            stderr: 150 * MIB
        }
    );

    given
        .finish(&job, completion(Outcome::success(result_of(""))))
        .await;
    let now = given.now();
    let all = Cutoffs {
        jobs_before: now,
        reads_before: now,
        keys_before: now,
    };
    assert_eq!(
        given.store.prune(all, 10).await.expect("pruned"),
        [job.at()]
    );
    assert_eq!(
        given.store.output_end(&job.at()).await.expect("works"),
        Offsets::default()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_result_may_be_large() {
    let (_folder, given) = fresh();
    let job = given.leased_exec("e").await;
    let text = "a line of a long listing\n".repeat(400_000);
    given
        .finish(&job, completion(Outcome::success(result_of(&text))))
        .await;
    let found = given.job(&job).await;
    assert!(found.result == Some(result_of(&text)));
    let listed = given
        .store
        .jobs(&job.tenant, &JobFilter::default(), page(10, None))
        .await
        .expect("a page");
    assert_eq!(listed.items.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn thousands_of_waiting_jobs_settle_at_once() {
    const JOBS: usize = 3000;
    let (_folder, given) = fresh();
    let at = given.running("e").await;
    let mut jobs = Vec::with_capacity(JOBS);
    for _ in 0..JOBS {
        jobs.push(given.exec(&at).await);
    }
    given.submit(&at, shared::job::JobInput::Delete {}).await;
    let open = given.store.open_jobs(&at).await.expect("works");
    assert_eq!(open.len(), 1, "the delete alone is left");
    for job in [&jobs[0], &jobs[JOBS - 1]] {
        assert_eq!(given.job(job).await.state, JobState::Cancelled);
    }
    assert!(given.try_submit(&at, exec_input("true")).await.is_err());
}
