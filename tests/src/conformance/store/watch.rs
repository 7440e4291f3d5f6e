//! Waking those who wait for a job.

use shared::job::{Begun, JobInput, Outcome};
use shared::output::Stream;
use shared::ports::LeaseAttempt;

use super::given::{
    Given, all_at_once, at_last, cancel_request, chunk, completion, environment, new_incarnation,
    result_of, started,
};

pub(super) async fn every_change_of_a_job_wakes(given: &Given) {
    let at = given.running("e").await;
    let job = given.exec(&at).await;
    let mut watch = given.store.watch(&job.at());
    let job = given.lease(&job).await.job;
    at_last("a lease wakes", watch.changed()).await;

    let output = vec![chunk(Stream::Stdout, 0, "x")];
    given
        .store
        .append_output(&job.at(), job.fence, output)
        .await
        .expect("appended");
    at_last("output wakes", watch.changed()).await;

    let cancel = given
        .store
        .cancel(&job.at(), cancel_request("x"), given.now())
        .await;
    assert!(cancel.expect("works").is_some());
    at_last("a cancel wakes", watch.changed()).await;

    given
        .store
        .hand_back(&job.at(), job.fence, Begun::Perhaps, given.now())
        .await
        .expect("given back");
    at_last("giving back wakes", watch.changed()).await;

    let LeaseAttempt::Leased(leased) = given.try_lease(&job.at(), "second").await else {
        panic!("it is free");
    };
    let mut second = given.store.watch(&job.at());
    given
        .finish(&leased.job, completion(Outcome::success(result_of(""))))
        .await;
    at_last("the end wakes", watch.changed()).await;
    at_last("it wakes everybody", second.changed()).await;
}

pub(super) async fn no_wake_is_missed(given: &Given) {
    let at = given.running("e").await;
    all_at_once(64, |_| {
        let (given, at) = (given.clone(), at.clone());
        async move {
            let job = given.exec(&at).await;
            let waiter = tokio::spawn({
                let (given, job) = (given.clone(), job.clone());
                async move {
                    let mut watch = given.store.watch(&job.at());
                    while !given.job(&job).await.state.is_terminal() {
                        watch.changed().await;
                    }
                }
            });
            let job = given.lease(&job).await.job;
            given
                .finish(&job, completion(Outcome::success(result_of(""))))
                .await;
            at_last("the waiter wakes", waiter)
                .await
                .expect("the waiter ends");
        }
    })
    .await;
}

pub(super) async fn what_others_cause_wakes_too(given: &Given) {
    let at = environment("e");
    let create = given.submit(&at, JobInput::Create {}).await.job;
    let waits = given.exec(&at).await;
    let mut watch = given.store.watch(&waits.at());
    given.carry_out(&create, started(&new_incarnation())).await;
    at_last("becoming runnable wakes", watch.changed()).await;
    given.submit(&at, JobInput::Delete {}).await;
    at_last("a delete wakes what it cancels", watch.changed()).await;
    assert!(given.job(&waits).await.state.is_terminal());
}
