//! Pods and claims without a record, in whatever state, under a real worker whose clock is set forward.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube::api::{Api, ListParams};
use shared::clock::SystemClock;
use shared::config::Settings;
use shared::directory_blobs::DirectoryBlobs;
use shared::embedded_queue::EmbeddedQueue;
use shared::orphan::OrphanKind;
use shared::ports::{Runtime, Store};
use shared::resources::{ByteSize, Cpu, Resources};
use shared::sqlite::SqliteStore;
use tests::conformance::runtime::Given;
use tests::conformance::runtime::given::until;
use tests::site::SetForward;
use tokio_util::sync::CancellationToken;
use worker::WorkerDeps;

use super::bench::Bench;

const DAY: u64 = 24 * 3600;

/// Every pod and every claim in the namespace.
async fn counts(bench: &Bench) -> (usize, usize) {
    let all = ListParams::default();
    let pods: Api<Pod> = bench.namespace.api();
    let claims: Api<PersistentVolumeClaim> = bench.namespace.api();
    let pods = pods.list(&all).await.unwrap().items;
    (pods.len(), claims.list(&all).await.unwrap().items.len())
}

async fn works(
    store: Arc<dyn Store>,
    runtime: Arc<dyn Runtime>,
    clock: Arc<SetForward>,
    soft: CancellationToken,
) {
    let folder = tempfile::tempdir().unwrap();
    let deps = WorkerDeps {
        queue: Arc::new(EmbeddedQueue::new(Arc::clone(&store), 64)),
        blobs: Arc::new(DirectoryBlobs::open(folder.path()).unwrap()),
        store,
        runtime,
        clock,
    };
    let settings = Settings::default();
    let ended = worker::run(deps, &settings, soft, CancellationToken::new()).await;
    ended.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_go_after_minutes_whatever_they_wait_for_and_claims_after_a_week() {
    let bench = Bench::new().await;
    let folder = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(&folder.path().join("db"), &SystemClock).unwrap();
    let store: Arc<dyn Store> = Arc::new(store);
    let clock = Arc::new(SetForward::default());
    let instance = store.instance().await.unwrap();
    let runtime = bench
        .open_at(bench.settings(), instance, Arc::clone(&clock) as _)
        .await;
    let given = Given::new(bench.bed_with(Arc::clone(&runtime)).await);
    given.environment().await;
    // One that waits for a node for ever.
    let waits = given.life_with(Resources {
        cpu: Cpu { millis: 100 },
        memory: ByteSize(1 << 44),
        storage: ByteSize(1 << 20),
        pids: 32,
    });
    waits.runtime.create(&waits.placement).await.unwrap();
    // Another installation's is nobody's orphan here.
    let other = Given::new(bench.bed().await);
    let foreign = other.environment().await;
    until(async || runtime.list().await.unwrap().len() == 2).await;

    let soft = CancellationToken::new();
    let working = tokio::spawn(works(
        Arc::clone(&store),
        Arc::clone(&runtime),
        Arc::clone(&clock),
        soft.clone(),
    ));
    until(async || store.orphans().await.unwrap().len() == 4).await;
    let listed = store.orphans().await.unwrap();
    let containers = listed.iter().filter(|it| it.kind == OrphanKind::Container);
    assert_eq!(containers.count(), 2, "{listed:?}");
    assert_eq!(counts(&bench).await, (3, 3));

    clock.by(11 * 60);
    until(async || counts(&bench).await == (1, 3)).await;
    clock.by(7 * DAY);
    until(async || counts(&bench).await == (1, 1)).await;
    assert_eq!(foreign.run("echo well").await.text(), "well");
    soft.cancel();
    working.await.unwrap();
    other.clear().await;
    bench.assert_nothing_left().await;
}
