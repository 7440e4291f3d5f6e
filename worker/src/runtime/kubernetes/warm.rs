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
//!
//! What the watch does not know is not judged: while it is broken nothing is made and nothing dropped. A shape that cannot
//! be had waits longer and longer, and keeps no other from being made.

mod fitness;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

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
use super::watch::Known;
use super::{make, names, pod};

use crate::failpoint::failpoint;

use fitness::{Fitness, is_nobodys};

/// Pods that one round makes at most, of each shape.
const MADE_AT_ONCE: usize = 10;

/// How old a claim is, in seconds, when a pod that it was made for is not waited for any more.
const LONE_SECONDS: u64 = 120;

/// How often a pod that changed under the hand is tried again.
const ATTEMPTS: usize = 3;

impl Cluster {
    /// Makes what is missing of what shall be ready, and removes what is too much.
    pub(super) async fn keep_warm(&self, wanted: &[Warm]) -> Result<(), RuntimeError> {
        if self.watched.known().trouble().is_some() {
            return Ok(());
        }
        let mut ready = self.warm_pods();
        let mut done = Ok(());
        for warm in wanted {
            let shape = self.shape(&warm.spec);
            let here = ready.remove(&shape).unwrap_or_default();
            let kept = self.keep_shape(warm, &shape, here).await;
            if kept.is_err() {
                self.pauses.failed(&shape, self.clock.monotonic());
            }
            done = both(done, kept);
        }
        for pod in ready.values().flatten() {
            done = both(done, self.drop_warm(pod).await);
        }
        both(done, self.drop_lone_claims().await)
    }

    /// The same of one shape, of which these pods are here.
    async fn keep_shape(
        &self,
        warm: &Warm,
        shape: &str,
        here: Vec<Pod>,
    ) -> Result<(), RuntimeError> {
        let (unfit, here) = self.unfit(here);
        let paused = {
            let now = self.clock.monotonic();
            if !unfit.is_empty() {
                self.pauses.failed(shape, now);
            }
            self.pauses.is_paused(shape, now)
        };
        for pod in unfit.iter().chain(here.iter().skip(warm.count)) {
            self.drop_warm(pod).await?;
        }
        let missing = warm.count.saturating_sub(here.len());
        let made_now = if paused { 0 } else { missing.min(MADE_AT_ONCE) };
        for _ in 0..made_now {
            self.make_warm(&warm.spec).await?;
        }
        Ok(())
    }

    /// A pod that is ready and of the placement's shape, taken for its life. Its claim is still to be taken.
    pub(super) async fn take_warm(
        &self,
        placement: &Placement,
    ) -> Result<Option<Pod>, RuntimeError> {
        let shape = self.shape(&placement.spec);
        let ready = self.warm_pods().remove(&shape).unwrap_or_default();
        for pod in ready {
            if self.is_ready(&pod)
                && let Some(taken) = self.take(pod, &shape, placement).await?
            {
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
                Ok(taken) => {
                    failpoint("warm_taken");
                    return Ok(Some(taken));
                }
                Err(error) if is_gone(&error) => {}
                Err(error) => return Err(failed("a pod that is ready cannot be taken")(error)),
            }
            let found = self.pods.get_opt(&name).await;
            let found = found.map_err(failed("a pod that is ready cannot be read"))?;
            match found.filter(|found| is_nobodys(found, shape) && self.is_ready(found)) {
                Some(newer) => pod = newer,
                None => return Ok(None),
            }
        }
        Ok(None)
    }

    /// Whether a pod can be taken, as far as the watch knows.
    fn is_ready(&self, pod: &Pod) -> bool {
        fitness::of(pod, &self.watched.known()) == Fitness::Ready
    }

