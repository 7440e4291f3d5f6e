//! Ends pods and claims, and waits until they are really gone.
//!
//! The watch says when it is worth to look; that something is gone only the API server itself says. A pod whose node does
//! not confirm its end is never forced away from here: what runs there might still write to the volume. The cluster
//! forgets it by itself once the node's own record is gone. That a node is lost is said where the cluster says it, not
//! where something takes long.

use std::time::Duration;

use futures::future::try_join_all;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube::ResourceExt;
use kube::api::{DeleteParams, Preconditions};
use shared::environment::Reason;
use shared::ids::EnvironmentUid;
use shared::ports::RuntimeError;

use super::cluster::Cluster;
use super::fault::{failed, is_gone};
use super::state;

/// The shortest grace that still has the end confirmed by the node.
pub(super) const AT_ONCE: Duration = Duration::from_secs(1);

/// How much longer than its grace a pod may take to go.
const OVERTIME: Duration = Duration::from_secs(45);

/// How long the watch is trusted to say that something went, and how long it may take to hear what is gone already.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// Something that goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Thing {
    name: String,
    uid: String,
    what: What,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum What {
    Pod { node: Option<String> },
    Claim,
}

impl Thing {
    pub(super) fn of_pod(pod: &Pod) -> Self {
        Self {
            name: pod.name_any(),
            uid: pod.uid().unwrap_or_default(),
            what: What::Pod {
                node: pod.spec.as_ref().and_then(|spec| spec.node_name.clone()),
            },
        }
    }

    pub(super) fn of_claim(claim: &PersistentVolumeClaim) -> Self {
        Self {
            name: claim.name_any(),
            uid: claim.uid().unwrap_or_default(),
            what: What::Claim,
        }
    }

    /// What to say of it when it does not go.
    fn still_there(&self) -> RuntimeError {
        let name = &self.name;
        RuntimeError::Failed(match &self.what {
            What::Pod { node: Some(node) } => Reason::new(
                "pod_stays",
                format!("the node {node} does not confirm that the pod {name} has ended"),
            ),
            What::Pod { node: None } => {
                Reason::new("pod_stays", format!("the pod {name} does not go"))
            }
            What::Claim => Reason::new(
                "volume_stays",
                format!("the claim {name} does not go: something still uses its volume"),
            ),
        })
    }
}

impl Cluster {
    /// Asks a pod to end. One that is gone already, or is another by now, is success.
    pub(super) async fn end_pod(
        &self,
        uid: &EnvironmentUid,
        pod: &Pod,
        grace: Duration,
    ) -> Result<(), RuntimeError> {
        let seconds = grace.max(AT_ONCE).as_millis().div_ceil(1000);
        let params = DeleteParams {
            grace_period_seconds: Some(u32::try_from(seconds).unwrap_or(u32::MAX)),
            ..only(pod.uid())
        };
        match self.pods.delete(&pod.name_any(), &params).await {
            Err(error) if !is_gone(&error) => Err(failed("the pod cannot be ended")(error)),
            _ => {
                self.watched.known().was_ended(uid, pod);
                Ok(())
            }
        }
    }

    /// Ends a pod that is still as it was seen.
    pub(super) async fn end_unless_changed(&self, pod: &Pod) -> Result<(), RuntimeError> {
        let params = as_seen(pod).grace_period(1);
        match self.pods.delete(&pod.name_any(), &params).await {
            Err(error) if !is_gone(&error) => Err(failed("the pod cannot be ended")(error)),
            _ => Ok(()),
        }
    }

    /// Asks for a claim's end.
    pub(super) async fn end_claim(
        &self,
        claim: &PersistentVolumeClaim,
    ) -> Result<(), RuntimeError> {
        match self
            .claims
            .delete(&claim.name_any(), &only(claim.uid()))
            .await
        {
            Err(error) if !is_gone(&error) => Err(failed("the claim cannot be deleted")(error)),
            _ => Ok(()),
        }
    }

    /// Deletes a claim that is still as it was seen: one that somebody took since then stays.
    pub(super) async fn end_claim_unless_changed(
        &self,
        claim: &PersistentVolumeClaim,
    ) -> Result<(), RuntimeError> {
        let params = as_seen(claim);
        match self.claims.delete(&claim.name_any(), &params).await {
            Err(error) if !is_gone(&error) => Err(failed("the claim cannot be deleted")(error)),
            _ => Ok(()),
        }
    }

