//! What the sweeps walk, across tenants.

use std::collections::HashMap;

use shared::admission::{Condition, Over, Refusal};
use shared::environment::{EnvironmentPatch, Phase};
use shared::ids::{EnvironmentRef, EnvironmentUid, TenantId};
use shared::job::{Begun, JobInput, JobKind, JobState, Outcome, QueueLane};
use shared::ports::{Activity, SubmitError, Submitted};

use super::given::{Given, completion, environment, environment_of, list_input, result_of, worker};

pub(super) async fn runnable_jobs_are_listed_oldest_first_by_lane(given: &Given) {
    let at = given.running("e").await;
    let mut jobs = Vec::new();
    for _ in 0..5 {
        jobs.push(given.exec(&at).await.at());
    }
    let create = given
        .submit(&environment("f"), JobInput::Create {})
        .await
        .job;
    given.exec(&environment("f")).await;
    let work = async |after, limit| {
        given
            .store
            .runnable(QueueLane::Work, after, limit)
            .await
            .expect("works")
    };
    assert_eq!(
        work(None, 100).await,
        jobs,
        "what waits for its environment is not runnable"
    );
    assert_eq!(work(None, 2).await, jobs[..2]);
    assert_eq!(work(Some(jobs[1].job), 2).await, jobs[2..4]);
    assert_eq!(work(Some(jobs[4].job), 2).await, []);
    let lifecycle = given
        .store
        .runnable(QueueLane::Lifecycle, None, 100)
        .await
        .expect("works");
    assert_eq!(lifecycle, [create.at()]);

    let first = given
        .store
        .job(&jobs[0])
        .await
        .expect("works")
        .expect("it is there");
    given.lease(&first).await;
    assert_eq!(
        work(None, 100).await,
        jobs[1..],
        "what is leased is not listed"
    );
    let delete = given.submit(&at, JobInput::Delete {}).await.job;
    assert_eq!(work(None, 100).await, [], "nor what has ended");
    let lifecycle = given
        .store
        .runnable(QueueLane::Lifecycle, None, 100)
        .await
        .expect("works");
    assert_eq!(lifecycle, [create.at(), delete.at()]);
}

pub(super) async fn held_jobs_are_listed_with_their_owner_and_fence(given: &Given) {
    let at = given.running("e").await;
    let mut jobs = Vec::new();
    for number in 0..4 {
        let job = given.exec(&at).await.at();
        let owner = worker(&format!("worker-{number}"));
        given
            .store
            .lease(&job, &owner, None, given.now())
            .await
            .expect("leased");
        jobs.push((job, owner));
    }
    given.exec(&at).await;
    let stop = given.submit(&at, JobInput::Stop {}).await.job;
    given.lease(&stop).await;
    let held = given.store.held(None, 100).await.expect("works");
    assert_eq!(held.len(), 5);
    for (held, (job, owner)) in held.iter().zip(&jobs) {
        assert_eq!(
            (&held.at, &held.owner, held.lane, held.fence.0),
            (job, owner, QueueLane::Work, 1)
        );
    }
    assert_eq!(
        (&held[4].at, held[4].lane),
        (&stop.at(), QueueLane::Lifecycle)
    );
    let two = given
        .store
        .held(Some(jobs[0].0.job), 2)
        .await
        .expect("works");
    let ids: Vec<_> = two.iter().map(|held| held.at.clone()).collect();
    assert_eq!(ids, [jobs[1].0.clone(), jobs[2].0.clone()]);
    given
        .store
        .hand_back(&jobs[1].0, held[1].fence, Begun::Perhaps, given.now())
        .await
        .expect("given back");
    assert_eq!(given.store.held(None, 100).await.expect("works").len(), 4);
}

pub(super) async fn open_jobs_are_those_that_have_not_ended(given: &Given) {
    let at = given.running("e").await;
    let (ended, queued, leased) = (
        given.exec(&at).await,
        given.exec(&at).await,
        given.exec(&at).await,
    );
    let cancelled = super::given::cancel_request("x");
    given
        .store
        .cancel(&ended.at(), cancelled, given.now())
        .await
        .expect("cancelled");
    given.lease(&leased).await;
    given.exec(&given.running("other").await).await;
    let mut open = given.store.open_jobs(&at).await.expect("works");
    open.sort_by_key(|job| job.id);
    assert_eq!(open, [given.job(&queued).await, given.job(&leased).await]);
    assert!(
        given
            .store
            .open_jobs(&environment("none"))
            .await
            .expect("works")
            .is_empty()
    );
}

pub(super) async fn environments_are_walked_across_tenants(given: &Given) {
    let tenants = ["a", "b", "default"].map(|name| TenantId::new(name).expect("a tenant"));
    let mut all = Vec::new();
    for tenant in &tenants {
        for name in ["x", "y"] {
            let at = environment_of(tenant, name);
            given.run(&at).await;
            all.push(at);
        }
    }
    given
        .submit(&environment_of(&tenants[0], "pending"), JobInput::Create {})
        .await;
    for limit in [1, 2, 4, 100] {
        let (mut seen, mut after) = (Vec::new(), None);
        loop {
            let found = given
                .store
                .environments_in(Phase::Running, after.as_ref(), limit)
                .await
                .expect("works");
            assert!(found.len() <= limit as usize);
            seen.extend(found.iter().map(shared::environment::Environment::at));
            match found.last() {
                Some(last) => after = Some(last.at()),
                None => break,
            }
        }
        seen.sort_by_key(|at| (at.tenant.clone(), at.environment.clone()));
        assert_eq!(seen, all, "steps of {limit}");
    }
    let pending = given
        .store
        .environments_in(Phase::Pending, None, 9)
        .await
        .expect("works");
    assert_eq!(pending.len(), 1);
}

