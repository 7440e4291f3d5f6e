//! Pods that are held ready: taken once, whole, by whoever asks first.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures::future::join_all;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube::ResourceExt as _;
use kube::api::{Api, ListParams, Patch, PatchParams};
use serde_json::json;
use shared::ports::Warm;
use shared::resources::{ByteSize, Cpu, Resources};
use tests::conformance::runtime::Given;
use tests::conformance::runtime::given::{Lodging, until};

use super::bench::Bench;

/// As many as the adapter makes in one round.
const MADE_AT_ONCE: usize = 10;

const WARM: &str = "environment-manager/warm";

/// Nobody's pods that run.
async fn warm_pods(bench: &Bench) -> Vec<String> {
    let pods: Api<Pod> = bench.namespace.api();
    let found = pods
        .list(&ListParams::default().labels(WARM))
        .await
        .unwrap();
    let runs = |pod: &&Pod| {
        let statuses = pod
            .status
            .iter()
            .flat_map(|it| it.container_statuses.iter().flatten());
        statuses.into_iter().any(|status| status.ready)
    };
    found
        .iter()
        .filter(runs)
        .map(|pod| pod.name_any())
        .collect()
}

fn wanted(given: &Given, count: usize) -> Vec<Warm> {
    let spec = given.life().placement.spec;
    vec![Warm { spec, count }]
}

/// Has so many ready of what a life asks for.
pub(crate) async fn ready(bench: &Bench, given: &Given, count: usize) {
    ready_for(bench, given, &given.life(), count).await;
}

/// The same for one life like many.
pub(crate) async fn ready_for(bench: &Bench, given: &Given, life: &Lodging, count: usize) {
    let mut now = 0;
    while now < count {
        now = count.min(now + MADE_AT_ONCE);
        let spec = life.placement.spec.clone();
        let wanted = [Warm { spec, count: now }];
        given.bed.runtime.keep_warm(&wanted).await.unwrap();
        until(async || warm_pods(bench).await.len() == now).await;
    }
    has_seen_it(given).await;
}

/// An adapter hears of pods in the order in which they change, so once it has started one it knows of those before.
async fn has_seen_it(given: &Given) {
    let other = given.life_with(Resources {
        cpu: Cpu { millis: 100 },
        memory: ByteSize(32 << 20),
        storage: ByteSize(1 << 20),
        pids: 32,
    });
    other.create().await;
    assert!(!is_warm(&other.try_create().await.unwrap().container));
    other.delete().await;
}

pub(crate) fn is_warm(container: &str) -> bool {
    container.starts_with("em-warm-")
}

#[tokio::test(flavor = "multi_thread")]
async fn two_workers_never_take_the_same() {
    let bench = Bench::new().await;
    let [one, other] = bench.open_twice().await;
    let given = Given::new(bench.bed_with(Arc::clone(&one)).await);
    ready(&bench, &given, 6).await;
    let twin = Given::new(bench.bed_with(other).await);
    has_seen_it(&twin).await;

    let lives: Vec<_> = (0..8)
        .map(|number| {
            if number % 2 == 0 {
                given.life()
            } else {
                twin.life()
            }
        })
        .collect();
    let made = join_all(lives.iter().map(Lodging::try_create)).await;
    let made: Vec<_> = made
        .into_iter()
        .map(|made| made.unwrap().container)
        .collect();
    assert_eq!(made.iter().collect::<BTreeSet<_>>().len(), 8, "{made:?}");
    assert_eq!(
        made.iter().filter(|name| is_warm(name)).count(),
        6,
        "{made:?}"
    );
    for (life, container) in lives.iter().zip(&made) {
        assert_eq!(life.run("ls -A; echo mine > mine").await.text(), "");
        // A repeated create finds what it has taken, and a start makes a pod of its own on the same volume.
        assert_eq!(&life.try_create().await.unwrap().container, container);
    }
    let life = &lives[made.iter().position(|name| is_warm(name)).unwrap()];
    life.stop().await;
    life.start().await;
    assert_eq!(life.run("cat mine").await.text(), "mine");
    assert!(!is_warm(&bench.pod(life.uid()).await.name_any()));
    join_all(lives.iter().map(Lodging::delete)).await;
    bench.assert_nothing_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_dead_worker_took_half_is_taken_whole() {
    let bench = Bench::new().await;
    let given = bench.given().await;
    ready(&bench, &given, 1).await;
    let pods: Api<Pod> = bench.namespace.api();
    let claims: Api<PersistentVolumeClaim> = bench.namespace.api();
    for continues in [true, false] {
        let life = given.life();
        let name = warm_pods(&bench).await.remove(0);
        let mark = json!({ "metadata": { "labels": {
            "environment-manager/uid": life.uid(), WARM: null,
        }}});
        pods.patch(&name, &PatchParams::default(), &Patch::Merge(&mark))
            .await
            .unwrap();
        if continues {
            assert_eq!(life.try_create().await.unwrap().container, name);
            let claim = claims.get(&name).await.unwrap();
            assert_eq!(
                claim.labels()["environment-manager/uid"],
                life.uid().as_str()
            );
            assert!(!claim.labels().contains_key(WARM));
        }
        life.delete().await;
        bench.assert_nothing_left().await;
        if continues {
            ready(&bench, &given, 1).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_wanted_any_more_goes_and_what_is_missing_comes() {
    let bench = Bench::new().await;
    let given = bench.given().await;
    ready(&bench, &given, 3).await;
    let runtime = &given.bed.runtime;
    // A pod that changes at that moment is left for the next round, since somebody may be taking it.
    let kept = async |count| {
        until(async || {
            runtime.keep_warm(&wanted(&given, count)).await.unwrap();
            warm_pods(&bench).await.len() == count
        })
        .await;
    };
    kept(1).await;
    let life = given.environment().await;
    assert!(is_warm(&bench.pod(life.uid()).await.name_any()));
    kept(1).await;
    until(async || {
        runtime.keep_warm(&[]).await.unwrap();
        warm_pods(&bench).await.is_empty()
    })
    .await;
    assert_eq!(life.run("echo well").await.text(), "well");
    given.clear().await;
}
