//! Accepting jobs.

use std::collections::HashSet;

use shared::admission::Refusal;
use shared::environment::{EnvironmentEvent, Phase};
use shared::ids::{EnvironmentUid, JobRef};
use shared::job::{JobInput, JobState};
use shared::ports::{JobFilter, SubmitError};

use super::given::{Given, all_at_once, environment, exec_input, failed, key, page, spec};

pub(super) async fn a_job_is_there_when_its_submit_returned(given: &Given) {
    let at = environment("A.b_c-");
    let submission = given.submission(&at, JobInput::Create {});
    let id = submission.request.id;
    let now = given.now();
    let submitted = given.store.submit(submission, now).await.expect("accepted");
    assert!(!submitted.replayed && submitted.publish);
    let job = given.job(&submitted.job).await;
    assert_eq!(job, submitted.job);
    assert_eq!(
        (job.id, job.state, job.runnable),
        (id, JobState::Queued, true)
    );
    assert_eq!(
        (job.created_at, job.environment.clone()),
        (now, at.environment.clone())
    );
    assert_eq!(job.labels.get("team").map(String::as_str), Some("blue"));
    let made = given.environment(&at).await;
    assert_eq!(
        (made.phase, made.created_by, &made.spec),
        (Phase::Pending, id, &spec())
    );
    assert_eq!(
        (&made.uid, made.generation),
        (&EnvironmentUid::of_create(&id), job.generation)
    );

    let waits = given.submit(&at, exec_input("true")).await;
    assert!(!waits.replayed && !waits.publish && !waits.job.runnable);
    assert_eq!(given.job(&waits.job).await, waits.job);
}

pub(super) async fn what_an_environment_does_not_allow_is_refused_and_leaves_nothing(
    given: &Given,
) {
    let at = environment("e");
    let refusal = |answer: Result<_, SubmitError>| match answer.expect_err("refused") {
        SubmitError::Refused(refusal) => refusal,
        other => panic!("{other}"),
    };
    for input in [
        exec_input("true"),
        JobInput::Start {},
        JobInput::Stop {},
        JobInput::Delete {},
    ] {
        let refused = refusal(given.try_submit(&at, input).await);
        assert_eq!(refused, Refusal::NoSuchEnvironment("e".to_owned()));
    }
    assert!(given.store.environment(&at).await.expect("works").is_none());

    let create = given.submit(&at, JobInput::Create {}).await.job;
    let mut other = given.submission(&at, JobInput::Create {});
    if let Some(spec) = &mut other.request.spec {
        spec.image = "another".to_owned();
    }
    let other = given.store.submit(other, given.now()).await;
    assert_eq!(refusal(other), Refusal::DifferentSpec);
    for input in [JobInput::Start {}, JobInput::Stop {}] {
        let refused = refusal(given.try_submit(&at, input).await);
        assert!(
            matches!(
                refused,
                Refusal::NotAllowed {
                    phase: "pending",
                    ..
                }
            ),
            "{refused:?}"
        );
    }

    given.carry_out(&create, failed("image_not_found")).await;
    let refused = refusal(given.try_submit(&at, exec_input("true")).await);
    let why = refused.to_string();
    assert!(
        why.contains("failed") && why.contains("it went wrong"),
        "{why}"
    );

    let delete = given.submit(&at, JobInput::Delete {}).await.job;
    assert_eq!(
        refusal(given.try_submit(&at, exec_input("true")).await),
        Refusal::Gone("deleting")
    );
    given.carry_out(&delete, EnvironmentEvent::Deleted).await;
    for input in [
        exec_input("true"),
        JobInput::Start {},
        JobInput::Stop {},
        JobInput::Delete {},
    ] {
        assert_eq!(
            refusal(given.try_submit(&at, input).await),
            Refusal::Gone("deleted")
        );
    }
    let jobs = given
        .store
        .jobs(&at.tenant, &JobFilter::default(), page(100, None))
        .await
        .expect("a page");
    let ids: Vec<_> = jobs.items.iter().map(|job| job.id).collect();
    assert_eq!(ids, [delete.id, create.id], "what was refused left no job");
}

pub(super) async fn racers_on_one_key_make_one_job(given: &Given) {
    let at = given.running("e").await;
    let answers = all_at_once(64, |_| {
        let (given, at) = (given.clone(), at.clone());
        async move {
            given
                .submit_keyed(&at, exec_input("true"), key("k", "POST /x", 1))
                .await
        }
    })
    .await;
    let answers: Vec<_> = answers
        .into_iter()
        .map(|answer| answer.expect("accepted"))
        .collect();
    let ids: HashSet<_> = answers.iter().map(|answer| answer.job.id).collect();
    assert_eq!(ids.len(), 1, "all are answered with the same job");
    assert_eq!(answers.iter().filter(|answer| !answer.replayed).count(), 1);
    assert_eq!(answers.iter().filter(|answer| answer.publish).count(), 1);
    assert_eq!(given.store.open_jobs(&at).await.expect("works").len(), 1);
}

