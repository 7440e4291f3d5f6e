//! Operations at the same time.

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use shared::ports::Sight;

use super::Given;

pub(super) async fn ten_environments_are_made_at_once(given: &Given) {
    let lodgings: Vec<_> = (0..10).map(|_| given.life()).collect();
    join_all(lodgings.iter().map(|lodging| async {
        lodging.create().await;
        let name = lodging.uid().to_string();
        assert_eq!(
            lodging
                .run(&format!("echo {name} > name; cat name"))
                .await
                .text(),
            name
        );
    }))
    .await;
    assert_eq!(given.bed.runtime.list().await.unwrap().len(), 10);
    join_all(lodgings.iter().map(|lodging| async {
        assert_eq!(lodging.run("cat name").await.text(), lodging.uid().as_str());
        lodging.delete().await;
    }))
    .await;
    assert_eq!(given.bed.runtime.list().await.unwrap(), []);
}

pub(super) async fn a_delete_during_a_create_leaves_nothing(given: &Given) {
    for delay in [0, 1, 3, 10, 20, 30, 50, 80] {
        let lodging = given.life();
        let (runtime, placement) = (Arc::clone(&lodging.runtime), lodging.placement.clone());
        let creating = tokio::spawn(async move { runtime.create(&placement).await });
        tokio::time::sleep(Duration::from_millis(delay)).await;
        lodging.delete().await;
        // It came before or after, never between: what is there now is whole or not there.
        creating.await.unwrap().unwrap();
        match lodging.runtime.inspect(lodging.uid()).await.unwrap() {
            Sight::Alive | Sight::Starting { .. } => {
                assert_eq!(lodging.run("echo whole").await.text(), "whole")
            }
            seen => assert_eq!(seen, Sight::Absent),
        }
        lodging.delete().await;
        assert_eq!(
            lodging.runtime.inspect(lodging.uid()).await.unwrap(),
            Sight::Absent
        );
    }
}

pub(super) async fn starts_and_stops_of_one_environment_take_turns(given: &Given) {
    let lodging = given.environment().await;
    lodging.run("echo kept > file; sync").await.text();
    for _ in 0..3 {
        join_all((0..6).map(|number| {
            let lodging = &lodging;
            async move {
                if number % 2 == 0 {
                    let started = lodging.runtime.start(&lodging.placement).await;
                    started.unwrap();
                } else {
                    lodging.stop().await;
                }
            }
        }))
        .await;
    }
    lodging.start().await;
    assert_eq!(lodging.run("cat file").await.text(), "kept");
}
