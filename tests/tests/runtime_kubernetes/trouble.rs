//! What a cluster does not give: the right reason, and no hang.

use std::time::Duration;

use k8s_openapi::api::core::v1::ResourceQuota;
use kube::api::{Api, PostParams};
use serde_json::json;
use shared::environment::Reason;
use shared::ports::{Heard, RuntimeError, Sight};
use shared::resources::{ByteSize, Cpu, Resources};
use tests::cluster::{NEVER_CLASS, NO_IMAGE};
use tests::conformance::runtime::Given;
use tests::conformance::runtime::given::{Lodging, until, within};
use worker::runtime::kubernetes::KubernetesSettings;

use super::bench::Bench;

const IMPATIENT: Duration = Duration::from_secs(30);

async fn given_with(bench: &Bench, change: impl FnOnce(&mut KubernetesSettings)) -> Given {
    let mut settings = bench.settings();
    settings.start_time = IMPATIENT;
    change(&mut settings);
    let runtime = bench.open_with(settings).await;
    Given::new(bench.bed_with(runtime).await)
}

/// What was heard while it was held up, and how it failed.
async fn failed(lodging: &Lodging) -> (Option<Reason>, RuntimeError) {
    let made = lodging.runtime.create(&lodging.placement).await.unwrap();
    let heard = Heard::default();
    let starting = lodging.runtime.started(&lodging.placement, &made, &heard);
    let started = within(starting).await;
    let reason = heard.borrow().clone();
    (reason, started.expect_err("it cannot start"))
}

/// Nothing of it starts later by itself, and it can be deleted.
async fn goes(given: &Given, lodging: &Lodging) {
    lodging.delete().await;
    let seen = lodging.runtime.inspect(lodging.uid()).await.unwrap();
    assert_eq!(seen, Sight::Absent);
    given.clear().await;
}

fn of_reason(error: &RuntimeError) -> &Reason {
    match error {
        RuntimeError::Failed(reason) => reason,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_cannot_be_had_is_told_and_given_up() {
    let bench = Bench::new().await;
    let given = given_with(&bench, |_| {}).await;
    let mut lodging = given.life();
    lodging.placement.spec.image = NO_IMAGE.to_owned();
    let (heard, error) = failed(&lodging).await;
    assert_eq!(heard.unwrap().code, "image_pull_failed");
    let RuntimeError::ImageNotFound { image, why } = error else {
        panic!("{error:?}");
    };
    assert_eq!(image, NO_IMAGE);
    assert!(!why.is_empty());
    goes(&given, &lodging).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_is_no_image_is_given_up_at_once() {
    let bench = Bench::new().await;
    let given = Given::new(bench.bed().await);
    let mut lodging = given.life();
    lodging.placement.spec.image = "NO/Such:IMAGE:1".to_owned();
    let (_, error) = failed(&lodging).await;
    assert!(
        matches!(error, RuntimeError::ImageNotFound { .. }),
        "{error:?}"
    );
    goes(&given, &lodging).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_fits_no_node_is_unschedulable() {
    let bench = Bench::new().await;
    let given = given_with(&bench, |_| {}).await;
    let lodging = given.life_with(Resources {
        cpu: Cpu { millis: 1000 },
        memory: ByteSize(1 << 44),
        storage: ByteSize(1 << 30),
        pids: 64,
    });
    let (heard, error) = failed(&lodging).await;
    let reason = of_reason(&error);
    assert_eq!(reason.code, "unschedulable");
    assert!(reason.message.contains("memory"), "{reason:?}");
    assert_eq!(heard.as_ref(), Some(reason));
    goes(&given, &lodging).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_that_does_not_come_is_pending() {
    let bench = Bench::new().await;
    let class = |settings: &mut KubernetesSettings| {
        settings.storage_class = Some(NEVER_CLASS.to_owned());
    };
    let given = given_with(&bench, class).await;
    let lodging = given.life();
    let (heard, error) = failed(&lodging).await;
    let reason = of_reason(&error);
    assert_eq!(reason.code, "volume_pending", "{reason:?}");
    assert_eq!(heard.as_ref(), Some(reason));
    goes(&given, &lodging).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quota_is_named() {
    let bench = Bench::new().await;
    let given = given_with(&bench, |_| {}).await;
    let quota: ResourceQuota = serde_json::from_value(json!({
        "metadata": { "name": "small" },
        "spec": { "hard": { "pods": "0" } },
    }))
    .unwrap();
    let quotas: Api<ResourceQuota> = bench.namespace.api();
    quotas.create(&PostParams::default(), &quota).await.unwrap();
    let counts = |quota: ResourceQuota| quota.status.is_some_and(|status| status.hard.is_some());
    until(async || counts(quotas.get("small").await.unwrap())).await;
    let lodging = given.life();
    let refused = lodging.runtime.create(&lodging.placement).await;
    let error = refused.expect_err("over quota");
    let reason = of_reason(&error);
    assert_eq!(reason.code, "quota_exceeded", "{reason:?}");
    assert!(reason.message.contains("small"), "{reason:?}");
    goes(&given, &lodging).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_runner_that_cannot_be_brought_is_not_the_images_fault() {
    let bench = Bench::new().await;
    let given = given_with(&bench, |settings| {
        settings.runner_image = NO_IMAGE.to_owned()
    })
    .await;
    let lodging = given.life();
    let (_, error) = failed(&lodging).await;
    let reason = of_reason(&error);
    assert_eq!(reason.code, "runner_not_installed", "{reason:?}");
    assert!(reason.message.contains(NO_IMAGE), "{reason:?}");
    goes(&given, &lodging).await;
}
