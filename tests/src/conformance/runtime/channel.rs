//! The way to the runner.

use shared::ports::{Lane, RuntimeError};

use super::Given;

pub(super) async fn connections_are_independent(given: &Given) {
    let lodging = given.environment().await;
    let mut first = lodging.session().await;
    let job = first
        .begin("for i in 1 2 3 4 5 6 7 8 9; do sleep 0.05; echo $i; done")
        .await;
    let mut second = lodging.try_session(Lane::Control).await.unwrap();
    let mut third = lodging.try_session(Lane::Bulk).await.unwrap();
    assert_eq!(first.incarnation, third.incarnation);
    drop(first);
    assert_eq!(second.run("echo second").await.text(), "second");
    drop(second);
    assert_eq!(
        third.outcome(&job).await.text(),
        "1\n2\n3\n4\n5\n6\n7\n8\n9"
    );
    let unused = lodging
        .runtime
        .dial(lodging.uid(), Lane::Bulk)
        .await
        .unwrap();
    drop(unused);
    assert_eq!(third.run("echo third").await.text(), "third");
}

pub(super) async fn a_stopped_environment_cannot_be_dialled(given: &Given) {
    let never = given.life();
    let stopped = given.environment().await;
    stopped.stop().await;
    for lodging in [never, stopped] {
        let dialled = lodging.runtime.dial(lodging.uid(), Lane::Control).await;
        assert!(matches!(dialled, Err(RuntimeError::NotRunning)));
    }
}
