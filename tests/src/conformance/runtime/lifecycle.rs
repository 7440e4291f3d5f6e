//! Create, start, stop, kill, delete, one at a time.

use std::time::Duration;

use runner::proto;
use shared::environment::Egress;
use shared::ports::{RuntimeError, Sight};

use super::Given;
use super::given::PATIENCE;

pub(super) async fn a_create_is_repeatable(given: &Given) {
    let lodging = given.life();
    assert_eq!(sight(given, &lodging).await, Sight::Absent);
    let first = lodging.try_create().await.unwrap();
    let incarnation = lodging.session().await.incarnation;
    lodging.run("echo kept > file").await.text();
    let again = lodging.try_create().await.unwrap();
    assert_eq!(again, first);
    assert_eq!(lodging.session().await.incarnation, incarnation);
    lodging.stop().await;
    lodging.create().await;
    assert_ne!(lodging.session().await.incarnation, incarnation);
    assert_eq!(lodging.run("cat file").await.text(), "kept");
    assert_eq!(sight(given, &lodging).await, Sight::Alive);
}

pub(super) async fn a_volume_outlives_stop_and_start(given: &Given) {
    let lodging = given.environment().await;
    let incarnation = lodging.session().await.incarnation;
    lodging
        .run("echo kept > file; echo gone > /tmp/file; mkdir -p a/b; ln -s a/b link")
        .await
        .text();
    lodging.stop().await;
    assert_eq!(
        sight(given, &lodging).await,
        Sight::Stopped { reason: None }
    );
    lodging.stop().await;
    lodging.start().await;
    assert_eq!(sight(given, &lodging).await, Sight::Alive);
    assert_ne!(lodging.session().await.incarnation, incarnation);
    let there = lodging
        .run("cat file; readlink link; test -e /tmp/file || echo no")
        .await;
    assert_eq!(there.text(), "kept\na/b\nno");
}

pub(super) async fn what_the_runner_kept_outlives_stop_and_start(given: &Given) {
    if !given.bed.does.keep_records {
        return records_go_with_a_stop(given).await;
    }
    let lodging = given.environment().await;
    let mut session = lodging.session().await;
    let finished = session.begin("echo said; exit 3").await;
    session.outcome(&finished).await;
    let running = session.begin("echo begun; exec sleep 1000").await;
    lodging.stop().await;
    lodging.start().await;
    let mut session = lodging.session().await;
    let finished = session.outcome(&finished).await;
    assert_eq!(
        (finished.code(), finished.stdout.as_str()),
        (Some(3), "said\n")
    );
    let ended = session.outcome(&running).await;
    assert_eq!(ended.record.phase, proto::JobPhase::Ended as i32);
    assert_ne!(ended.code(), Some(0));
}

/// A runner that knows nothing of a job says so: nobody takes that for an end.
async fn records_go_with_a_stop(given: &Given) {
    let lodging = given.environment().await;
    let mut session = lodging.session().await;
    let incarnation = session.incarnation.clone();
    let finished = session.begin("echo said; exit 3").await;
    session.outcome(&finished).await;
    lodging.stop().await;
    lodging.start().await;
    let mut session = lodging.session().await;
    let seal = proto::SealRequest {
        job_id: finished,
        fence: 2,
        incarnation: incarnation.to_string(),
    };
    let sealed = session.client.seal(seal).await.unwrap().into_inner();
    let never = proto::NeverStarted { proven: false };
    let fate = proto::seal_reply::Fate::NeverStarted(never);
    assert_eq!(
        sealed.fate,
        Some(fate),
        "nothing is proven of the one before"
    );
}

pub(super) async fn a_start_needs_a_volume(given: &Given) {
    let lodging = given.life();
    let refused = lodging.runtime.start(&lodging.placement).await;
    assert!(
        matches!(refused, Err(RuntimeError::VolumeMissing)),
        "{refused:?}"
    );
    lodging.create().await;
    lodging.delete().await;
    let refused = lodging.runtime.start(&lodging.placement).await;
    assert!(
        matches!(refused, Err(RuntimeError::VolumeMissing)),
        "{refused:?}"
    );
    assert_eq!(sight(given, &lodging).await, Sight::Absent);
}

