//! Environments as pods of a Kubernetes cluster, each with a claim for its volume.
//!
//! ```text
//!  KubernetesRuntime (the port)
//!    └─ Cluster            the clients, one operation per life at a time
//!         ├─ make, gone            claim and pod come; pod and claim go, confirmed by the API server
//!         ├─ warm                  pods that are held ready, and taken
//!         ├─ start                 how far a start is, and when it is given up
//!         ├─ early                 a runner that answers before the cluster tells of it
//!         ├─ watch, words          one watch of all pods, claims and events: lists and reasons cost no request
//!         ├─ policy                what pods may reach: made once, before the first of them
//!         ├─ pod, names, state,
//!         │  storage               pure: what is asked of the cluster, and what it answers
//!         └─ access, channel, cut  the way to the API server, through it to a runner, and its end
//! ```
//!
//! Invariants:
//! - Everything is found by its labels, so any worker finds what another has made, and only what carries this instance
//!   is listed or touched.
//! - The watch may lag: that something is gone is said by the API server alone.
//! - An environment that idles costs the API server nothing beyond the one watch.

pub mod access;
pub mod channel;
mod cluster;
mod cut;
mod early;
mod fault;
#[cfg(test)]
mod given;
mod gone;
mod list;
mod make;
mod names;
mod pod;
mod policy;
mod settings;
mod start;
mod state;
mod storage;
mod warm;
mod watch;
mod words;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use kube::ResourceExt as _;
use shared::clock::Clock;
use shared::environment::{Egress, Place};
use shared::ids::{EnvironmentUid, InstanceId};
use shared::ports::{
    Heard, Holding, Lane, Placement, Restart, RunnerIo, Runtime, RuntimeError, RuntimeOffer, Sight,
    Started, Warm,
};

use access::Access;
use cluster::Cluster;

pub use settings::KubernetesSettings;

/// How long a check waits for the first word of the API server.
const FIRST_WORD_TIME: Duration = Duration::from_secs(10);

/// Holds environments as pods of a cluster.
pub struct KubernetesRuntime {
    cluster: Cluster,
}

impl KubernetesRuntime {
    /// Begins to watch the cluster for an instance. Whether pods can be made [`Runtime::check`] tells. Must be called on
    /// an asynchronous runtime.
    pub fn open(
        access: Access,
        settings: KubernetesSettings,
        instance: InstanceId,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self {
            cluster: Cluster::new(access, settings, instance, clock),
        }
    }

    /// A pod on the life's claim.
    async fn pod_on(&self, placement: &Placement, claim: &str) -> Result<Started, RuntimeError> {
        self.cluster.fence().await?;
        let pod = self.cluster.pod(placement, claim).await?;
        Ok(Started {
            container: pod.name_any(),
            restarts: state::restarts(&pod),
            object: pod.uid(),
            place: Some(Place {
                namespace: self.cluster.settings.namespace.clone(),
                volume: make::claim_of(&pod).unwrap_or_default(),
            }),
            // How many processes a pod may have is its node's own setting.
            limits_not_enforced: vec!["pids".to_owned()],
        })
    }
}

#[async_trait]
impl Runtime for KubernetesRuntime {
    fn offer(&self) -> RuntimeOffer {
        RuntimeOffer {
            egress: vec![Egress::None, Egress::Internet, Egress::Cluster],
            default_egress: Egress::Internet,
            users: false,
        }
    }

    async fn create(&self, placement: &Placement) -> Result<Started, RuntimeError> {
        let _turn = self.cluster.turn(&placement.uid).await;
        let claim = self.cluster.volume(placement).await?;
        self.pod_on(placement, &claim).await
    }

    async fn start(&self, placement: &Placement) -> Result<Started, RuntimeError> {
        let _turn = self.cluster.turn(&placement.uid).await;
        let claim = self.cluster.claim_there(placement).await?;
        let claim = claim.ok_or(RuntimeError::VolumeMissing)?;
        self.pod_on(placement, &claim).await
    }

    async fn started(
        &self,
        placement: &Placement,
        made: &Started,
        heard: &Heard,
    ) -> Result<(), RuntimeError> {
        self.cluster.started(placement, made, heard).await
    }

    async fn not_enforced(&self, made: &Started) -> Vec<String> {
        let mut limits = made.limits_not_enforced.clone();
        let volume = made.place.as_ref().map(|place| place.volume.as_str());
        if !volume.is_some_and(|volume| self.cluster.watched.known().is_bounded(volume)) {
            limits.push("storage".to_owned());
        }
        limits
    }

    async fn keep_warm(&self, wanted: &[Warm]) -> Result<(), RuntimeError> {
        self.cluster.keep_warm(wanted).await
    }

    async fn stop(&self, uid: &EnvironmentUid, grace: Duration) -> Result<(), RuntimeError> {
        let _turn = self.cluster.turn(uid).await;
        self.cluster.end_pods(uid, None, grace).await
    }

    async fn delete(&self, uid: &EnvironmentUid) -> Result<(), RuntimeError> {
        let _turn = self.cluster.turn(uid).await;
        self.cluster.remove(uid).await
    }

    async fn kill(
        &self,
        uid: &EnvironmentUid,
        container: Option<&str>,
    ) -> Result<(), RuntimeError> {
        let _turn = self.cluster.turn(uid).await;
        self.cluster.end_pods(uid, container, gone::AT_ONCE).await
    }

    async fn inspect(&self, uid: &EnvironmentUid) -> Result<Sight, RuntimeError> {
        self.cluster.inspect(uid).await
    }

    async fn restarted(
        &self,
        uid: &EnvironmentUid,
        container: &str,
        restarts: u32,
    ) -> Result<Restart, RuntimeError> {
        self.cluster.restarted(uid, container, restarts).await
    }

    async fn list(&self) -> Result<Vec<Holding>, RuntimeError> {
        self.cluster.list()
    }

    async fn dial(
        &self,
        uid: &EnvironmentUid,
        _lane: Lane,
    ) -> Result<Box<dyn RunnerIo>, RuntimeError> {
        // Without a request, if the watch is right.
        if let Some(pod) = self.cluster.seen_running(uid) {
            match self.cluster.channel_to(&pod).await {
                Err(RuntimeError::NotRunning) => {}
                dialled => return dialled,
            }
        }
        self.cluster
            .channel_to(&self.cluster.running(uid).await?)
            .await
    }

    async fn check(&self) -> Result<(), RuntimeError> {
        // Right after the start the first lists are on their way.
        let heard = self
            .cluster
            .watched
            .until(|known| known.heard().then_some(()));
        let _ = tokio::time::timeout(FIRST_WORD_TIME, heard).await;
        match self.cluster.watched.known().trouble() {
            None => Ok(()),
            Some(why) => Err(RuntimeError::Unavailable(format!(
                "pods and claims in namespace {} cannot be watched: {why}",
                self.cluster.settings.namespace
            ))),
        }
    }
}
