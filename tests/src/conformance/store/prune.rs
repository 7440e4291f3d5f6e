//! Removing what is past its time.

use jiff::Timestamp;
use shared::environment::{EnvironmentEvent, Phase};
use shared::ids::{Generation, JobRef};
use shared::job::{Job, JobInput, Outcome};
use shared::output::{Offsets, Stream};
use shared::ports::Cutoffs;

use super::given::{
    Given, chunk, completion, content, environment, exec_input, key, list_input, result_of,
};

fn cutoffs(jobs: Timestamp, reads: Timestamp, keys: Timestamp) -> Cutoffs {
    Cutoffs {
        jobs_before: jobs,
        reads_before: reads,
        keys_before: keys,
    }
}

async fn prune(given: &Given, cutoffs: Cutoffs, limit: u32) -> Vec<JobRef> {
    let mut removed = given.store.prune(cutoffs, limit).await.expect("pruned");
    removed.sort_by_key(|at| at.job);
    removed
}

async fn is_there(given: &Given, job: &Job) -> bool {
    given.store.job(&job.at()).await.expect("works").is_some()
}

pub(super) async fn what_is_past_its_time_goes_with_its_output(given: &Given) {
    let start = given.now();
    let at = given.running("e").await;
    let old = given.exec(&at).await;
    let old = given.lease(&old).await.job;
    let mut end = completion(Outcome::success(result_of("")));
    end.chunks = vec![chunk(Stream::Stdout, 0, content(0, 700_000))];
    given.finish(&old, end).await;
    let old_read = given.done(&at, list_input()).await;
    let between = given.now();
    let (new, new_read) = (
        given.done(&at, exec_input("x")).await,
        given.done(&at, list_input()).await,
    );
    let open = given.exec(&at).await;

    assert_eq!(prune(given, cutoffs(start, start, start), 100).await, []);
    let removed = prune(given, cutoffs(start, between, start), 100).await;
    assert_eq!(removed, [old_read.at()], "reads have a time of their own");
    let removed = prune(given, cutoffs(between, between, start), 100).await;
    assert_eq!(removed, [old.at()]);
    for gone in [&old, &old_read] {
        assert!(!is_there(given, gone).await);
    }
    let output = given
        .store
        .output(&old.at(), Offsets::default(), 100)
        .await
        .expect("works");
    assert!(output.is_empty());
    assert_eq!(
        given.store.output_end(&old.at()).await.expect("works"),
        Offsets::default()
    );
    for kept in [&new, &new_read, &open] {
        assert!(is_there(given, kept).await);
    }
    let now = given.now();
    let removed = prune(given, cutoffs(now, now, now), 100).await;
    assert_eq!(removed, [new.at(), new_read.at()]);
    assert!(
        is_there(given, &open).await,
        "what has not ended is never past its time"
    );
}

pub(super) async fn a_prune_is_bounded(given: &Given) {
    let at = given.running("e").await;
    for _ in 0..7 {
        given.done(&at, exec_input("true")).await;
    }
    let all = cutoffs(given.now(), given.now(), given.now());
    let mut removed = 0;
    for expected in [3, 3, 1, 0] {
        let count = prune(given, all, 3).await.len();
        assert_eq!(count, expected);
        removed += count;
    }
    assert_eq!(removed, 7);
}

pub(super) async fn keys_are_forgotten(given: &Given) {
    let start = given.now();
    let at = given.running("e").await;
    let submit = |content| given.submit_keyed(&at, exec_input("true"), key("k", "s", content));
    let first = submit(1).await.expect("accepted").job;
    prune(given, cutoffs(start, start, start), 10).await;
    assert!(submit(1).await.expect("a replay").replayed);
    prune(given, cutoffs(start, start, given.now()), 10).await;
    let second = submit(2).await.expect("the key is free");
    assert!(!second.replayed && second.job.id != first.id);

    let leased = given.lease(&second.job).await.job;
    given
        .finish(&leased, completion(Outcome::success(result_of(""))))
        .await;
    let now = given.now();
    prune(given, cutoffs(now, now, start), 10).await;
    assert!(!is_there(given, &leased).await);
    let third = submit(3).await.expect("a key whose job is gone is free");
    assert!(!third.replayed);
    assert!(submit(3).await.expect("a replay").replayed);
}

pub(super) async fn the_create_of_a_living_environment_stays(given: &Given) {
    let at = environment("e");
    given.run(&at).await;
    let create = given.environment(&at).await.created_by;
    let past = cutoffs(given.now(), given.now(), given.now());
    assert_eq!(prune(given, past, 10).await, []);
    let again = given.submit(&at, JobInput::Create {}).await;
    assert!(again.replayed && again.job.id == create);
    let delete = given.submit(&at, JobInput::Delete {}).await.job;
    given.carry_out(&delete, EnvironmentEvent::Deleted).await;
    let past = cutoffs(given.now(), given.now(), given.now());
    let removed: Vec<_> = prune(given, past, 10)
        .await
        .into_iter()
        .map(|at| at.job)
        .collect();
    assert_eq!(removed, [create, delete.id]);
}

pub(super) async fn a_deleted_environment_goes_after_its_last_job(given: &Given) {
    let (at, other) = (given.running("e").await, given.running("other").await);
    let before = given.now();
    let delete = given.submit(&at, JobInput::Delete {}).await.job;
    given.carry_out(&delete, EnvironmentEvent::Deleted).await;
    let record = given.environment(&at).await;
    let now = given.now();

    let removed = prune(given, cutoffs(before, now, now), 10).await;
    assert_eq!(
        removed,
        [JobRef {
            tenant: at.tenant.clone(),
            job: record.created_by
        }]
    );
    assert_eq!(given.environment(&at).await, record, "its delete is kept");
    prune(given, cutoffs(now, now, now), 1).await;
    let found = given.store.environment(&at).await.expect("works");
    assert_eq!(found, None, "nothing tells of it any more");
    assert_eq!(given.environment(&other).await.phase, Phase::Running);

    let create = given.submit(&at, JobInput::Create {}).await;
    assert!(!create.replayed && create.publish);
    let again = given.environment(&at).await;
    assert_ne!(again.uid, record.uid);
    assert_eq!(
        again.generation,
        Generation::default().next(),
        "its first life"
    );
    let now = given.now();
    prune(given, cutoffs(now, now, now), 10).await;
    assert_eq!(given.environment(&at).await, again, "what lives stays");
}
