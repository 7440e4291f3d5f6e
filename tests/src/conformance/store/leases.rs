//! Who may act on a job.

use shared::artifact::Artifact;
use shared::ids::{ArtifactId, Fence, JobRef};
use shared::job::{Begun, DownloadHead, Job, JobInput, JobState, Outcome, Progress, Verdict};
use shared::octets::Octets;
use shared::output::{Offsets, Stream};
use shared::ports::{Completion, LeaseAttempt, StoreError};

use super::given::{
    Given, NO_FENCE, all_at_once, cancel_request, chunk, completion, environment, new_incarnation,
    result_of, started, worker,
};
use shared::environment::{EnvironmentEvent, Phase, Reason};

fn success() -> Completion {
    completion(Outcome::success(result_of("")))
}

fn progress(given: &Given) -> Progress {
    Progress {
        head: Some(DownloadHead {
            path: Octets::from("/app/x"),
            size: 9,
            verdict: Verdict::Whole,
            offset: 0,
            length: 9,
            mode: 0o644,
            modified_at: given.now(),
            etag: "1-2-3".to_owned(),
        }),
        parts: 1,
    }
}

/// Writes under a fence by every method; all of them must be refused.
async fn is_fenced(given: &Given, at: &JobRef, fence: Fence) {
    let store = &given.store;
    let output = vec![chunk(Stream::Stdout, 0, "late")];
    let mut end = success();
    end.chunks.clone_from(&output);
    let answers = [
        store.append_output(at, fence, output).await.err(),
        store.progress(at, fence, progress(given)).await.err(),
        store
            .hand_back(at, fence, Begun::Perhaps, given.now())
            .await
            .err(),
        store.finish(at, fence, end, given.now()).await.err(),
    ];
    for answer in answers {
        assert!(matches!(answer, Some(StoreError::Fenced)), "{answer:?}");
    }
}

pub(super) async fn one_of_many_workers_gets_a_job(given: &Given) {
    let at = given.running("e").await;
    let job = given.exec(&at).await;
    let answers = all_at_once(32, |number| {
        let (given, at) = (given.clone(), job.at());
        async move { given.try_lease(&at, &format!("worker-{number}")).await }
    })
    .await;
    let mut winners = Vec::new();
    for (number, answer) in answers.into_iter().enumerate() {
        match answer {
            LeaseAttempt::Leased(leased) => winners.push((number, leased)),
            LeaseAttempt::Held => {}
            other => panic!("{other:?}"),
        }
    }
    let [(number, leased)] = winners.as_slice() else {
        panic!("{} winners", winners.len());
    };
    let record = given.job(&job).await;
    assert_eq!(record, leased.job);
    assert_eq!(
        (record.state, record.attempts, record.fence),
        (JobState::Running, 1, Fence(1))
    );
    assert!(record.started_at.is_some());
    let owner = record.lease.map(|lease| lease.owner);
    assert_eq!(owner, Some(worker(&format!("worker-{number}"))));
}

pub(super) async fn a_takeover_needs_the_fence_it_replaces(given: &Given) {
    let job = given.leased_exec("e").await;
    let take = async |replaces| {
        given
            .store
            .lease(&job.at(), &worker("second"), replaces, given.now())
            .await
            .expect("works")
    };
    for wrong in [None, Some(NO_FENCE), Some(job.fence.next())] {
        assert!(matches!(take(wrong).await, LeaseAttempt::Held), "{wrong:?}");
    }
    assert_eq!(given.job(&job).await, job);
    let LeaseAttempt::Leased(taken) = take(Some(job.fence)).await else {
        panic!("the right fence takes it over");
    };
    assert_eq!((taken.job.fence, taken.job.attempts), (job.fence.next(), 2));
    assert_eq!(taken.job.started_at, job.started_at);
    assert!(
        matches!(take(Some(job.fence)).await, LeaseAttempt::Held),
        "once"
    );
    is_fenced(given, &job.at(), job.fence).await;
    given.finish(&taken.job, success()).await;
}

pub(super) async fn one_of_many_takeovers_gets_a_job(given: &Given) {
    let job = given.leased_exec("e").await;
    let answers = all_at_once(16, |number| {
        let (given, job) = (given.clone(), job.clone());
        async move {
            let owner = worker(&format!("taker-{number}"));
            given
                .store
                .lease(&job.at(), &owner, Some(job.fence), given.now())
                .await
        }
    })
    .await;
    let winners = answers
        .iter()
        .filter(|answer| matches!(answer, Ok(LeaseAttempt::Leased(_))))
        .count();
    assert_eq!(winners, 1);
    assert_eq!(given.job(&job).await.fence, job.fence.next());
}

