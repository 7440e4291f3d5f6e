//! The installation's id, heartbeats and roles.

use shared::ids::WorkerId;
use shared::ports::RoleHolder;

use super::given::{Given, all_at_once, worker};

pub(super) async fn the_instance_stays(given: &Given) {
    let answers = all_at_once(8, |_| {
        let given = given.clone();
        async move { given.store.instance().await.expect("an id") }
    })
    .await;
    assert!(answers.iter().all(|id| *id == answers[0]));
    given.store.check().await.expect("it can work");
}

pub(super) async fn heartbeats_change_and_go(given: &Given) {
    let count = async |of: &WorkerId| {
        let beats = given.store.beats().await.expect("works");
        beats
            .into_iter()
            .find(|beat| beat.worker == *of)
            .map(|beat| beat.count)
    };
    let (a, b) = (worker("a"), worker("b"));
    assert_eq!(count(&a).await, None);
    given.store.beat(&a).await.expect("beats");
    let first = count(&a).await;
    given.store.beat(&b).await.expect("beats");
    assert_eq!(
        count(&a).await,
        first,
        "another's heartbeat does not change it"
    );
    given.store.beat(&a).await.expect("beats");
    let second = count(&a).await;
    assert!(first.is_some() && second.is_some() && first != second);
    given.store.retire(&a).await.expect("retires");
    given.store.retire(&a).await.expect("retires once more");
    assert_eq!(count(&a).await, None);
    assert!(count(&b).await.is_some());
}

pub(super) async fn a_role_changes_hands_by_compare_and_set(given: &Given) {
    let (a, b) = (worker("a"), worker("b"));
    let take = async |owner: &WorkerId, from: Option<&RoleHolder>| {
        given
            .store
            .take_role("sweeper", owner, from)
            .await
            .expect("works")
    };
    let holder = async || given.store.role("sweeper").await.expect("works");
    assert_eq!(holder().await, None);
    assert!(take(&a, None).await);
    let first = holder().await.expect("held");
    assert_eq!(first.owner, a);
    assert!(!take(&b, None).await, "it is held by now");
    assert_eq!(holder().await.as_ref(), Some(&first));
    assert!(take(&b, Some(&first)).await);
    let second = holder().await.expect("held");
    assert!(second.owner == b && second.fence > first.fence);
    assert!(!take(&a, Some(&first)).await, "it changed hands");
    assert!(take(&a, Some(&second)).await);
    assert!(
        !take(&b, Some(&first)).await,
        "the owner of before under another fence"
    );
    assert_eq!(given.store.role("other").await.expect("works"), None);
}

pub(super) async fn one_of_many_gets_a_role(given: &Given) {
    let mut from = None;
    for round in 0..3 {
        let answers = all_at_once(16, |number| {
            let (given, from) = (given.clone(), from.clone());
            async move {
                let owner = worker(&format!("worker-{round}-{number}"));
                given
                    .store
                    .take_role("sweeper", &owner, from.as_ref())
                    .await
                    .expect("works")
            }
        })
        .await;
        let winners: Vec<_> = (0..16).filter(|number| answers[*number]).collect();
        assert_eq!(winners.len(), 1, "{winners:?}");
        from = given.store.role("sweeper").await.expect("works");
        let winner = worker(&format!("worker-{round}-{}", winners[0]));
        assert_eq!(from.as_ref().map(|holder| &holder.owner), Some(&winner));
    }
}
