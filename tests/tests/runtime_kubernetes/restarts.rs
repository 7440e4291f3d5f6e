//! A PID 1 that ends while the pod stays, and pods that go without having been asked to.

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use kube::api::{Api, DeleteParams, EvictParams};
use runner::proto;
use shared::ports::{Restart, Sight};
use tests::cluster::kill_first_process;
use tests::conformance::runtime::given::until;

use super::bench::Bench;

#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_is_started_again_is_another_incarnation_with_the_same_records() {
    let bench = Bench::new().await;
    let given = bench.given().await;
    let lodging = given.environment().await;
    let mut session = lodging.session().await;
    let ended = session.begin("echo said; exit 3").await;
    session.outcome(&ended).await;
    let running = session
        .begin("echo begun; touch running; exec sleep 1000")
        .await;
    until(async || lodging.run("test -e running").await.code() == Some(0)).await;

    let uid = lodging.uid().clone();
    let pod = bench.pod(&uid).await;
    let name = pod.name_any();
    let runtime = &lodging.runtime;
    let restarted = async |name: &str, before| runtime.restarted(&uid, name, before).await.unwrap();
    assert_eq!(restarted(&name, 0).await, Restart::Unknown);
    assert_eq!(restarted("em-another", 0).await, Restart::Another);
    kill_first_process(&pod);

    until(async || matches!(restarted(&name, 0).await, Restart::Same { restarts: 1, .. })).await;
    assert_eq!(restarted(&name, 1).await, Restart::Unknown);
    let mut again = lodging.session().await;
    assert_ne!(again.incarnation, session.incarnation);
    let ended = again.outcome(&ended).await;
    assert_eq!((ended.code(), ended.stdout.as_str()), (Some(3), "said\n"));
    let running = again.outcome(&running).await;
    assert_eq!(running.stdout, "begun\n");
    assert_eq!(running.record.cause, proto::Cause::RunnerRestarted as i32);
    assert_eq!(running.code(), None, "nobody knows one: {running:?}");
    let held = runtime.list().await.unwrap();
    assert_eq!((held.len(), held[0].alive, held[0].restarts), (1, true, 1));
    given.clear().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_others_end_leaves_its_reason_and_its_volume() {
    let bench = Bench::new().await;
    let given = bench.given().await;
    let pods: Api<Pod> = bench.namespace.api();
    for (evicted, code) in [(false, "pod_deleted"), (true, "evicted")] {
        let lodging = given.environment().await;
        lodging.run("echo kept > file; sync").await.text();
        let name = bench.pod(lodging.uid()).await.name_any();
        if evicted {
            pods.evict(&name, &EvictParams::default()).await.unwrap();
        } else {
            let params = DeleteParams::default().grace_period(1);
            pods.delete(&name, &params).await.unwrap();
        }
        let sight = async || lodging.runtime.inspect(lodging.uid()).await.unwrap();
        until(async || matches!(sight().await, Sight::Stopped { reason: Some(_) })).await;
        let Sight::Stopped {
            reason: Some(reason),
        } = sight().await
        else {
            panic!("it has a reason");
        };
        assert_eq!(reason.code, code, "{reason:?}");
        lodging.start().await;
        assert_eq!(lodging.run("cat file").await.text(), "kept");
    }
    given.clear().await;
}
