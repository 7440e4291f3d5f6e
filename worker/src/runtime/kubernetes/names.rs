//! How pods and claims are called, and the marks that tell whose they are.
//!
//! ```text
//!   claim  em-UID                 labels       uid, instance, part (environment), egress
//!   pod    em-UID-GENERATION      annotations  id, tenant: they may have capitals, dots and underscores
//!   both   em-warm-NUMBER         what was held ready keeps its name when it is taken
//! ```

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use shared::environment::Egress;
use shared::ids::{EnvironmentUid, Generation, InstanceId};
use shared::ports::Placement;

/// The label of the life.
pub(super) const UID: &str = "environment-manager/uid";
/// The label of the installation: what carries another's is never touched.
pub(super) const INSTANCE: &str = "environment-manager/instance";
/// The label by which a network policy finds its pods.
pub(super) const EGRESS: &str = "environment-manager/egress";
/// The label of a pod and a claim that are held ready: the shape of what they fit.
pub(super) const WARM: &str = "environment-manager/warm";
/// The annotation with the caller's name.
pub(super) const ENVIRONMENT: &str = "environment-manager/environment";
/// The annotation with the owner.
pub(super) const TENANT: &str = "environment-manager/tenant";

/// What every name begins with.
pub(super) const PREFIX: &str = "em-";

/// The container in which commands run.
pub(super) const CONTAINER: &str = "environment";

/// The name of a life's claim.
pub(super) fn claim(uid: &EnvironmentUid) -> String {
    format!("{PREFIX}{uid}")
}

/// The name of the pod that a lifecycle job makes.
pub(super) fn pod(uid: &EnvironmentUid, generation: Generation) -> String {
    format!("{PREFIX}{uid}-{}", generation.0)
}

/// The name of a pod and its claim that are held ready.
pub(super) fn warm(number: u64) -> String {
    format!("{PREFIX}warm-{number:016x}")
}

/// Selects everything of an installation.
pub(super) fn of_instance(instance: &InstanceId) -> String {
    format!("{INSTANCE}={instance}")
}

/// Selects everything of one life.
pub(super) fn of_life(instance: &InstanceId, uid: &EnvironmentUid) -> String {
    format!("{INSTANCE}={instance},{UID}={uid}")
}

/// The life that an object of this installation belongs to; none if it is another's or nobody's.
pub(super) fn owner(metadata: &ObjectMeta, instance: &InstanceId) -> Option<EnvironmentUid> {
    let labels = metadata.labels.as_ref()?;
    let own = labels.get(INSTANCE).map(String::as_str) == Some(instance.as_str());
    let uid = labels.get(UID).filter(|_| own)?;
    EnvironmentUid::new(uid.as_str()).ok()
}

/// What every object of a life is marked with.
pub(super) fn metadata(name: String, placement: &Placement, instance: &InstanceId) -> ObjectMeta {
    ObjectMeta {
        name: Some(name),
        labels: Some(BTreeMap::from([
            (UID.to_owned(), placement.uid.to_string()),
            (INSTANCE.to_owned(), instance.to_string()),
        ])),
        annotations: Some(BTreeMap::from([
            (ENVIRONMENT.to_owned(), placement.environment.to_string()),
            (TENANT.to_owned(), placement.tenant.to_string()),
        ])),
        ..ObjectMeta::default()
    }
}

/// What an object that is held ready is marked with.
pub(super) fn of_nobody(name: String, shape: &str, instance: &InstanceId) -> ObjectMeta {
    ObjectMeta {
        name: Some(name),
        labels: Some(BTreeMap::from([
            (WARM.to_owned(), shape.to_owned()),
            (INSTANCE.to_owned(), instance.to_string()),
        ])),
        ..ObjectMeta::default()
    }
}

/// A network class as a label.
pub(super) fn egress(class: Egress) -> &'static str {
    match class {
        Egress::None => "none",
        Egress::Internet => "internet",
        Egress::Cluster => "cluster",
    }
}
