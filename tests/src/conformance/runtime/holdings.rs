//! What a runtime holds, and whose it is.

use std::sync::Arc;
use std::time::Duration;

use shared::ports::Sight;

use super::Given;
use super::given::Lodging;

pub(super) async fn only_the_own_instance_is_listed(given: &Given) {
    let (running, stopped) = (given.environment().await, given.environment().await);
    stopped.stop().await;
    let foreign = foreign(given).await;
    let mut found = given.bed.runtime.list().await.unwrap();
    found.sort_by(|one, other| one.uid.cmp(&other.uid));
    let mut expected = [(running.uid(), true), (stopped.uid(), false)];
    expected.sort();
    let seen: Vec<_> = found
        .iter()
        .map(|holding| (&holding.uid, holding.alive))
        .collect();
    assert_eq!(seen, expected);
    assert!(
        found.iter().all(|holding| holding.age_seconds < 3600),
        "{found:?}"
    );
    let theirs = foreign.runtime.list().await.unwrap();
    assert_eq!(theirs.len(), 1);
    assert_eq!(&theirs[0].uid, foreign.uid());
}

pub(super) async fn what_is_of_another_instance_is_left_alone(given: &Given) {
    let foreign = foreign(given).await;
    let incarnation = foreign.session().await.incarnation;
    let own = &given.bed.runtime;
    assert_eq!(own.inspect(foreign.uid()).await.unwrap(), Sight::Absent);
    own.stop(foreign.uid(), Duration::ZERO).await.unwrap();
    own.kill(foreign.uid(), None).await.unwrap();
    own.delete(foreign.uid()).await.unwrap();
    assert!(
        own.dial(foreign.uid(), shared::ports::Lane::Control)
            .await
            .is_err()
    );
    assert!(own.create(&foreign.placement).await.is_err());
    assert!(own.start(&foreign.placement).await.is_err());
    assert_eq!(
        foreign.runtime.inspect(foreign.uid()).await.unwrap(),
        Sight::Alive
    );
    assert_eq!(foreign.session().await.incarnation, incarnation);
}

/// An environment of the other instance.
async fn foreign(given: &Given) -> Lodging {
    let lodging = Lodging {
        runtime: Arc::clone(&given.bed.foreign),
        ..given.life()
    };
    lodging.create().await;
    lodging
}
