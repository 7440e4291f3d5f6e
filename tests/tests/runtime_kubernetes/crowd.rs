//! Many environments at once on one node, and nothing asked of the API server for those that idle.

use std::collections::BTreeSet;
use std::time::Duration;

use futures::future::join_all;
use shared::resources::{ByteSize, Cpu, Resources};
use tests::cluster::Cluster;

use super::bench::Bench;
use super::warm;

/// So little that a node with two processors has room for fifty.
const SMALL: Resources = Resources {
    cpu: Cpu { millis: 200 },
    memory: ByteSize(48 << 20),
    storage: ByteSize(16 << 20),
    pids: 64,
};

#[tokio::test(flavor = "multi_thread")]
async fn fifty_at_once_are_made_used_and_deleted() {
    let bench = Bench::new().await;
    let given = bench.given().await;
    let lodgings: Vec<_> = (0..50).map(|_| given.life_with(SMALL)).collect();
    let made = lodgings.iter().map(|lodging| async {
        let made = lodging.runtime.create(&lodging.placement).await.unwrap();
        let heard = Default::default();
        // A node with two processors takes its time for fifty.
        lodging
            .runtime
            .started(&lodging.placement, &made, &heard)
            .await
            .unwrap();
        let name = lodging.uid().to_string();
        let said = lodging.run(&format!("echo {name} > name; cat name")).await;
        assert_eq!(said.text(), name);
    });
    join_all(made).await;
    let runtime = &given.bed.runtime;
    let alive = runtime.list().await.unwrap();
    assert_eq!(alive.iter().filter(|held| held.alive).count(), 50);
    join_all(lodgings.iter().map(|lodging| lodging.delete())).await;
    assert_eq!(runtime.list().await.unwrap(), []);
    bench.assert_nothing_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_from_the_pool_and_twenty_cold_at_once() {
    let bench = Bench::new().await;
    let given = bench.given().await;
    let lodgings: Vec<_> = (0..40).map(|_| given.life_with(SMALL)).collect();
    warm::ready_for(&bench, &given, &lodgings[0], 20).await;
    let made = join_all(lodgings.iter().map(async |lodging| {
        let made = lodging.try_create().await.unwrap();
        let name = lodging.uid().to_string();
        let said = lodging
            .run(&format!("ls -A; echo {name} > name; cat name"))
            .await;
        assert_eq!(said.text(), name, "it is new");
        made.container
    }))
    .await;
    let from_pool = made.iter().filter(|name| warm::is_warm(name)).count();
    assert_eq!(from_pool, 20, "{made:?}");
    assert_eq!(made.iter().collect::<BTreeSet<_>>().len(), 40, "{made:?}");
    join_all(lodgings.iter().map(|lodging| lodging.delete())).await;
    bench.assert_nothing_left().await;
}

/// What a minute of an idle environment costs the API server, by its own record. A cluster of another making keeps that
/// to itself.
#[tokio::test(flavor = "multi_thread")]
async fn an_idle_environment_asks_nothing_of_the_api_server() {
    let cluster = Cluster::shared().await;
    let Some(log) = cluster.audit_log() else {
        return;
    };
    let bench = Bench::on(&cluster).await;
    let given = bench.given().await;
    let lodging = given.environment().await;
    lodging.run("echo used").await.text();
    let requests = || {
        let record = std::fs::read_to_string(&log).unwrap();
        let own = format!("/namespaces/{}/", bench.namespace.name());
        record.lines().filter(|line| line.contains(&own)).count()
    };
    // A request that has ended may be written down a little later.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let before = requests();
    for _ in 0..20 {
        given.bed.runtime.list().await.unwrap();
        given.bed.runtime.check().await.unwrap();
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    assert_eq!(requests(), before);
    given.clear().await;
}
