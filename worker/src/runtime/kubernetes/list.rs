//! What is there: of one life as the API server has it now, of all lives as the watch knows it.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::ResourceExt;
use shared::ids::EnvironmentUid;
use shared::ports::{Holding, Restart, RuntimeError, Sight};

use super::cluster::Cluster;
use super::make::is_there;
use super::names;
use super::state::{self, State};
use super::watch::Known;

impl Cluster {
    /// One life, asked of the API server.
    pub(super) async fn inspect(&self, uid: &EnvironmentUid) -> Result<Sight, RuntimeError> {
        let pods = self.pods_of(uid).await?;
        let states: Vec<_> = {
            let known = self.watched.known();
            let states = pods.iter().map(|pod| (known.state(pod), pod));
            states.collect()
        };
        let mut reason = None;
        for (state, pod) in states {
            match state {
                State::Running { .. } => return Ok(Sight::Alive),
                State::Starting(hindrance) => {
                    return Ok(Sight::Starting {
                        reason: hindrance.map(|hindrance| hindrance.reason),
                        restarts: state::restarts(pod),
                    });
                }
                State::Ended(why) => reason = Some(why),
            }
        }
        if reason.is_none() && !self.claims_of(uid).await?.iter().any(is_there) {
            return Ok(Sight::Absent);
        }
        let known = self.watched.known();
        Ok(Sight::Stopped {
            reason: reason.or_else(|| known.end(uid).cloned()),
        })
    }

    /// Whether PID 1 was started again in a pod, and why the start before the one that runs ended.
    pub(super) async fn restarted(
        &self,
        uid: &EnvironmentUid,
        pod: &str,
        restarts: u32,
    ) -> Result<Restart, RuntimeError> {
        let pods = self.pods_of(uid).await?;
        let it = pods.iter().find(|found| found.name_any() == pod);
        Ok(it.map_or(Restart::Another, |pod| state::restart(pod, restarts)))
    }

    /// The name of the pod in which the life's PID 1 runs, or may run, as far as the watch knows.
    pub(super) fn seen_running(&self, uid: &EnvironmentUid) -> Option<String> {
        let known = self.watched.known();
        let pod = known.pod_of(uid, &self.instance)?;
        may_answer(&known, pod).then(|| pod.name_any())
    }

    /// The same, asked of the API server.
    pub(super) async fn running(&self, uid: &EnvironmentUid) -> Result<String, RuntimeError> {
        let pods = self.pods_of(uid).await?;
        let known = self.watched.known();
        // One that goes may still run beside the one that came after it.
        let running = pods.iter().filter(|pod| may_answer(&known, pod));
        running
            .min_by_key(|pod| pod.metadata.deletion_timestamp.is_some())
            .map(ResourceExt::name_any)
            .ok_or(RuntimeError::NotRunning)
    }

    /// All lives of this instance.
    pub(super) fn list(&self) -> Result<Vec<Holding>, RuntimeError> {
        let known = self.watched.known();
        if let Some(why) = known.trouble() {
            return Err(RuntimeError::Unavailable(format!(
                "pods and claims cannot be watched: {why}"
            )));
        }
        let mut found = BTreeMap::new();
        let claims = known.claims().map(|claim| (&claim.metadata, None));
        let pods = known.pods().map(|pod| (&pod.metadata, Some(pod)));
        for (metadata, pod) in claims.chain(pods) {
            let Some(uid) = names::owner(metadata, &self.instance) else {
                continue;
            };
            let holding = found.entry(uid.clone()).or_insert(Holding {
                uid,
                alive: false,
                container: false,
                restarts: 0,
                unreachable: None,
                age_seconds: 0,
            });
            holding.age_seconds = holding.age_seconds.max(self.age(metadata));
            let Some(pod) = pod else { continue };
            holding.container = true;
            if let State::Running { restarts } = known.state(pod) {
                holding.alive = true;
                holding.restarts = restarts;
                holding.unreachable = state::node_lost(pod);
            }
        }
        Ok(found.into_values().collect())
    }

    pub(super) fn age(&self, metadata: &ObjectMeta) -> u64 {
        let made = metadata.creation_timestamp.as_ref();
        let now = self.clock.now().as_second();
        made.map_or(0, |made| {
            u64::try_from(now - made.0.as_second()).unwrap_or_default()
        })
    }
}

/// Whether it is worth asking a pod's runner.
fn may_answer(known: &Known, pod: &Pod) -> bool {
    match known.state(pod) {
        State::Running { .. } => true,
        State::Starting(held) => held.is_none() && state::may_run(pod),
        State::Ended(_) => false,
    }
}