    /// Ends the life's pods, or the one of a name, and returns when they are gone.
    pub(super) async fn end_pods(
        &self,
        uid: &EnvironmentUid,
        only: Option<&str>,
        grace: Duration,
    ) -> Result<(), RuntimeError> {
        let mut pods = self.pods_of(uid).await?;
        pods.retain(|pod| only.is_none_or(|name| pod.name_any() == name));
        try_join_all(pods.iter().map(|pod| self.end_pod(uid, pod, grace))).await?;
        let things: Vec<_> = pods.iter().map(Thing::of_pod).collect();
        self.gone(&things, grace).await
    }

    /// Deletes the life's pods and claims, and returns when they are gone.
    pub(super) async fn remove(&self, uid: &EnvironmentUid) -> Result<(), RuntimeError> {
        let (pods, mut claims) = futures::try_join!(self.pods_of(uid), self.claims_of(uid))?;
        claims.extend(self.claims_not_taken(&pods, &claims).await?);
        try_join_all(pods.iter().map(|pod| self.end_pod(uid, pod, AT_ONCE))).await?;
        // A claim stays until no pod uses it, so it can be asked to go now.
        try_join_all(claims.iter().map(|claim| self.end_claim(claim))).await?;
        let pods = pods.iter().map(Thing::of_pod);
        let things: Vec<_> = pods.chain(claims.iter().map(Thing::of_claim)).collect();
        self.gone(&things, AT_ONCE).await
    }

    /// Returns when all of them are gone; the error says what does not go.
    pub(super) async fn gone(&self, things: &[Thing], grace: Duration) -> Result<(), RuntimeError> {
        for thing in things {
            let going = tokio::time::timeout(grace.saturating_add(OVERTIME), self.goes(thing));
            going.await.unwrap_or_else(|_| Err(thing.still_there()))?;
        }
        Ok(())
    }

    async fn goes(&self, thing: &Thing) -> Result<(), RuntimeError> {
        loop {
            let unseen = self
                .watched
                .until(|known| (!known.holds(&thing.uid)).then_some(()));
            let unseen = tokio::time::timeout(LOOK_AGAIN, unseen).await.is_ok();
            if self.is_there(thing).await? {
                if let Some(lost) = self.lost(thing) {
                    return Err(RuntimeError::Failed(lost));
                }
                if unseen {
                    // It is younger than what the watch knows, or the watch is broken.
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
                continue;
            }
            if !unseen {
                // So that a list made after this does not show it any more, if the watch works.
                let heard = self
                    .watched
                    .until(|known| (!known.holds(&thing.uid)).then_some(()));
                let _ = tokio::time::timeout(LOOK_AGAIN, heard).await;
            }
            return Ok(());
        }
    }

    /// Whether the watch knows that the node of a pod that goes is lost: then it will take long.
    fn lost(&self, thing: &Thing) -> Option<Reason> {
        let known = self.watched.known();
        let mut pods = known.pods();
        let pod = pods.find(|pod| pod.metadata.uid.as_ref() == Some(&thing.uid))?;
        state::node_lost(pod)
    }

    async fn is_there(&self, thing: &Thing) -> Result<bool, RuntimeError> {
        let name = &thing.name;
        let uid = match thing.what {
            What::Pod { .. } => {
                let found = self.pods.get_metadata_opt(name).await;
                found.map(|found| found.and_then(|found| found.metadata.uid))
            }
            What::Claim => {
                let found = self.claims.get_metadata_opt(name).await;
                found.map(|found| found.and_then(|found| found.metadata.uid))
            }
        };
        let uid = uid.map_err(failed("it cannot be seen whether it is gone"))?;
        Ok(uid.as_ref() == Some(&thing.uid))
    }
}

/// For an object in the version that was seen.
fn as_seen(object: &impl ResourceExt) -> DeleteParams {
    DeleteParams {
        preconditions: Some(Preconditions {
            uid: object.uid(),
            resource_version: object.resource_version(),
        }),
        ..DeleteParams::default()
    }
}

fn only(uid: Option<String>) -> DeleteParams {
    DeleteParams {
        preconditions: Some(Preconditions {
            uid,
            resource_version: None,
        }),
        ..DeleteParams::default()
    }
}