pub(super) async fn an_old_fence_changes_nothing(given: &Given) {
    let old = given.leased_exec("e").await;
    let attempt = given
        .store
        .lease(&old.at(), &worker("second"), Some(old.fence), given.now())
        .await;
    assert!(matches!(attempt, Ok(LeaseAttempt::Leased(_))));
    let before = given.job(&old).await;
    for fence in [old.fence, NO_FENCE, before.fence.next()] {
        is_fenced(given, &old.at(), fence).await;
    }
    assert_eq!(given.job(&old).await, before);
    assert_eq!(
        given.store.output_end(&old.at()).await.expect("works"),
        Offsets::default()
    );
}

pub(super) async fn one_of_many_ends_counts(given: &Given) {
    let job = given.leased_exec("e").await;
    let answers = all_at_once(16, |number| {
        let (given, job) = (given.clone(), job.clone());
        async move {
            let end = completion(Outcome::success(result_of(&number.to_string())));
            given
                .store
                .finish(&job.at(), job.fence, end, given.now())
                .await
        }
    })
    .await;
    let winners: Vec<_> = (0..16).filter(|number| answers[*number].is_ok()).collect();
    let [winner] = winners.as_slice() else {
        panic!("{winners:?}")
    };
    let ended = given.job(&job).await;
    assert_eq!(ended.result, Some(result_of(&winner.to_string())));
}

pub(super) async fn what_has_ended_stays_as_it_is(given: &Given) {
    let job = given.leased_exec("e").await;
    given.finish(&job, success()).await;
    let ended = given.job(&job).await;
    assert_eq!(
        (ended.state, ended.lease.clone(), ended.runnable),
        (JobState::Succeeded, None, false)
    );
    assert!(ended.finished_at.is_some());
    is_fenced(given, &job.at(), job.fence).await;
    for replaces in [None, Some(job.fence)] {
        let attempt = given
            .store
            .lease(&job.at(), &worker("late"), replaces, given.now())
            .await;
        assert!(matches!(attempt, Ok(LeaseAttempt::Ended)));
    }
    let cancelled = given
        .store
        .cancel(&job.at(), cancel_request("late"), given.now())
        .await;
    assert_eq!(cancelled.expect("works").as_ref(), Some(&ended));
    assert_eq!(given.job(&job).await, ended);
}

pub(super) async fn what_is_not_there_cannot_be_worked_on(given: &Given) {
    let at = JobRef {
        tenant: environment("e").tenant,
        job: given.job_id(),
    };
    assert!(given.store.job(&at).await.expect("works").is_none());
    assert!(matches!(
        given.try_lease(&at, "w").await,
        LeaseAttempt::Ended
    ));
    is_fenced(given, &at, Fence(1)).await;
    let cancelled = given
        .store
        .cancel(&at, cancel_request("x"), given.now())
        .await;
    assert!(cancelled.expect("works").is_none());
    assert!(
        given
            .store
            .output(&at, Offsets::default(), 100)
            .await
            .expect("works")
            .is_empty()
    );
    assert_eq!(
        given.store.output_end(&at).await.expect("works"),
        Offsets::default()
    );
}

pub(super) async fn a_job_given_back_is_free_at_once(given: &Given) {
    let job = given.leased_exec("e").await;
    let effects = given
        .store
        .hand_back(&job.at(), job.fence, Begun::Perhaps, given.now())
        .await
        .expect("given back");
    let lane = job.input.kind().lane();
    assert_eq!(effects.runnable, [(job.at(), lane)]);
    let free = given.job(&job).await;
    assert_eq!(
        (free.state, free.lease.clone(), free.attempts),
        (JobState::Running, None, 0)
    );
    assert_eq!(
        given.store.runnable(lane, None, 10).await.expect("works"),
        [job.at()]
    );
    is_fenced(given, &job.at(), job.fence).await;
    let again = given.lease(&job).await.job;
    assert_eq!((again.fence, again.attempts), (job.fence.next(), 1));
    given.finish(&again, success()).await;
}

pub(super) async fn a_takeover_keeps_the_incarnation(given: &Given) {
    let job = given.leased_exec("e").await;
    let at = environment("e");
    let stop = given.submit(&at, JobInput::Stop {}).await.job;
    given.carry_out(&stop, EnvironmentEvent::Stopped).await;
    let start = given.submit(&at, JobInput::Start {}).await.job;
    given.carry_out(&start, started(&new_incarnation())).await;
    let attempt = given
        .store
        .lease(&job.at(), &worker("second"), Some(job.fence), given.now())
        .await;
    let Ok(LeaseAttempt::Leased(taken)) = attempt else {
        panic!("{attempt:?}")
    };
    assert_eq!(
        taken.job.incarnation, job.incarnation,
        "it may have been started there"
    );
    assert_ne!(taken.environment.incarnation, job.incarnation);
    assert_eq!(taken.environment.phase, Phase::Running);
}