pub(super) async fn a_start_of_what_runs_changes_nothing(given: &Given) {
    let lodging = given.environment().await;
    let mut session = lodging.session().await;
    let job = session.begin("sleep 0.2; echo through").await;
    lodging.start().await;
    assert_eq!(session.outcome(&job).await.text(), "through");
    assert_eq!(lodging.session().await.incarnation, session.incarnation);
}

pub(super) async fn a_delete_leaves_nothing(given: &Given) {
    let lodging = given.environment().await;
    let mut session = lodging.session().await;
    session.run("echo there > file").await.text();
    session.begin("trap '' TERM; sleep 1000 & sleep 1000").await;
    lodging.delete().await;
    assert_eq!(sight(given, &lodging).await, Sight::Absent);
    assert_eq!(lodging.runtime.list().await.unwrap(), []);
    assert!(
        lodging
            .try_session(shared::ports::Lane::Control)
            .await
            .is_err()
    );
    lodging.delete().await;
    lodging.create().await;
    assert_eq!(lodging.run("ls -A").await.text(), "");
}

pub(super) async fn a_kill_is_at_once_and_keeps_the_volume(given: &Given) {
    let lodging = given.life();
    let made = lodging.try_create().await.unwrap();
    let mut session = lodging.session().await;
    session.run("echo kept > file; sync").await.text();
    session
        .begin("trap '' TERM INT HUP; while :; do sleep 1; done")
        .await;
    let kill = async |container| {
        let killed = lodging.runtime.kill(lodging.uid(), container).await;
        killed.unwrap();
    };
    kill(Some("another-container")).await;
    assert_eq!(sight(given, &lodging).await, Sight::Alive);
    kill(Some(&made.container)).await;
    let seen = sight(given, &lodging).await;
    assert!(matches!(seen, Sight::Stopped { .. }), "{seen:?}");
    kill(None).await;
    lodging.start().await;
    assert_eq!(lodging.run("cat file").await.text(), "kept");
}

pub(super) async fn a_stop_does_not_wait_for_those_who_ignore_it(given: &Given) {
    let lodging = given.environment().await;
    let mut session = lodging.session().await;
    session
        .begin("trap '' TERM; while :; do sleep 1; done")
        .await;
    let stopped = lodging
        .runtime
        .stop(lodging.uid(), Duration::from_millis(100));
    super::given::within(stopped).await.unwrap();
    let seen = sight(given, &lodging).await;
    assert!(matches!(seen, Sight::Stopped { .. }), "{seen:?}");
}

pub(super) async fn what_was_never_there_can_be_stopped_killed_and_deleted(given: &Given) {
    let lodging = given.life();
    lodging.runtime.stop(lodging.uid(), PATIENCE).await.unwrap();
    lodging.runtime.kill(lodging.uid(), None).await.unwrap();
    lodging.runtime.delete(lodging.uid()).await.unwrap();
    assert_eq!(sight(given, &lodging).await, Sight::Absent);
}

pub(super) async fn what_cannot_be_had_is_refused(given: &Given) {
    lodging_of_no_image(given).await;
    let offered = given.bed.runtime.offer().egress;
    for egress in [Egress::None, Egress::Internet, Egress::Cluster] {
        let mut lodging = given.life();
        lodging.placement.spec.egress = egress;
        let made = lodging.try_create().await;
        if offered.contains(&egress) {
            made.unwrap();
        } else {
            assert!(
                matches!(made, Err(RuntimeError::Unsupported(_))),
                "{made:?}"
            );
            assert_eq!(sight(given, &lodging).await, Sight::Absent);
        }
    }
}

async fn lodging_of_no_image(given: &Given) {
    let mut lodging = given.life();
    lodging.placement.spec.image = "no.such.registry.invalid/image:1".to_owned();
    let refused = lodging.try_create().await;
    let Err(RuntimeError::ImageNotFound { image, why }) = refused else {
        panic!("{refused:?}");
    };
    assert_eq!(image, lodging.placement.spec.image);
    assert!(!why.is_empty());
}

async fn sight(given: &Given, lodging: &super::given::Lodging) -> Sight {
    given.bed.runtime.inspect(lodging.uid()).await.unwrap()
}
