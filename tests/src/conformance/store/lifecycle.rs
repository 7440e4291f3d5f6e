//! Environments through all phases, and what that means for their jobs.

use shared::environment::{EnvironmentEvent, EnvironmentPatch, PatchRefusal, Phase, Reason};
use shared::ids::Generation;
use shared::job::{Job, JobInput, JobState, Outcome, QueueLane};
use shared::ports::{LeaseAttempt, PatchError};

use super::given::{
    Given, cancel_request, completion, environment, exec_input, failed, new_incarnation, started,
};

fn code(job: &Job) -> Option<&str> {
    job.error.as_ref().map(|error| error.code.as_str())
}

pub(super) async fn what_waits_becomes_runnable_when_its_environment_runs(given: &Given) {
    let at = environment("e");
    let create = given.submit(&at, JobInput::Create {}).await.job;
    let waits = [given.exec(&at).await, given.exec(&at).await];
    for job in &waits {
        let attempt = given.try_lease(&job.at(), "w").await;
        assert!(matches!(attempt, LeaseAttempt::NotRunnable), "{attempt:?}");
    }
    let leased = given.lease(&create).await;
    assert_eq!(leased.environment.phase, Phase::Creating);
    assert_eq!(given.environment(&at).await, leased.environment);
    assert_eq!(leased.job.incarnation, None);
    assert!(
        given
            .store
            .runnable(QueueLane::Work, None, 10)
            .await
            .expect("works")
            .is_empty()
    );

    let incarnation = new_incarnation();
    let mut done = completion(Outcome::success(shared::job::JobResult::Lifecycle {}));
    done.event = Some(started(&incarnation));
    let effects = given.finish(&leased.job, done).await;
    let told: Vec<_> = waits
        .iter()
        .map(|job| (job.at(), QueueLane::Work))
        .collect();
    let mut effects = effects.runnable;
    effects.sort_by_key(|(job, _)| job.job);
    assert_eq!(effects, told);
    let running = given.environment(&at).await;
    assert_eq!(running.phase, Phase::Running);
    assert_eq!(running.incarnation.as_ref(), Some(&incarnation));
    let leased = given.lease(&waits[0]).await;
    assert_eq!(leased.job.incarnation.as_ref(), Some(&incarnation));
    assert_eq!(leased.environment, running);
    assert!(given.submit(&at, exec_input("true")).await.publish);
}

pub(super) async fn what_waits_fails_when_its_create_fails(given: &Given) {
    let at = environment("e");
    let create = given.submit(&at, JobInput::Create {}).await.job;
    let waits = given.exec(&at).await;
    let effects = given.carry_out(&create, failed("image_not_found")).await;
    assert!(effects.runnable.is_empty());
    let ended = given.job(&waits).await;
    assert_eq!(
        (ended.state, code(&ended)),
        (JobState::Failed, Some("environment_failed"))
    );
    assert!(ended.finished_at.is_some());
    let environment = given.environment(&at).await;
    assert_eq!(environment.phase, Phase::Failed);
    assert_eq!(
        environment.reason,
        Some(Reason::new("image_not_found", "it went wrong"))
    );
    assert!(given.store.open_jobs(&at).await.expect("works").is_empty());
}

pub(super) async fn a_stop_ends_what_runs_and_what_waits(given: &Given) {
    let at = given.running("e").await;
    let (runs, queued) = (given.exec(&at).await, given.exec(&at).await);
    let runs = given.lease(&runs).await.job;
    let stop = given.submit(&at, JobInput::Stop {}).await;
    assert!(stop.publish);
    let asked = given.job(&runs).await;
    let request = asked.cancel.expect("asked to end");
    assert_eq!(
        (asked.state, request.code.as_str()),
        (JobState::Running, "environment_stopped")
    );
    let attempt = given.try_lease(&queued.at(), "w").await;
    assert!(matches!(attempt, LeaseAttempt::NotRunnable));
    assert!(
        given.environment(&at).await.incarnation.is_some(),
        "its runner is still to be reached"
    );

    given
        .finish(
            &runs,
            completion(Outcome::ended(
                JobState::Cancelled,
                shared::job::JobError::new("x", "y"),
            )),
        )
        .await;
    given.carry_out(&stop.job, EnvironmentEvent::Stopped).await;
    let ended = given.job(&queued).await;
    assert_eq!(
        (ended.state, code(&ended)),
        (JobState::Failed, Some("environment_stopped"))
    );
    let stopped = given.environment(&at).await;
    assert_eq!((stopped.phase, stopped.incarnation), (Phase::Stopped, None));
}

