//! Whether a pod that is held ready is of use: pure.

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;

use super::super::state::{self, State};
use super::super::watch::Known;
use super::super::{make, names};

/// Of what use a pod is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fitness {
    /// It can be taken.
    Ready,
    /// It may yet be ready.
    Coming,
    /// It is to be replaced: it ended, its container does not stay, its volume goes, or nobody hears of its node. Nobody
    /// loses anything.
    Unfit,
}

/// The fitness of a pod.
pub(super) fn of(pod: &Pod, known: &Known) -> Fitness {
    let lost = state::node_lost(pod).is_some();
    if lost || state::restarts(pod) > 0 || loses_its_volume(pod, known) {
        return Fitness::Unfit;
    }
    match known.state(pod) {
        State::Running { .. } => Fitness::Ready,
        State::Starting(_) => Fitness::Coming,
        State::Ended(_) => Fitness::Unfit,
    }
}

/// Whether somebody has deleted the pod's claim. It stays under the pod, and goes with it.
fn loses_its_volume(pod: &Pod, known: &Known) -> bool {
    let claim = known.claim_of(pod);
    claim.is_some_and(|claim| !make::is_there(claim))
}

/// Whether a pod is held ready in a shape, and does not go.
pub(super) fn is_nobodys(pod: &Pod, shape: &str) -> bool {
    let label = pod.labels().get(names::WARM).map(String::as_str);
    label == Some(shape) && pod.metadata.deletion_timestamp.is_none()
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::PersistentVolumeClaim;
    use serde_json::{Value, json};

    use super::*;

    fn pod(phase: &str, restarts: u32, state: &Value, ready: &Value) -> Pod {
        let container = json!({
            "name": names::CONTAINER, "image": "i", "imageID": "", "ready": false,
            "restartCount": restarts, "state": state,
        });
        let volume = json!({ "name": "v", "persistentVolumeClaim": { "claimName": "c" } });
        serde_json::from_value(json!({
            "metadata": { "name": "em-warm-1", "labels": { names::WARM: "shape" } },
            "spec": { "containers": [], "volumes": [volume] },
            "status": {
                "phase": phase, "containerStatuses": [container], "conditions": [ready],
            },
        }))
        .unwrap()
    }

    #[test]
    fn a_pod_that_does_not_stay_or_is_not_heard_of_is_of_no_use() {
        let runs = json!({ "running": {} });
        let waits = json!({ "waiting": { "reason": "ContainerCreating" } });
        let crashes = json!({ "waiting": { "reason": "CrashLoopBackOff" } });
        let well = json!({ "type": "Ready", "status": "True" });
        let silent = json!({ "type": "Ready", "status": "Unknown" });
        for (phase, restarts, state, ready, fitness) in [
            ("Running", 0, &runs, &well, Fitness::Ready),
            ("Running", 0, &runs, &silent, Fitness::Unfit),
            ("Running", 1, &runs, &well, Fitness::Unfit),
            ("Running", 4, &crashes, &well, Fitness::Unfit),
            ("Pending", 0, &waits, &well, Fitness::Coming),
            ("Failed", 0, &waits, &well, Fitness::Unfit),
        ] {
            let pod = pod(phase, restarts, state, ready);
            assert_eq!(of(&pod, &Known::new()), fitness, "{pod:?}");
        }
    }

    #[test]
    fn a_pod_that_goes_or_whose_claim_goes_is_not_taken() {
        let well = json!({ "type": "Ready", "status": "True" });
        let mut pod = pod("Running", 0, &json!({ "running": {} }), &well);
        let claim = |goes: Option<&str>| -> PersistentVolumeClaim {
            let metadata = json!({ "name": "c", "deletionTimestamp": goes });
            serde_json::from_value(json!({ "metadata": metadata })).unwrap()
        };
        let mut known = Known::new();
        known.hear_of_claim(claim(None));
        assert!(is_nobodys(&pod, "shape") && of(&pod, &known) == Fitness::Ready);
        assert!(!is_nobodys(&pod, "another"));
        let then = "2026-01-01T00:00:00Z";
        known.hear_of_claim(claim(Some(then)));
        assert_eq!(of(&pod, &known), Fitness::Unfit);
        pod.metadata.deletion_timestamp = serde_json::from_value(json!(then)).unwrap();
        assert!(!is_nobodys(&pod, "shape"));
    }
}
