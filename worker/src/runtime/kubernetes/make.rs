//! Makes what a life needs: its claim, and a pod on it. All of it can be asked for again.
//!
//! Names come from the life and its generation, so an answer that was lost cannot make a second pod: `409`, and the
//! object carries this life's marks, is success.

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube::ResourceExt as _;
use kube::api::PostParams;
use shared::environment::Reason;
use shared::ports::{Placement, RuntimeError};

use super::cluster::Cluster;
use super::fault::{failed, is_taken};
use super::gone::{AT_ONCE, Thing};
use super::state::State;
use super::{names, pod};

/// Attempts at a pod or claim whose name an earlier one still holds.
const ATTEMPTS: usize = 5;

impl Cluster {
    /// The claim of a life that begins: the one that is there, that of a pod that was held ready, else a new one. Answers
    /// its name.
    pub(super) async fn volume(&self, placement: &Placement) -> Result<String, RuntimeError> {
        if let Some(name) = self.claim_there(placement).await? {
            return Ok(name);
        }
        // Whoever took a pod may have died before it took the claim.
        let pods = self.pods_of(&placement.uid).await?.into_iter();
        let taken = match pods.min_by_key(|pod| pod.metadata.deletion_timestamp.is_some()) {
            Some(pod) => Some(pod),
            None => self.take_warm(placement).await?,
        };
        if let Some(pod) = taken {
            if let Some(name) = self.take_claim(&pod, placement).await? {
                return Ok(name);
            }
            // What is written to a volume that goes would be lost.
            self.end_pod(&placement.uid, &pod, AT_ONCE).await?;
            self.gone(&[Thing::of_pod(&pod)], AT_ONCE).await?;
        }
        self.claim(placement).await
    }

    async fn claim(&self, placement: &Placement) -> Result<String, RuntimeError> {
        for _ in 0..ATTEMPTS {
            let name = names::claim(&placement.uid);
            let metadata = names::metadata(name, placement, &self.instance);
            let claim = pod::claim(metadata, &placement.spec, &self.settings);
            match self.claims.create(&PostParams::default(), &claim).await {
                Ok(made) => return Ok(made.name_any()),
                Err(error) if is_taken(&error) => self.is_own_claim(placement).await?,
                Err(error) => return Err(failed("the claim cannot be made")(error)),
            }
            if let Some(name) = self.claim_there(placement).await? {
                return Ok(name);
            }
        }
        Err(RuntimeError::Unavailable(
            "the claim cannot be made: it comes and goes".to_owned(),
        ))
    }

    /// The name of the life's claim; none where it has none. One that is being deleted is waited for.
    pub(super) async fn claim_there(
        &self,
        placement: &Placement,
    ) -> Result<Option<String>, RuntimeError> {
        for claim in self.claims_of(&placement.uid).await? {
            if claim.metadata.deletion_timestamp.is_none() {
                return Ok(Some(claim.name_any()));
            }
            self.gone(&[Thing::of_claim(&claim)], AT_ONCE).await?;
        }
        Ok(None)
    }

    /// A claim of that name is there: it must be this life's.
    async fn is_own_claim(&self, placement: &Placement) -> Result<(), RuntimeError> {
        let found = self.claims.get_opt(&names::claim(&placement.uid)).await;
        match found.map_err(failed("the claim cannot be read"))? {
            Some(found) => self.is_own(&found.metadata, placement),
            None => Ok(()),
        }
    }

    fn is_own(
        &self,
        metadata: &k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta,
        placement: &Placement,
    ) -> Result<(), RuntimeError> {
        if names::owner(metadata, &self.instance).as_ref() == Some(&placement.uid) {
            return Ok(());
        }
        Err(RuntimeError::Failed(Reason::new(
            "uid_taken",
            format!("{} is not of this instance", placement.uid),
        )))
    }

    /// A pod of the life that runs or may yet run: the one that is there, else a new one. One that has ended, or ends,
    /// goes first.
    pub(super) async fn pod(
        &self,
        placement: &Placement,
        claim: &str,
    ) -> Result<Pod, RuntimeError> {
        for _ in 0..ATTEMPTS {
            if let Some(found) = self.pod_there(placement).await? {
                return Ok(found);
            }
            let name = names::pod(&placement.uid, placement.generation);
            let metadata = names::metadata(name, placement, &self.instance);
            let pod = pod::pod(metadata, &placement.spec, &self.settings, claim);
            match self.pods.create(&PostParams::default(), &pod).await {
                Ok(made) => return Ok(made),
                Err(error) if is_taken(&error) => self.is_own_pod(placement).await?,
                Err(error) => return Err(failed("the pod cannot be made")(error)),
            }
        }
        Err(RuntimeError::Unavailable(
            "the pod cannot be made: it comes and goes".to_owned(),
        ))
    }

    async fn pod_there(&self, placement: &Placement) -> Result<Option<Pod>, RuntimeError> {
        let mut kept = None;
        let mut going = Vec::new();
        for pod in self.pods_of(&placement.uid).await? {
            let ends = pod.metadata.deletion_timestamp.is_some();
            let ended = matches!(self.watched.known().state(&pod), State::Ended(_));
            if ended && !ends {
                self.end_pod(&placement.uid, &pod, AT_ONCE).await?;
            }
            if ends || ended {
                going.push(Thing::of_pod(&pod));
            } else {
                kept = Some(pod);
            }
        }
        self.gone(&going, AT_ONCE).await?;
        Ok(kept)
    }

    async fn is_own_pod(&self, placement: &Placement) -> Result<(), RuntimeError> {
        let name = names::pod(&placement.uid, placement.generation);
        let found = self.pods.get_opt(&name).await;
        match found.map_err(failed("the pod cannot be read"))? {
            Some(found) => self.is_own(&found.metadata, placement),
            None => Ok(()),
        }
    }
}

/// The claim that a pod has its volume from.
pub(super) fn claim_of(pod: &Pod) -> Option<String> {
    let volumes = pod.spec.as_ref()?.volumes.as_ref()?;
    let claim = volumes
        .iter()
        .find_map(|volume| volume.persistent_volume_claim.as_ref())?;
    Some(claim.claim_name.clone())
}

/// Whether a claim has what a start needs.
pub(super) fn is_there(claim: &PersistentVolumeClaim) -> bool {
    claim.metadata.deletion_timestamp.is_none()
}