pub(super) async fn a_start_is_a_new_incarnation(given: &Given) {
    let at = given.running("e").await;
    let first = given.environment(&at).await;
    let stop = given.submit(&at, JobInput::Stop {}).await.job;
    given.carry_out(&stop, EnvironmentEvent::Stopped).await;
    let start = given.submit(&at, JobInput::Start {}).await.job;
    assert_eq!(given.environment(&at).await.phase, Phase::Creating);
    let waits = given.exec(&at).await;
    let incarnation = new_incarnation();
    let effects = given.carry_out(&start, started(&incarnation)).await;
    assert_eq!(effects.runnable, [(waits.at(), QueueLane::Work)]);
    let second = given.environment(&at).await;
    assert_eq!(
        (second.uid, second.incarnation),
        (first.uid, Some(incarnation.clone()))
    );
    assert_eq!(second.generation, Generation(first.generation.0 + 2));
    assert_eq!(given.lease(&waits).await.job.incarnation, Some(incarnation));
}

pub(super) async fn a_delete_overtakes_a_create_that_waits(given: &Given) {
    let at = environment("e");
    let create = given.submit(&at, JobInput::Create {}).await.job;
    let waits = given.exec(&at).await;
    let delete = given.submit(&at, JobInput::Delete {}).await;
    assert!(
        delete.publish,
        "the create has ended: nothing holds the delete up"
    );
    for job in [&create, &waits] {
        let ended = given.job(job).await;
        assert_eq!(
            (ended.state, code(&ended)),
            (JobState::Cancelled, Some("environment_deleted"))
        );
        assert!(matches!(
            given.try_lease(&job.at(), "w").await,
            LeaseAttempt::Ended
        ));
    }
    given
        .carry_out(&delete.job, EnvironmentEvent::Deleted)
        .await;
    assert_eq!(given.environment(&at).await.phase, Phase::Deleted);
}

pub(super) async fn a_delete_waits_for_a_create_that_runs(given: &Given) {
    let at = environment("e");
    let create = given.submit(&at, JobInput::Create {}).await.job;
    let create = given.lease(&create).await.job;
    let delete = given.submit(&at, JobInput::Delete {}).await;
    assert!(!delete.publish && !delete.job.runnable);
    assert!(matches!(
        given.try_lease(&delete.job.at(), "w").await,
        LeaseAttempt::NotRunnable
    ));
    assert!(
        given.job(&create).await.cancel.is_some(),
        "the create shall end"
    );

    let mut late = completion(Outcome::success(shared::job::JobResult::Lifecycle {}));
    late.event = Some(started(&new_incarnation()));
    let effects = given.finish(&create, late).await;
    assert_eq!(effects.runnable, [(delete.job.at(), QueueLane::Lifecycle)]);
    let environment = given.environment(&at).await;
    assert_eq!(
        environment.phase,
        Phase::Deleting,
        "a later delete is not undone by an earlier create"
    );
    given
        .carry_out(&delete.job, EnvironmentEvent::Deleted)
        .await;
    assert_eq!(given.environment(&at).await.phase, Phase::Deleted);
}

