//! Pods that are held ready, so that a create has to wait for none.
//!
//! ```text
//!   keep ──▶ em-warm-NAME, pod and claim, labelled with their shape ──▶ runs, nobody's
//!                                    │
//!   create of the same shape ── patch with the version that was seen: marks of the life instead of the shape
//!                                    └──▶ the environment's, with the name that it was born with
//! ```
//!
//! A patch of a version that another worker has changed is refused, so no two take the same. The pod is taken before its
//! claim: a worker that dies between the two has marked the pod, by which the next one finds it and takes the claim too.
//! Whatever could differ between two environments is in the shape, but for their variables, which come with each command.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::ResourceExt as _;
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use shared::environment::EnvironmentSpec;
use shared::ports::{Placement, RuntimeError, Warm};

use super::cluster::Cluster;
use super::fault::{failed, is_gone};
use super::state::State;
use super::{make, names, pod};

/// Pods that one round makes at most, of each shape.
const MADE_AT_ONCE: usize = 10;

/// How old a claim is, in seconds, when a pod that it was made for is not waited for any more.
const LONE_SECONDS: u64 = 120;

/// How often a pod that changed under the hand is tried again.
const ATTEMPTS: usize = 3;

impl Cluster {
    /// Makes what is missing of what shall be ready, and removes what is too much.
    pub(super) async fn keep_warm(&self, wanted: &[Warm]) -> Result<(), RuntimeError> {
        let mut ready = self.warm_pods();
        if !wanted.is_empty() {
            self.fence().await?;
        }
        for warm in wanted {
            let here = ready.remove(&self.shape(&warm.spec)).unwrap_or_default();
            let (gone, here) = self.ended(here);
            for pod in gone {
                self.drop_warm(&pod).await?;
            }
            let missing = warm.count.saturating_sub(here.len());
            for _ in 0..missing.min(MADE_AT_ONCE) {
                self.make_warm(&warm.spec).await?;
            }
            for pod in here.iter().skip(warm.count) {
                self.drop_warm(pod).await?;
            }
        }
        for pod in ready.values().flatten() {
            self.drop_warm(pod).await?;
        }
        self.drop_lone_claims().await
    }

    /// A pod that is ready and of the placement's shape, taken for its life. Its claim is still to be taken.
    pub(super) async fn take_warm(
        &self,
        placement: &Placement,
    ) -> Result<Option<Pod>, RuntimeError> {
        let shape = self.shape(&placement.spec);
        let ready = self.warm_pods().remove(&shape).unwrap_or_default();
        for pod in ready {
            let runs = matches!(self.watched.known().state(&pod), State::Running { .. });
            if runs && let Some(taken) = self.take(pod, &shape, placement).await? {
                return Ok(Some(taken));
            }
        }
        Ok(None)
    }

    /// A pod of the version that was seen; a newer one that is still nobody's is tried again.
    async fn take(
        &self,
        mut pod: Pod,
        shape: &str,
        placement: &Placement,
    ) -> Result<Option<Pod>, RuntimeError> {
        let name = pod.name_any();
        for _ in 0..ATTEMPTS {
            let mut marks = marks(placement);
            marks["metadata"]["resourceVersion"] = json!(pod.resource_version());
            let params = PatchParams::default();
            match self.pods.patch(&name, &params, &Patch::Merge(&marks)).await {
                Ok(taken) => return Ok(Some(taken)),
                Err(error) if is_gone(&error) => {}
                Err(error) => return Err(failed("a pod that is ready cannot be taken")(error)),
            }
            let found = self.pods.get_opt(&name).await;
            let found = found.map_err(failed("a pod that is ready cannot be read"))?;
            match found.filter(|found| is_nobodys(found, shape)) {
                Some(newer) => pod = newer,
                None => return Ok(None),
            }
        }
        Ok(None)
    }

    /// Marks the claim of a taken pod as the life's; answers its name. Done already is success.
    pub(super) async fn take_claim(
        &self,
        pod: &Pod,
        placement: &Placement,
    ) -> Result<String, RuntimeError> {
        let name = make::claim_of(pod).unwrap_or_default();
        let marks = Patch::Merge(marks(placement));
        let taken = self
            .claims
            .patch(&name, &PatchParams::default(), &marks)
            .await;
        taken.map_err(failed("the claim cannot be taken"))?;
        Ok(name)
    }

