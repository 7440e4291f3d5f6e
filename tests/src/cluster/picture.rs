//! What is in a namespace, for a person who asks why a test failed.

use std::fmt::Write as _;

use k8s_openapi::api::core::v1::{Event, Node, PersistentVolumeClaim, Pod};
use kube::api::ListParams;
use kube::{Api, Client};

/// Pods and claims with their states, all events, and what the nodes say of themselves.
pub(super) async fn of(client: &Client, namespace: &str) -> String {
    let everything = ListParams::default();
    let mut picture = format!("--- the namespace {namespace} ---\n");
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    for pod in pods.list(&everything).await.into_iter().flatten() {
        let status = serde_json::to_string_pretty(&pod.status);
        describe(&mut picture, "pod", &pod.metadata.name, status);
    }
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(client.clone(), namespace);
    for claim in claims.list(&everything).await.into_iter().flatten() {
        let status = serde_json::to_string_pretty(&claim.status);
        describe(&mut picture, "claim", &claim.metadata.name, status);
    }
    let events: Api<Event> = Api::namespaced(client.clone(), namespace);
    for event in events.list(&everything).await.into_iter().flatten() {
        let about = event.involved_object.name.unwrap_or_default();
        let (reason, message) = (event.reason, event.message);
        let _ = writeln!(
            picture,
            "event of {about}: {}: {}",
            reason.unwrap_or_default(),
            message.unwrap_or_default()
        );
    }
    let nodes: Api<Node> = Api::all(client.clone());
    for node in nodes.list(&everything).await.into_iter().flatten() {
        let taints = node.spec.and_then(|spec| spec.taints);
        let conditions = node.status.and_then(|status| status.conditions);
        let status = serde_json::to_string_pretty(&(taints, conditions));
        describe(&mut picture, "node", &node.metadata.name, status);
    }
    picture.push_str("---");
    picture
}

fn describe(
    picture: &mut String,
    kind: &str,
    name: &Option<String>,
    status: serde_json::Result<String>,
) {
    let name = name.as_deref().unwrap_or_default();
    let status = status.unwrap_or_default();
    let _ = writeln!(picture, "{kind} {name}: {status}");
}
