//! What stands between an environment and the rest: network policies, and the level of Pod Security.

use std::sync::Arc;

use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::ResourceExt;
use kube::api::{Api, DeleteParams, ListParams};
use shared::config::PodSecurity;
use shared::ids::InstanceId;
use tests::cluster::{Cluster, OTHER_USER_IMAGE, SMALL_IMAGE};
use tests::conformance::runtime::{Bed, Given};
use tests::site::SetForward;
use worker::runtime::kubernetes::KubernetesSettings;

use super::bench::Bench;

async fn policies(bench: &Bench) -> Vec<String> {
    let policies: Api<NetworkPolicy> = bench.namespace.api();
    let found = policies.list(&ListParams::default()).await.unwrap();
    found.iter().map(ResourceExt::name_any).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn policies_that_others_removed_are_made_again_before_a_later_pod() {
    let bench = Bench::new().await;
    let clock = Arc::new(SetForward::default());
    let instance = InstanceId::from_random(rand::random());
    let runtime = bench
        .open_at(bench.settings(), instance, Arc::clone(&clock) as _)
        .await;
    let given = Given::new(bench.bed_with(runtime).await);
    given.environment().await;
    let made = policies(&bench).await;
    assert_eq!(made.len(), 4, "{made:?}");
    let api: Api<NetworkPolicy> = bench.namespace.api();
    api.delete(
        "environment-manager-egress-internet",
        &DeleteParams::default(),
    )
    .await
    .unwrap();
    clock.by(61);
    given.environment().await;
    assert_eq!(policies(&bench).await, made);
    given.clear().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn under_baseline_commands_are_the_user_of_their_image_who_may_be_root() {
    let cluster = Cluster::shared().await;
    let bench = Bench::under(&cluster, "baseline").await;
    for (image, user) in [(SMALL_IMAGE, 0), (OTHER_USER_IMAGE, 33)] {
        let settings = KubernetesSettings {
            security: PodSecurity::Baseline,
            ..bench.settings()
        };
        let bed = bench.bed_with(bench.open_with(settings).await).await;
        let given = Given::new(Bed {
            image: image.to_owned(),
            ..bed
        });
        let lodging = given.environment().await;
        // Of no capability, and at home in the volume.
        let look = "id -u; grep -h CapEff /proc/self/status | tr -d '\\t'; echo $HOME; echo kept > file; cat file";
        assert_eq!(
            lodging.run(look).await.text(),
            format!("{user}\nCapEff:0000000000000000\n/app\nkept")
        );
        lodging.stop().await;
        lodging.start().await;
        assert_eq!(lodging.run("cat file").await.text(), "kept");
        given.clear().await;
    }

    let restricted = Given::new(bench.bed().await);
    let lodging = restricted.environment().await;
    assert_eq!(lodging.run("id -u").await.text(), "1000");
    restricted.clear().await;
    bench.assert_nothing_left().await;
}