    /// Marks the claim of a taken pod as the life's; answers its name. Done already is success. None if the pod or the
    /// claim goes: neither can be used then.
    pub(super) async fn take_claim(
        &self,
        pod: &Pod,
        placement: &Placement,
    ) -> Result<Option<String>, RuntimeError> {
        let Some(name) = make::claim_of(pod).filter(|_| pod.metadata.deletion_timestamp.is_none())
        else {
            return Ok(None);
        };
        let marks = Patch::Merge(marks(placement));
        let params = PatchParams::default();
        match self.claims.patch(&name, &params, &marks).await {
            Ok(claim) => {
                failpoint("warm_settling");
                Ok(make::is_there(&claim).then_some(name))
            }
            Err(error) if is_gone(&error) => Ok(None),
            Err(error) => Err(failed("the claim cannot be taken")(error)),
        }
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

    /// Those that are of no use any more, and the others.
    fn unfit(&self, pods: Vec<Pod>) -> (Vec<Pod>, Vec<Pod>) {
        let known = self.watched.known();
        pods.into_iter()
            .partition(|pod| fitness::of(pod, &known) == Fitness::Unfit)
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

    /// Makes a claim and a pod. A pod that is refused leaves no claim behind.
    async fn make_warm(&self, spec: &EnvironmentSpec) -> Result<(), RuntimeError> {
        self.fence().await?;
        let name = names::warm(rand::random());
        let shape = self.shape(spec);
        let metadata = || names::of_nobody(name.clone(), &shape, &self.instance);
        let params = PostParams::default();
        let claim = pod::claim(metadata(), spec, &self.settings);
        let pod = pod::pod(metadata(), spec, &self.settings, &name);
        let made = self.claims.create(&params, &claim).await;
        let claim = made.map_err(failed("a claim cannot be made ready"))?;
        let made = self.pods.create(&params, &pod).await;
        let made = made.map(drop).map_err(failed("a pod cannot be made ready"));
        // Any other error may hide a pod that was made after all: its claim is looked at when it is old.
        if matches!(made, Err(RuntimeError::Failed(_))) {
            // A pod that was made by a request whose answer was lost may be in use by now: then the claim has changed.
            return both(made, self.end_claim_unless_changed(&claim).await);
        }
        made
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
            let old = |claim: &&PersistentVolumeClaim| {
                self.is_held_ready(claim) && self.age(&claim.metadata) > LONE_SECONDS
            };
            unused(&known).filter(old).cloned().collect()
        };
        let mut done = Ok(());
        for claim in lone {
            done = both(done, self.drop_lone_claim(&claim).await);
        }
        done
    }

    /// That there is no pod the API server itself must say: it was made with the claim's name.
    async fn drop_lone_claim(&self, claim: &PersistentVolumeClaim) -> Result<(), RuntimeError> {
        let pod = self.pods.get_metadata_opt(&claim.name_any()).await;
        match pod.map_err(failed("a pod that is ready cannot be read"))? {
            Some(_) => Ok(()),
            None => self.end_claim_unless_changed(claim).await,
        }
    }

    fn is_held_ready(&self, claim: &PersistentVolumeClaim) -> bool {
        let labels = claim.labels();
        labels.contains_key(names::WARM)
            && labels.get(names::INSTANCE).map(String::as_str) == Some(self.instance.as_str())
    }
}

/// The first error; one after it is only told, so that one step that fails keeps no other from being done.
fn both(
    first: Result<(), RuntimeError>,
    then: Result<(), RuntimeError>,
) -> Result<(), RuntimeError> {
    if let (Err(_), Err(error)) = (&first, &then) {
        tracing::warn!(%error, "the pods that are held ready have more than one trouble");
    }
    first.and(then)
}

/// Claims that no pod uses and nobody deletes, as far as the watch knows: none while it is broken.
fn unused(known: &Known) -> impl Iterator<Item = &PersistentVolumeClaim> {
    let used: BTreeSet<_> = known.pods().filter_map(|pod| make::claim_of(pod)).collect();
    let claims = known.claims().map(Arc::as_ref);
    let knows = known.trouble().is_none();
    claims.filter(move |claim: &&PersistentVolumeClaim| {
        knows && make::is_there(claim) && !used.contains(&claim.name_any())
    })
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

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(name: &str, goes: bool) -> PersistentVolumeClaim {
        let goes = goes.then_some("2026-01-01T00:00:00Z");
        let metadata = json!({ "name": name, "deletionTimestamp": goes });
        serde_json::from_value(json!({ "metadata": metadata })).unwrap()
    }

    #[test]
    fn a_claim_is_lone_only_where_pods_and_claims_are_known() {
        let mut known = Known::new();
        for (name, goes) in [("used", false), ("lone", false), ("going", true)] {
            known.hear_of_claim(claim(name, goes));
        }
        let volume = json!({ "name": "v", "persistentVolumeClaim": { "claimName": "used" } });
        let pod = json!({
            "metadata": { "name": "used" },
            "spec": { "containers": [], "volumes": [volume] },
        });
        known.hear_of(serde_json::from_value(pod).unwrap());
        let names = |known: &Known| {
            unused(known)
                .map(kube::ResourceExt::name_any)
                .collect::<Vec<_>>()
        };
        assert!(names(&known).is_empty());
        known.hear_all();
        assert_eq!(names(&known), ["lone"]);
    }

    #[test]
    fn the_first_error_is_the_one_that_is_kept() {
        let error = |why: &str| Err(RuntimeError::Unavailable(why.to_owned()));
        for (first, then, told) in [
            (Ok(()), Ok(()), None),
            (error("a"), Ok(()), Some("a")),
            (Ok(()), error("b"), Some("b")),
            (error("a"), error("b"), Some("a")),
        ] {
            match (both(first, then), told) {
                (Ok(()), None) => {}
                (Err(RuntimeError::Unavailable(why)), Some(told)) => assert_eq!(why, told),
                other => panic!("{other:?}"),
            }
        }
    }
}