pub(super) async fn a_job_that_never_began_begins_in_whatever_start_is_there(given: &Given) {
    let job = given.leased_exec("e").await;
    let next = new_incarnation();
    let restarted = EnvironmentEvent::Restarted {
        incarnation: job.incarnation.clone().expect("it runs"),
        next: next.clone(),
        restarts: 1,
        reason: Reason::new("exited", "so it was"),
    };
    let at = environment("e");
    given
        .store
        .environment_event(&at, job.generation, restarted, given.now())
        .await
        .expect("noted");
    let lease_of = |job: &Job| {
        let lease = job.lease.clone().expect("held");
        (lease.incarnation, lease.resumed)
    };
    assert_eq!(lease_of(&job), (job.incarnation.clone(), false));
    given
        .store
        .hand_back(&job.at(), job.fence, Begun::Never, given.now())
        .await
        .expect("given back");
    let again = given.lease(&job).await.job;
    assert_eq!(lease_of(&again), (Some(next.clone()), false));
    given
        .store
        .hand_back(&job.at(), again.fence, Begun::Perhaps, given.now())
        .await
        .expect("given back");
    let resumed = given.lease(&job).await.job;
    assert_eq!(lease_of(&resumed), (Some(next), true));
}

pub(super) async fn of_several_cancels_the_first_counts(given: &Given) {
    let at = given.running("e").await;
    let cancel = async |job: &Job, code: &str| {
        given
            .store
            .cancel(&job.at(), cancel_request(code), given.now())
            .await
            .expect("works")
            .expect("it is there")
    };
    let queued = given.exec(&at).await;
    let ended = cancel(&queued, "first").await;
    assert_eq!(ended, given.job(&queued).await);
    assert_eq!(ended.state, JobState::Cancelled);
    assert_eq!(cancel(&queued, "second").await, ended);

    let runs = given.exec(&at).await;
    let runs = given.lease(&runs).await.job;
    let asked = cancel(&runs, "first").await;
    assert_eq!((asked.state, asked.fence), (JobState::Running, runs.fence));
    assert_eq!(
        cancel(&runs, "second").await.cancel,
        Some(cancel_request("first"))
    );
    given.finish(&runs, success()).await;
    assert_eq!(
        given.job(&runs).await.state,
        JobState::Succeeded,
        "its worker says how it ended"
    );
}

pub(super) async fn all_of_a_completion_is_one_commit(given: &Given) {
    let at = given.running("e").await;
    let job = given.exec(&at).await;
    let job = given.lease(&job).await.job;
    given
        .store
        .progress(&job.at(), job.fence, progress(given))
        .await
        .expect("noted");
    assert_eq!(
        given
            .job(&job)
            .await
            .progress
            .map(|progress| progress.parts),
        Some(1)
    );
    let artifact = artifact_of(given, &job, "result");
    let mut end = success();
    end.outcome.output.stdout.total = 7;
    end.chunks = vec![chunk(Stream::Stdout, 0, "the end")];
    end.artifact = Some(artifact.clone());
    given.finish(&job, end).await;
    let ended = given.job(&job).await;
    assert_eq!(
        (ended.state, ended.output.stdout.total),
        (JobState::Succeeded, 7)
    );
    assert_eq!(
        given
            .store
            .output_end(&job.at())
            .await
            .expect("works")
            .stdout,
        7
    );
    let found = given
        .store
        .artifact(&at.tenant, &artifact.id)
        .await
        .expect("works");
    assert_eq!(found, Some(artifact));
}

/// An artifact that a job made.
pub(super) fn artifact_of(given: &Given, job: &Job, object: &str) -> Artifact {
    Artifact {
        id: ArtifactId::of_publish(&job.id),
        tenant: job.tenant.clone(),
        job: job.id,
        environment: job.environment.clone(),
        path: Octets::from(vec![0xff, b'x']),
        bucket: "artifacts".to_owned(),
        object: object.to_owned(),
        uri: format!("file:///{object}"),
        size: 7,
        sha256: "00".repeat(32),
        created_at: given.now(),
        agent_name: "test".to_owned(),
        execution_plan_id: Some("plan".to_owned()),
        task_id: None,
        metadata: [("a".to_owned(), "b".to_owned())].into(),
    }
}