pub(super) async fn a_delete_cancels_what_runs_and_leaves_the_record(given: &Given) {
    let at = given.running("e").await;
    let (runs, queued) = (given.exec(&at).await, given.exec(&at).await);
    let runs = given.lease(&runs).await.job;
    let delete = given.submit(&at, JobInput::Delete {}).await.job;
    assert_eq!(given.job(&queued).await.state, JobState::Cancelled);
    let asked = given.job(&runs).await;
    assert_eq!(
        asked.cancel.map(|request| request.code).as_deref(),
        Some("environment_deleted")
    );
    given.carry_out(&delete, EnvironmentEvent::Deleted).await;
    let left = given.job(&runs).await;
    assert_eq!(left.state, JobState::Running, "its worker writes its end");
    given
        .finish(
            &left,
            completion(Outcome::failure("environment_deleted", "gone")),
        )
        .await;
    let record = given.environment(&at).await;
    assert_eq!((record.phase, record.incarnation), (Phase::Deleted, None));
}

pub(super) async fn a_create_after_a_delete_is_a_new_life(given: &Given) {
    let at = given.running("e").await;
    let first = given.environment(&at).await;
    let left = given.exec(&at).await;
    let left = given.lease(&left).await.job;
    let delete = given.submit(&at, JobInput::Delete {}).await.job;
    given.carry_out(&delete, EnvironmentEvent::Deleted).await;
    let create = given.submit(&at, JobInput::Create {}).await;
    assert!(!create.replayed && create.publish);
    let second = given.environment(&at).await;
    assert_ne!(second.uid, first.uid);
    assert!(second.generation > first.generation);
    assert_eq!(
        (second.phase, second.created_by),
        (Phase::Pending, create.job.id)
    );

    let stale = failed("late");
    let effects = given
        .store
        .environment_event(&at, first.generation, stale, given.now())
        .await
        .expect("works");
    assert!(effects.runnable.is_empty());
    assert_eq!(
        given.environment(&at).await,
        second,
        "events of another life change nothing"
    );
    given
        .finish(
            &left,
            completion(Outcome::failure("environment_deleted", "gone")),
        )
        .await;
    assert_eq!(given.environment(&at).await, second);
    given
        .carry_out(&create.job, started(&new_incarnation()))
        .await;
    assert_eq!(given.environment(&at).await.phase, Phase::Running);
}

pub(super) async fn what_workers_see_counts_for_its_own_incarnation(given: &Given) {
    let at = environment("e");
    let incarnation = given.run(&at).await;
    let queued = given.exec(&at).await;
    let before = given.environment(&at).await;
    let fault = |incarnation| EnvironmentEvent::Fault {
        incarnation,
        reason: Reason::new("pid1_gone", "it went away"),
    };
    let see = async |generation, event| {
        given
            .store
            .environment_event(&at, generation, event, given.now())
            .await
            .expect("works")
    };
    see(before.generation, fault(new_incarnation())).await;
    see(
        Generation(before.generation.0 + 1),
        EnvironmentEvent::Stopped,
    )
    .await;
    see(before.generation, EnvironmentEvent::Stopped).await;
    assert_eq!(given.environment(&at).await, before);
    let nothing = environment("nothing");
    let unknown = given
        .store
        .environment_event(
            &nothing,
            Generation(1),
            EnvironmentEvent::Stopped,
            given.now(),
        )
        .await;
    assert!(unknown.expect("works").runnable.is_empty());
    assert!(
        given
            .store
            .environment(&nothing)
            .await
            .expect("works")
            .is_none()
    );

    see(
        before.generation,
        EnvironmentEvent::Note(Reason::new("slow", "the disk")),
    )
    .await;
    let noted = given.environment(&at).await;
    assert_eq!(
        (noted.phase, noted.reason.map(|reason| reason.code)),
        (Phase::Running, Some("slow".to_owned()))
    );
    see(before.generation, fault(incarnation)).await;
    assert_eq!(given.environment(&at).await.phase, Phase::Failed);
    assert_eq!(code(&given.job(&queued).await), Some("environment_failed"));
}