pub(super) async fn a_key_belongs_to_its_request_scope_and_content(given: &Given) {
    let at = given.running("e").await;
    let submit = |key| given.submit_keyed(&at, exec_input("true"), key);
    let first = submit(key("k", "POST /x", 1)).await.expect("accepted");
    let reused = submit(key("k", "POST /x", 2)).await;
    assert!(matches!(reused, Err(SubmitError::KeyReused)));
    let scope = submit(key("k", "POST /y", 2))
        .await
        .expect("another scope is another key");
    let other = submit(key("l", "POST /x", 2)).await.expect("another key");
    let same = submit(key("k", "POST /x", 1)).await.expect("the first");
    assert!(same.replayed && same.job.id == first.job.id);
    assert!(!scope.replayed && !other.replayed);
    assert_eq!(given.store.open_jobs(&at).await.expect("works").len(), 3);
}

pub(super) async fn a_replay_answers_the_job_as_it_is(given: &Given) {
    let at = given.running("e").await;
    let first = given
        .submit_keyed(&at, exec_input("true"), key("k", "s", 1))
        .await
        .expect("accepted");
    given.lease(&first.job).await;
    let again = given
        .submit_keyed(&at, exec_input("true"), key("k", "s", 1))
        .await
        .expect("a replay");
    assert!(again.replayed && !again.publish);
    assert_eq!(again.job, given.job(&first.job).await);
    assert_eq!(again.job.state, JobState::Running);

    let delete = given.submit(&at, JobInput::Delete {}).await.job;
    let late = given
        .submit_keyed(&at, exec_input("true"), key("k", "s", 1))
        .await
        .expect("a replay is answered though the environment would refuse it");
    assert_eq!(late.job.id, first.job.id);
    assert_ne!(delete.id, first.job.id);
}

pub(super) async fn a_refused_request_leaves_its_key_unused(given: &Given) {
    let at = environment("e");
    let refused = given
        .submit_keyed(&at, exec_input("true"), key("k", "s", 1))
        .await;
    assert!(matches!(refused, Err(SubmitError::Refused(_))));
    given.run(&at).await;
    let accepted = given
        .submit_keyed(&at, exec_input("true"), key("k", "s", 2))
        .await;
    assert!(!accepted.expect("the key is free").replayed);
}

pub(super) async fn racing_creates_of_one_environment_make_one_job(given: &Given) {
    let at = environment("e");
    let answers = all_at_once(32, |number| {
        let (given, at) = (given.clone(), at.clone());
        async move {
            let key = key(&format!("key-{number}"), "create", 1);
            given
                .submit_keyed(&at, JobInput::Create {}, key)
                .await
                .expect("accepted")
        }
    })
    .await;
    let ids: HashSet<_> = answers.iter().map(|answer| answer.job.id).collect();
    assert_eq!(ids.len(), 1);
    assert_eq!(answers.iter().filter(|answer| !answer.replayed).count(), 1);
    let made = given.environment(&at).await;
    assert!(ids.contains(&made.created_by));
    assert_eq!(made.generation.0, 1);

    let create = &answers[0].job;
    given.carry_out(create, failed("x")).await;
    let delete = given.submit(&at, JobInput::Delete {}).await.job;
    given.carry_out(&delete, EnvironmentEvent::Deleted).await;
    let again = given
        .submit_keyed(&at, JobInput::Create {}, key("key-7", "create", 1))
        .await;
    assert!(
        again.expect("a replay").replayed,
        "the key still answers its first job"
    );
}

pub(super) async fn the_same_job_submitted_again_is_one_job(given: &Given) {
    let at = given.running("e").await;
    let submission = given.submission(&at, exec_input("true"));
    let answers = all_at_once(8, |_| {
        let (given, submission) = (given.clone(), submission.clone());
        async move {
            given
                .store
                .submit(submission, given.now())
                .await
                .expect("accepted")
        }
    })
    .await;
    assert_eq!(answers.iter().filter(|answer| !answer.replayed).count(), 1);
    let own = JobRef {
        tenant: at.tenant.clone(),
        job: submission.request.id,
    };
    assert!(answers.iter().all(|answer| answer.job.at() == own));
    assert_eq!(given.store.open_jobs(&at).await.expect("works").len(), 1);
}
