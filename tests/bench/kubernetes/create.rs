//! From nothing to the first command's exit, cold and from what is held ready, against a pod that `kubectl` makes.

use std::time::Duration;

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube::api::{Api, ListParams};
use serde_json::json;
use tests::cluster::SMALL_IMAGE;
use tests::program::wait_until;

use super::kubectl::Kubectl;
use super::site::Site;
use crate::Failure;
use crate::ground::{Ground, WARM_UP};
use crate::report::{Report, Samples, Target};
use crate::service::Service;

const ROUNDS: usize = 10;

/// The label of pods that are held ready.
const WARM: &str = "environment-manager/warm";

pub async fn measure(ground: &Ground, report: &mut Report) -> Result<(), Failure> {
    let rounds = ground.rounds(ROUNDS);
    let site = Site::new(ground).await;
    let kubectl = site.kubectl().await?;
    let service = site.serve(ground, &[]).await?;
    let (mut cold, mut theirs) = (Samples::default(), Samples::default());
    for round in 0..rounds + 1 {
        let id = format!("cold-{round}");
        let our_time = first_exit(&service, &id).await?;
        let their_time = by_kubectl(&site, &kubectl, &id).await?;
        if round > 0 {
            cold.push(our_time);
            theirs.push(their_time);
        }
    }
    service.stop().await?;
    report.ratio(
        "create to first exit, cold",
        &cold,
        "`kubectl apply`, `wait --for=condition=Ready` and `exec` of a pod of the same image with such a claim",
        &theirs,
        Target::AtMost(1.2),
    );
    let warm = warm(ground, &site, rounds).await?;
    report.ratio(
        "create to first exit, from what is held ready",
        &warm,
        "cold",
        &cold,
        Target::AtMost(0.1),
    );
    Ok(())
}

async fn first_exit(service: &Service, id: &str) -> Result<Duration, Failure> {
    let took = service.first_exit(id).await?;
    service.delete(id).await?;
    Ok(took)
}

async fn warm(ground: &Ground, site: &Site, rounds: usize) -> Result<Samples, Failure> {
    let rounds = rounds + WARM_UP;
    // As many as are taken: none is waited for, and none made meanwhile is needed.
    let held = format!("{SMALL_IMAGE}={rounds}");
    let service = site.serve(ground, &[("EM_WORKER__WARM", &held)]).await?;
    wait_until("all are ready", async || ready(site).await == rounds).await;
    // The service hears of them when this does.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let mut samples = Samples::default();
    for round in 0..rounds {
        let id = format!("warm-{round}");
        let took = service.first_exit(&id).await?;
        if !service.container(&id).await?.starts_with("em-warm-") {
            return Err("a create did not take what was held ready".into());
        }
        if round >= WARM_UP {
            samples.push(took);
        }
    }
    service.stop().await?;
    Ok(samples)
}

/// How many are ready.
async fn ready(site: &Site) -> usize {
    let held = site.pods().list(&ListParams::default().labels(WARM)).await;
    held.map_or(0, |held| held.iter().filter(|pod| runs(pod)).count())
}

fn runs(pod: &Pod) -> bool {
    let status = pod.status.as_ref();
    let containers = status.and_then(|status| status.container_statuses.as_ref());
    containers.is_some_and(|containers| containers.iter().all(|container| container.ready))
}

async fn by_kubectl(site: &Site, kubectl: &Kubectl, id: &str) -> Result<Duration, Failure> {
    let pod = format!("pod/{id}");
    let took = kubectl.call(&["apply", "-f", "-"], &manifest(id))?
        + kubectl.run(&["wait", "--for=condition=Ready", "--timeout=120s", &pod])?
        + kubectl.run(&["exec", id, "--", "true"])?;
    // Gone before the next begins, like ours.
    let claim = format!("pvc/{id}");
    kubectl.run(&["delete", "--grace-period=1", "--wait", &pod, &claim])?;
    let claims: Api<PersistentVolumeClaim> = site.namespace.api();
    wait_until("the peer's claim is gone", async || {
        claims.get_opt(id).await.is_ok_and(|found| found.is_none())
    })
    .await;
    Ok(took)
}

/// What a user would write who needs such an environment: the same image, volume and rights, and nothing to bring.
fn manifest(id: &str) -> String {
    let claim = json!({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": { "name": id },
        "spec": {
            "accessModes": ["ReadWriteOnce"],
            "resources": { "requests": { "storage": "10Gi" } },
        },
    });
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": { "name": id },
        "spec": {
            "automountServiceAccountToken": false,
            "enableServiceLinks": false,
            "securityContext": {
                "runAsNonRoot": true, "runAsUser": 1000, "fsGroup": 1000,
                "fsGroupChangePolicy": "OnRootMismatch",
                "seccompProfile": { "type": "RuntimeDefault" },
            },
            "containers": [{
                "name": "main", "image": SMALL_IMAGE, "command": ["sleep", "2147483647"],
                "resources": {
                    "requests": { "cpu": "50m", "memory": "1Gi" },
                    "limits": { "cpu": "1", "memory": "1Gi" },
                },
                "securityContext": {
                    "allowPrivilegeEscalation": false, "capabilities": { "drop": ["ALL"] },
                },
                "volumeMounts": [{ "name": "volume", "mountPath": "/app" }],
            }],
            "volumes": [{ "name": "volume", "persistentVolumeClaim": { "claimName": id } }],
        },
    });
    json!({ "apiVersion": "v1", "kind": "List", "items": [claim, pod] }).to_string()
}