pub(super) async fn a_cancelled_lifecycle_job_leaves_nobody_waiting(given: &Given) {
    let at = environment("e");
    let create = given.submit(&at, JobInput::Create {}).await.job;
    let waits = given.exec(&at).await;
    let cancelled = given
        .store
        .cancel(&create.at(), cancel_request("cancelled"), given.now())
        .await
        .expect("works")
        .expect("it is there");
    assert_eq!(cancelled.state, JobState::Cancelled);
    let environment = given.environment(&at).await;
    assert_eq!(environment.phase, Phase::Failed);
    assert_eq!(
        environment.reason.map(|reason| reason.code).as_deref(),
        Some("cancelled")
    );
    assert_eq!(given.job(&waits).await.state, JobState::Failed);
    assert!(given.store.open_jobs(&at).await.expect("works").is_empty());
}

pub(super) async fn a_failed_delete_can_be_repeated(given: &Given) {
    let at = given.running("e").await;
    let delete = given.submit(&at, JobInput::Delete {}).await.job;
    let delete = given.lease(&delete).await.job;
    given
        .finish(
            &delete,
            completion(Outcome::failure("attempts_exhausted", "it hangs")),
        )
        .await;
    let failed = given.environment(&at).await;
    assert_eq!(failed.phase, Phase::Failed);
    assert_eq!(
        failed.reason.map(|reason| reason.code).as_deref(),
        Some("attempts_exhausted")
    );
    let again = given.submit(&at, JobInput::Delete {}).await;
    assert!(again.publish);
    given.carry_out(&again.job, EnvironmentEvent::Deleted).await;
    assert_eq!(given.environment(&at).await.phase, Phase::Deleted);
}

pub(super) async fn an_environment_is_changed_until_it_goes(given: &Given) {
    let at = environment("e");
    let patch = |label: &str, idle| EnvironmentPatch {
        labels: [("a".to_owned(), Some(label.to_owned()))].into(),
        ttl_seconds: Some(Some(9)),
        idle_timeout_seconds: idle,
    };
    let none = given.store.patch_environment(&at, patch("x", None)).await;
    assert!(
        matches!(none, Err(PatchError::NoSuchEnvironment)),
        "{none:?}"
    );
    given.run(&at).await;
    let before = given.environment(&at).await;
    let changed = given.store.patch_environment(&at, patch("x", None)).await;
    let changed = changed.expect("changed");
    assert_eq!(changed, given.environment(&at).await);
    assert_eq!(changed.spec.labels.get("a").map(String::as_str), Some("x"));
    assert_eq!(
        changed.spec.labels.get("stage"),
        before.spec.labels.get("stage")
    );
    assert_eq!(changed.spec.ttl_seconds, Some(9));
    assert_eq!(
        changed.spec.idle_timeout_seconds,
        before.spec.idle_timeout_seconds
    );
    assert_eq!(
        (changed.generation, changed.phase),
        (before.generation, before.phase)
    );
    let many = EnvironmentPatch {
        labels: (0..64)
            .map(|number| (format!("l{number}"), Some(String::new())))
            .collect(),
        ..EnvironmentPatch::default()
    };
    let many = given.store.patch_environment(&at, many).await;
    assert!(
        matches!(many, Err(PatchError::Refused(PatchRefusal::TooManyLabels))),
        "{many:?}"
    );
    assert_eq!(
        given.environment(&at).await,
        changed,
        "a refusal changes nothing"
    );
    let changed = given
        .store
        .patch_environment(&at, patch("y", Some(None)))
        .await;
    assert_eq!(changed.expect("changed").spec.idle_timeout_seconds, None);
    let delete = given.submit(&at, JobInput::Delete {}).await.job;
    for _ in 0..2 {
        let gone = given.store.patch_environment(&at, patch("z", None)).await;
        assert!(
            matches!(gone, Err(PatchError::Refused(PatchRefusal::Gone(_)))),
            "{gone:?}"
        );
        if given.environment(&at).await.phase == Phase::Deleting {
            given.carry_out(&delete, EnvironmentEvent::Deleted).await;
        }
    }
}
