//! The way to the runner in a pod is cut while a command runs.

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::json;
use tests::cluster::{Cluster, serve};
use tests::proxy::{Fault, Plan};

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
            fault: Fault::ALL[random.random_range(0..Fault::ALL.len())],
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
    let struck = route.proxy.struck();
    assert!(struck >= 5, "only {struck} connections were cut");
    route.proxy.calm();
    let ended = client.ended(&job).await;
    assert_eq!(ended["result"]["exit_code"], 3, "{ended}");
    assert_eq!(ended["output"]["stdout_bytes"], SIZE);
}
