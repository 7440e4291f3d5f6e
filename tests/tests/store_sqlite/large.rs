//! Large outputs, large results, many jobs.

use shared::job::{JobState, Outcome};
use shared::output::{Offsets, Stream};
use shared::ports::{Cutoffs, EnvironmentFilter, JobFilter};
use tests::conformance::store::given::{
    chunk, completion, environment, exec_input, page, result_of,
};

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

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_thousand_jobs_on_five_hundred_environments_are_listed_and_paged() {
    const ENVIRONMENTS: usize = 500;
    const JOBS: usize = 100_000;
    let (_folder, given) = fresh();
    let places: Vec<_> = (0..ENVIRONMENTS)
        .map(|number| environment(&format!("e{number:03}")))
        .collect();
    for at in &places {
        given.run(at).await;
    }
    // Many at a time, so that they share commits.
    let writers = (0..50).map(|writer| {
        let (given, places) = (given.clone(), places.clone());
        tokio::spawn(async move {
            for number in 0..JOBS / 50 {
                let at = &places[(writer + number * 50) % ENVIRONMENTS];
                given.exec(at).await;
            }
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.expect("written");
    }
    let mut seen = std::collections::HashSet::new();
    let mut token = None;
    loop {
        let filter = JobFilter::default();
        let found = given
            .store
            .jobs(&places[0].tenant, &filter, page(1000, token))
            .await;
        let found = found.expect("a page");
        seen.extend(found.items.iter().map(|job| job.id));
        token = found.next;
        if token.is_none() {
            break;
        }
    }
    assert_eq!(seen.len(), JOBS + ENVIRONMENTS, "each once");
    let mut names = Vec::new();
    let mut token = None;
    loop {
        let filter = EnvironmentFilter::default();
        let found = given
            .store
            .environments(&places[0].tenant, &filter, page(77, token))
            .await;
        let found = found.expect("a page");
        names.extend(found.items.iter().map(|found| found.id.clone()));
        token = found.next;
        if token.is_none() {
            break;
        }
    }
    let expected: Vec<_> = places.iter().map(|at| at.environment.clone()).collect();
    assert_eq!(names, expected);
    let of_one = JobFilter {
        environment: Some(places[7].environment.clone()),
        ..JobFilter::default()
    };
    let found = given
        .store
        .jobs(&places[0].tenant, &of_one, page(1000, None))
        .await;
    assert_eq!(found.expect("a page").items.len(), JOBS / ENVIRONMENTS + 1);
}
