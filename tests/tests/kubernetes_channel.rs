//! The way to the runner in a pod: cut while a command runs, and closed when nobody uses it.

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::json;
use shared::job::JobState;
use tests::cluster::{Cluster, connections, serve};
use tests::conformance::store::given::exec_input;
use tests::program::wait_until;
use tests::proxy::{Fault, Plan};
use tests::site::Site;

const MIB: u64 = 1 << 20;

/// Bytes of output.
const SIZE: u64 = 100 * MIB;

/// Numbers in order, one a line, as `seq` writes them.
fn numbers() -> Vec<u8> {
    let size = usize::try_from(SIZE).unwrap();
    let mut bytes = Vec::with_capacity(size + 16);
    let mut next = 1_u64;
    while bytes.len() < size {
        bytes.extend_from_slice(format!("{next}\n").as_bytes());
        next += 1;
    }
    bytes.truncate(size);
    bytes
}

#[tokio::test]
async fn output_over_streams_that_are_cut_anywhere_is_whole_once_and_in_order() {
    let cluster = Cluster::shared().await;
    let namespace = cluster.namespace().await;
    let route = cluster.route().await;
    let program = serve(&namespace, route.kubeconfig(), &[]).await;
    let client = program.client();
    client.create("env").await;
    let seed = rand::random();
    eprintln!("the seed of the cuts is {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    route.proxy.plan(move || {
        Some(Plan {
            after: random.random_range(MIB / 16..16 * MIB),
            fault: None,
        })
    });
    // What is open already was made before the plan.
    route.proxy.strike(Fault::Kill);
    let command = format!("seq 1 20000000 | head -c {SIZE}; exit 3");
    let job = client
        .submit(
            "env",
            &json!({ "command": command, "timeout_seconds": 900 }),
        )
        .await;
    let output = client.output(&job).await;
    assert!(output.stdout.gaps.is_empty() && !output.truncated && !output.incomplete);
    assert_eq!(output.stdout.end, SIZE);
    assert!(output.stdout.bytes == numbers());
    assert!(output.stderr.bytes.is_empty());
    let came = route.proxy.came();
    assert!(came.iter().all(|count| *count > 0), "{came:?} of each kind");
    route.proxy.calm();
    let ended = client.ended(&job).await;
    assert_eq!(ended["result"]["exit_code"], 3, "{ended}");
    assert_eq!(ended["output"]["stdout_bytes"], SIZE);
}

/// Longer than a way that nobody uses is kept.
const IDLE_SECONDS: u64 = 301;

#[tokio::test(flavor = "multi_thread")]
async fn a_way_that_nobody_uses_is_closed_and_opened_again_by_the_next_command() {
    let cluster = Cluster::shared().await;
    let namespace = cluster.namespace().await;
    let mut site = Site::in_namespace(&namespace, cluster.kubeconfig()).await;
    site.work(site.runtime.clone());
    let at = site.running("env").await;
    let pod = namespace.pod().await;
    for _ in 0..2 {
        let job = site.submit(&at, exec_input("true")).await;
        let ended = site.ended(&job).await;
        assert_eq!(ended.state, JobState::Succeeded, "{ended:?}");
        assert_eq!(connections(&pod).len(), 1, "it is kept");
        site.clock.by(IDLE_SECONDS);
        wait_until("it is closed", async || connections(&pod).is_empty()).await;
    }
    let now = namespace.pod().await;
    assert_eq!(now.metadata.uid, pod.metadata.uid, "the pod stays");
    site.end().await;
}
