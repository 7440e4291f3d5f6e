//! The cluster as the adapter's operations see it: its objects, the shared watch, and one operation per life at a time.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Instant;

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::api::ListParams;
use kube::{Api, Client};
use shared::clock::Clock;
use shared::ids::{EnvironmentUid, InstanceId};
use shared::ports::RuntimeError;
use tokio::sync::OwnedMutexGuard;

use super::access::Access;
use super::fault::failed;
use super::names;
use super::settings::KubernetesSettings;
use super::watch::Watched;
use crate::runtime::pauses::Pauses;

/// What every operation needs.
pub(super) struct Cluster {
    pub(super) settings: KubernetesSettings,
    pub(super) instance: InstanceId,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) pods: Api<Pod>,
    pub(super) claims: Api<PersistentVolumeClaim>,
    pub(super) policies: Api<NetworkPolicy>,
    /// When the policies were last made what they should be.
    pub(super) fenced: tokio::sync::Mutex<Option<Instant>>,
    /// For streams: it repeats nothing.
    pub(super) exec: Client,
    pub(super) watched: Watched,
    /// Shapes of which no pod is made ready for now.
    pub(super) pauses: Pauses,
    turns: Mutex<HashMap<EnvironmentUid, Weak<tokio::sync::Mutex<()>>>>,
}

impl Cluster {
    pub(super) fn new(
        access: Access,
        settings: KubernetesSettings,
        instance: InstanceId,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let Access { plain, exec } = access;
        let namespace = settings.namespace.as_str();
        Self {
            pods: Api::namespaced(plain.clone(), namespace),
            claims: Api::namespaced(plain.clone(), namespace),
            policies: Api::namespaced(plain.clone(), namespace),
            fenced: tokio::sync::Mutex::default(),
            exec,
            watched: Watched::begin(&plain, namespace, instance.clone(), Arc::clone(&clock)),
            settings,
            instance,
            clock,
            pauses: Pauses::default(),
            turns: Mutex::default(),
        }
    }

    /// Waits for the life's turn: what changes it is done one after the other.
    pub(super) async fn turn(&self, uid: &EnvironmentUid) -> OwnedMutexGuard<()> {
        let turn = {
            let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
            turns.retain(|_, turn| turn.strong_count() > 0);
            match turns.get(uid).and_then(Weak::upgrade) {
                Some(turn) => turn,
                None => {
                    let turn = Arc::default();
                    turns.insert(uid.clone(), Arc::downgrade(&turn));
                    turn
                }
            }
        };
        turn.lock_owned().await
    }

    /// The pods of a life, as the API server has them now.
    pub(super) async fn pods_of(&self, uid: &EnvironmentUid) -> Result<Vec<Pod>, RuntimeError> {
        let found = self.pods.list(&self.of_life(uid)).await;
        Ok(found.map_err(failed("pods cannot be listed"))?.items)
    }

    /// The claims of a life, as the API server has them now.
    pub(super) async fn claims_of(
        &self,
        uid: &EnvironmentUid,
    ) -> Result<Vec<PersistentVolumeClaim>, RuntimeError> {
        let found = self.claims.list(&self.of_life(uid)).await;
        Ok(found.map_err(failed("claims cannot be listed"))?.items)
    }

    fn of_life(&self, uid: &EnvironmentUid) -> ListParams {
        ListParams::default().labels(&names::of_life(&self.instance, uid))
    }
}
