//! Requests whose answer never comes, or comes to another: what they did is found when they are made again.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use kube::api::{Api, DeleteParams, Patch, PatchParams};
use serde_json::{Value, json};
use shared::ports::{RuntimeError, Started};
use tests::cluster::Cluster;
use tests::conformance::runtime::Given;
use tests::conformance::runtime::given::{Lodging, until, within};
use tests::proxy::{Fault, Plan};

use super::bench::Bench;

/// Between two lives' cuts, in bytes of a connection: less than any request with its answer.
const STEP: u64 = 700;

/// Lives, each cut a step later than the one before; by the last a whole create passes.
const LIVES: u64 = 40;

/// Lives that two workers make at once, at most, until they were in each other's way.
const RACES: usize = 20;

#[tokio::test(flavor = "multi_thread")]
async fn a_create_whose_answer_was_lost_makes_nothing_twice() {
    let cluster = Cluster::shared().await;
    let mut bench = Bench::on(&cluster).await;
    let route = cluster.route().await;
    bench.use_kubeconfig(route.kubeconfig());
    let given = bench.given().await;
    let mut cut_short = 0;
    for life in 0..LIVES {
        let after = life * STEP;
        route.proxy.plan(move || {
            Some(Plan {
                after,
                fault: Some(Fault::Kill),
            })
        });
        route.proxy.strike(Fault::Kill);
        let lodging = given.life();
        // The first may be sent over a connection that is gone, which makes no new one.
        for _ in 0..2 {
            let cut = lodging.runtime.create(&lodging.placement).await;
            cut_short += usize::from(cut.is_err());
            let expected = matches!(&cut, Ok(_) | Err(RuntimeError::Unavailable(_)));
            assert!(expected, "{cut:?}");
        }
        route.proxy.calm();
        route.proxy.strike(Fault::Kill);
        let made = within(made_at_last(&lodging)).await;
        let pod = bench.pod(lodging.uid()).await;
        assert_eq!(Some(pod.name_any()), Some(made.container));
        assert_eq!(pod.uid(), made.object);
        assert_eq!(bench.claims(lodging.uid()).await.len(), 1);
        within(gone_at_last(&lodging)).await;
    }
    assert!(cut_short > 0, "nothing was cut");
    bench.assert_nothing_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_another_worker_made_of_the_same_life_a_moment_before_is_kept() {
    let cluster = Cluster::shared().await;
    let bench = Bench::on(&cluster).await;
    let [one, other] = bench.open_twice().await;
    let given = Given::new(bench.bed_with(one).await);
    let both = BTreeSet::from(["persistentvolumeclaims".to_owned(), "pods".to_owned()]);
    for _ in 0..RACES {
        let lodging = given.life();
        let (mine, its) = tokio::join!(
            lodging.runtime.create(&lodging.placement),
            other.create(&lodging.placement),
        );
        assert_eq!(mine.unwrap(), its.unwrap(), "one pod");
        // With the claim there already, both come to the pod at the same time.
        lodging.stop().await;
        let (mine, its) = tokio::join!(
            lodging.runtime.start(&lodging.placement),
            other.start(&lodging.placement),
        );
        assert_eq!(mine.unwrap(), its.unwrap(), "one pod again");
        lodging.delete().await;
        // A cluster of another making keeps its record to itself.
        let Some(log) = cluster.audit_log() else {
            continue;
        };
        if taken(&log, bench.namespace.name()) == both {
            bench.assert_nothing_left().await;
            return;
        }
    }
    assert!(
        cluster.audit_log().is_none(),
        "they were never in each other's way"
    );
}

async fn made_at_last(lodging: &Lodging) -> Started {
    loop {
        match lodging.runtime.create(&lodging.placement).await {
            Ok(made) => return made,
            Err(RuntimeError::Unavailable(_)) => {}
            Err(error) => panic!("{error:?}"),
        }
    }
}

async fn gone_at_last(lodging: &Lodging) {
    while let Err(error) = lodging.runtime.delete(lodging.uid()).await {
        assert!(matches!(error, RuntimeError::Unavailable(_)), "{error:?}");
    }
}

/// What was there already when it was to be made, by the API server's own record.
fn taken(log: &Path, namespace: &str) -> BTreeSet<String> {
    let log = std::fs::read_to_string(log).unwrap();
    let events = log
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let taken = events.filter(|event| {
        event["objectRef"]["namespace"] == namespace
            && event["verb"] == "create"
            && event["responseStatus"]["code"] == 409
    });
    taken
        .filter_map(|event| Some(event["objectRef"]["resource"].as_str()?.to_owned()))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delete_waits_for_a_pod_that_is_going_already() {
    let bench = Bench::new().await;
    let given = bench.given().await;
    let lodging = given.environment().await;
    let pods: Api<Pod> = bench.namespace.api();
    let name = bench.pod(lodging.uid()).await.name_any();
    let hold = |finalizers: Value| {
        let patch = json!({ "metadata": { "finalizers": finalizers } });
        let pods = pods.clone();
        let name = name.clone();
        async move {
            let params = PatchParams::default();
            pods.patch(&name, &params, &Patch::Merge(&patch))
                .await
                .unwrap();
        }
    };
    hold(json!(["environment-manager.test/hold"])).await;
    pods.delete(&name, &DeleteParams::default().grace_period(1))
        .await
        .unwrap();
    let runtime = Arc::clone(&lodging.runtime);
    let uid = lodging.uid().clone();
    let deleting = tokio::spawn(async move { runtime.delete(&uid).await });
    // The claim is asked to go, and stays as long as the pod does.
    until(async || {
        let claims = bench.claims(lodging.uid()).await;
        claims
            .iter()
            .all(|claim| claim.metadata.deletion_timestamp.is_some())
    })
    .await;
    assert!(!deleting.is_finished(), "the pod is still there");
    hold(Value::Null).await;
    within(deleting).await.unwrap().unwrap();
    bench.assert_nothing_left().await;
}
