//! The OCI adapter on the machine's own `runc`, or on the program that `TEST_OCI_RUNTIME` names: the conformance suite, and
//! what only a look from outside can tell.

#[path = "runtime_oci/bench.rs"]
mod bench;
#[path = "runtime_oci/crashes.rs"]
mod crashes;
#[path = "runtime_oci/escapes.rs"]
mod escapes;
#[path = "runtime_oci/images.rs"]
mod images;
#[path = "runtime_oci/network.rs"]
mod network;
#[path = "runtime_oci/outside.rs"]
mod outside;
#[path = "runtime_oci/trouble.rs"]
mod trouble;
#[path = "runtime_oci/warm.rs"]
mod warm;

use shared::ports::Runtime as _;
use tests::conformance::runtime;

#[tokio::test(flavor = "multi_thread")]
async fn the_adapter_conforms() {
    let bench = bench::Bench::new();
    bench.open().check().await.expect("it can");
    runtime::suite(async || bench.bed()).await;
    bench.assert_nothing_left();
}
