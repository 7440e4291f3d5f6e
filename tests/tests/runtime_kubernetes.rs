//! The Kubernetes adapter on a real cluster: the conformance suite, and what only a look at the cluster can tell.

#[path = "runtime_kubernetes/bench.rs"]
mod bench;
#[path = "runtime_kubernetes/crowd.rs"]
mod crowd;
#[path = "runtime_kubernetes/guards.rs"]
mod guards;
#[path = "runtime_kubernetes/lost_answers.rs"]
mod lost_answers;
#[path = "runtime_kubernetes/orphans.rs"]
mod orphans;
#[path = "runtime_kubernetes/restarts.rs"]
mod restarts;
#[path = "runtime_kubernetes/role.rs"]
mod role;
#[path = "runtime_kubernetes/trouble.rs"]
mod trouble;

#[path = "runtime_kubernetes/warm.rs"]
mod warm;

use tests::conformance::runtime;

#[tokio::test(flavor = "multi_thread")]
async fn the_adapter_conforms() {
    let bench = bench::Bench::new().await;
    runtime::suite(async || bench.bed().await).await;
    bench.assert_nothing_left().await;
}