pub(super) async fn counts_are_of_what_is_open(given: &Given) {
    let empty = given.store.counts().await.expect("works");
    assert!(empty.jobs.iter().all(|(.., count)| *count == 0));
    let at = given.running("e").await;
    let runs = given.exec(&at).await;
    given.lease(&runs).await;
    given.exec(&at).await;
    given.exec(&at).await;
    given.submit(&environment("f"), JobInput::Create {}).await;
    let counts = given.store.counts().await.expect("works");
    let jobs: HashMap<_, _> = counts
        .jobs
        .into_iter()
        .filter(|(.., count)| *count > 0)
        .map(|(kind, state, count)| ((kind, state), count))
        .collect();
    let expected = [
        ((JobKind::Exec, JobState::Queued), 2),
        ((JobKind::Exec, JobState::Running), 1),
        ((JobKind::Create, JobState::Queued), 1),
    ];
    assert_eq!(jobs, expected.into());
    let environments: HashMap<_, _> = counts
        .environments
        .into_iter()
        .filter(|(_, count)| *count > 0)
        .collect();
    assert_eq!(
        environments,
        [(Phase::Running, 1), (Phase::Pending, 1)].into()
    );
}

pub(super) async fn what_has_lived_its_time_is_found_until_it_goes(given: &Given) {
    let expired = async |now| {
        let found = given.store.expired(now, 100).await.expect("works");
        found
            .iter()
            .map(|found| found.id.to_string())
            .collect::<Vec<_>>()
    };
    let lifetime = |seconds| EnvironmentPatch {
        ttl_seconds: Some(seconds),
        ..EnvironmentPatch::default()
    };
    let patch = async |at: &EnvironmentRef, patch| {
        given
            .store
            .patch_environment(at, patch)
            .await
            .expect("patched")
    };
    let (short, long) = (given.running("short").await, given.running("long").await);
    given.running("without").await;
    let at_end = patch(&short, lifetime(Some(100)))
        .await
        .expires_at()
        .expect("a time");
    patch(&long, lifetime(Some(1000))).await;
    let before = at_end
        .checked_sub(jiff::SignedDuration::from_millis(1))
        .expect("a time");
    assert_eq!(expired(before).await, [""; 0]);
    assert_eq!(expired(at_end).await, ["short"]);
    let far = at_end
        .checked_add(jiff::SignedDuration::from_hours(1))
        .expect("a time");
    assert_eq!(
        expired(far).await,
        ["short", "long"],
        "those that are longest over first"
    );
    assert_eq!(given.store.expired(far, 1).await.expect("works").len(), 1);
    patch(&long, lifetime(None)).await;
    assert_eq!(expired(far).await, ["short"]);
    given.submit(&short, JobInput::Delete {}).await;
    assert_eq!(expired(far).await, [""; 0]);
}

pub(super) async fn activity_is_what_is_open_and_what_ended_last(given: &Given) {
    let activity = async |at: &EnvironmentRef| given.store.activity(at).await.expect("works");
    let (at, other) = (given.running("e").await, given.running("f").await);
    let started = activity(&at).await;
    assert!(
        !started.busy && started.last_end.is_some(),
        "its create has ended"
    );
    let job = given.exec(&at).await;
    assert!(activity(&at).await.busy);
    assert!(!activity(&other).await.busy);
    let leased = given.lease(&job).await.job;
    assert!(activity(&at).await.busy);
    given
        .finish(&leased, completion(Outcome::success(result_of(""))))
        .await;
    let ended = given.job(&job).await.finished_at;
    assert_eq!(
        activity(&at).await,
        Activity {
            busy: false,
            last_end: ended
        }
    );
    let read = given.done(&at, list_input()).await;
    assert_eq!(
        activity(&at).await.last_end,
        read.finished_at,
        "a read is a use"
    );
    assert_eq!(activity(&environment("none")).await, Activity::default());
}

pub(super) async fn a_condition_is_looked_at_in_the_commit(given: &Given) {
    let at = given.running("e").await;
    let uid = given.environment(&at).await.uid;
    let submit = async |uid: &EnvironmentUid, over, input| {
        let mut submission = given.submission(&at, input);
        submission.condition = Some(Condition {
            uid: uid.clone(),
            over,
        });
        given.store.submit(submission, given.now()).await
    };
    let overtaken = |result: Result<Submitted, SubmitError>| {
        matches!(result, Err(SubmitError::Refused(Refusal::Overtaken)))
    };
    assert!(
        overtaken(submit(&uid, Over::Lifetime, JobInput::Delete {}).await),
        "it has none"
    );
    let job = given.exec(&at).await;
    assert!(
        overtaken(submit(&uid, Over::IdleTime, JobInput::Stop {}).await),
        "a job is open"
    );
    let leased = given.lease(&job).await.job;
    given
        .finish(&leased, completion(Outcome::success(result_of(""))))
        .await;
    let another = EnvironmentUid::of_create(&given.job_id());
    assert!(
        overtaken(submit(&another, Over::IdleTime, JobInput::Stop {}).await),
        "another life"
    );
    assert_eq!(given.environment(&at).await.phase, Phase::Running);
    assert_eq!(
        given.store.open_jobs(&at).await.expect("works"),
        [],
        "a refusal leaves nothing"
    );
    submit(&uid, Over::IdleTime, JobInput::Stop {})
        .await
        .expect("accepted");
    assert_eq!(given.environment(&at).await.phase, Phase::Stopping);
}