    /// Claims of taken pods that nobody got to take.
    pub(super) async fn claims_not_taken(
        &self,
        pods: &[Pod],
        taken: &[PersistentVolumeClaim],
    ) -> Result<Vec<PersistentVolumeClaim>, RuntimeError> {
        let mut found = Vec::new();
        for name in pods.iter().filter_map(make::claim_of) {
            if taken.iter().any(|claim| claim.name_any() == name) {
                continue;
            }
            let claim = self.claims.get_opt(&name).await;
            let claim = claim.map_err(failed("the claim cannot be read"))?;
            found.extend(claim.filter(|claim| self.is_held_ready(claim)));
        }
        Ok(found)
    }

    /// Those that will not run any more, and the others.
    fn ended(&self, pods: Vec<Pod>) -> (Vec<Pod>, Vec<Pod>) {
        let known = self.watched.known();
        pods.into_iter()
            .partition(|pod| matches!(known.state(pod), State::Ended(_)))
    }

    /// Nobody's pods that do not end, by shape.
    fn warm_pods(&self) -> BTreeMap<String, Vec<Pod>> {
        let known = self.watched.known();
        let mut ready: BTreeMap<String, Vec<Pod>> = BTreeMap::new();
        for pod in known.pods() {
            if let Some(shape) = pod.labels().get(names::WARM)
                && is_nobodys(pod, shape)
            {
                let pod = Pod::clone(pod);
                ready.entry(shape.clone()).or_default().push(pod);
            }
        }
        ready
    }

    /// Everything in which two pods can differ, as a label.
    fn shape(&self, spec: &EnvironmentSpec) -> String {
        let nameless = ObjectMeta::default;
        let pod = pod::pod(nameless(), spec, &self.settings, "");
        let claim = pod::claim(nameless(), spec, &self.settings);
        let hash = Sha256::digest(json!([pod, claim]).to_string());
        let mut shape = data_encoding::BASE32_NOPAD.encode(&hash);
        shape.make_ascii_lowercase();
        shape.truncate(26);
        shape
    }

    async fn make_warm(&self, spec: &EnvironmentSpec) -> Result<(), RuntimeError> {
        let name = names::warm(rand::random());
        let shape = self.shape(spec);
        let metadata = || names::of_nobody(name.clone(), &shape, &self.instance);
        let params = PostParams::default();
        let claim = pod::claim(metadata(), spec, &self.settings);
        let pod = pod::pod(metadata(), spec, &self.settings, &name);
        let made = self.claims.create(&params, &claim).await;
        made.map_err(failed("a claim cannot be made ready"))?;
        let made = self.pods.create(&params, &pod).await;
        made.map(drop).map_err(failed("a pod cannot be made ready"))
    }

    /// Ends a pod unless somebody takes it first; its claim follows when the pod is gone.
    async fn drop_warm(&self, pod: &Pod) -> Result<(), RuntimeError> {
        tracing::debug!(pod = %pod.name_any(), "a pod is not held ready any more");
        self.end_unless_changed(pod).await
    }

    /// Claims whose pod went before somebody took it, or was never made.
    async fn drop_lone_claims(&self) -> Result<(), RuntimeError> {
        let lone: Vec<_> = {
            let known = self.watched.known();
            let used: BTreeSet<_> = known.pods().filter_map(|pod| make::claim_of(pod)).collect();
            let claims = known.claims().filter(|claim| self.is_held_ready(claim));
            let lone = claims.filter(|claim| {
                !used.contains(&claim.name_any()) && self.age(&claim.metadata) > LONE_SECONDS
            });
            lone.cloned().collect()
        };
        for claim in lone {
            self.end_claim(&claim).await?;
        }
        Ok(())
    }

    fn is_held_ready(&self, claim: &PersistentVolumeClaim) -> bool {
        let labels = claim.labels();
        labels.contains_key(names::WARM)
            && labels.get(names::INSTANCE).map(String::as_str) == Some(self.instance.as_str())
    }
}

fn is_nobodys(pod: &Pod, shape: &str) -> bool {
    let label = pod.labels().get(names::WARM).map(String::as_str);
    label == Some(shape) && pod.metadata.deletion_timestamp.is_none()
}

/// What makes an object that was held ready one of a life.
fn marks(placement: &Placement) -> Value {
    json!({ "metadata": {
        "labels": { names::UID: placement.uid, names::WARM: null },
        "annotations": {
            names::ENVIRONMENT: placement.environment,
            names::TENANT: placement.tenant,
        },
    }})
}
