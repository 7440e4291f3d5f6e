//! One watch for the whole worker: what the cluster says of this instance's pods and claims, kept in memory.
//!
//! ```text
//!   pods    (labelled with the instance) ──▶ ┐
//!   claims  (labelled with the instance) ──▶ ├─ Known ──▶ lists, reasons, waits: no request to the API server
//!   events  (what is said of them)       ──▶ ┘
//! ```
//!
//! It may lag behind, so it is never proof that something is gone: who ends a job because of it asks the API server
//! itself. An idle environment costs nothing here.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt::Debug;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::core::v1::{Event as Word, PersistentVolumeClaim, Pod};
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, Resource, ResourceExt as _};
use serde::de::DeserializeOwned;
use shared::clock::Clock;
use shared::environment::Reason;
use shared::ids::{EnvironmentUid, InstanceId};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::reach::Backoff;

use super::state::{self, Beside, State};
use super::words::Words;
use super::{make, names, storage};

/// The pauses before a watch that broke is begun anew.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(15);

/// Objects of one kind by name, and what a new list has brought so far.
struct Shelf<K> {
    here: BTreeMap<String, Arc<K>>,
    coming: Option<BTreeMap<String, Arc<K>>>,
    /// Why there is no watch, or that there was none yet.
    trouble: Option<String>,
    /// Whether there was a word yet, good or bad.
    heard: bool,
}

/// What is known of the cluster.
pub(super) struct Known {
    pods: Shelf<Pod>,
    claims: Shelf<PersistentVolumeClaim>,
    words: Words,
    /// When each pod, by its own uid, was first seen here.
    since: HashMap<String, Instant>,
    /// Pods, by their own uid, whose runner answered here, maybe before their node told that it runs.
    answered: HashSet<String>,
    /// Why the last pod of a life went, if it was not this process that ended it.
    ends: HashMap<EnvironmentUid, Reason>,
    /// Pods, by their own uid, that this process ends.
    ended_here: HashMap<String, EnvironmentUid>,
}

/// The watch. It ends when this is dropped.
pub(super) struct Watched {
    shared: Arc<Shared>,
    _following: JoinSet<()>,
}

struct Shared {
    instance: InstanceId,
    clock: Arc<dyn Clock>,
    known: Mutex<Known>,
    changes: watch::Sender<()>,
}

impl Watched {
    /// Begins to watch a namespace.
    pub(super) fn begin(
        client: &Client,
        namespace: &str,
        instance: InstanceId,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let own = watcher::Config::default().labels(&names::of_instance(&instance));
        let shared = Arc::new(Shared {
            instance,
            clock,
            known: Mutex::new(Known::new()),
            changes: watch::Sender::default(),
        });
        let mut following = JoinSet::new();
        let api = Api::<Pod>::namespaced(client.clone(), namespace);
        following.spawn(follow(
            api,
            own.clone(),
            Arc::clone(&shared),
            Shared::on_pod,
        ));
        let api = Api::<PersistentVolumeClaim>::namespaced(client.clone(), namespace);
        following.spawn(follow(api, own, Arc::clone(&shared), Shared::on_claim));
        let api = Api::<Word>::namespaced(client.clone(), namespace);
        let all = watcher::Config::default();
        following.spawn(follow(api, all, Arc::clone(&shared), Shared::on_word));
        Self {
            shared,
            _following: following,
        }
    }

    /// What is known now.
    pub(super) fn known(&self) -> MutexGuard<'_, Known> {
        self.shared.known()
    }

    /// Waits until what is known answers.
    pub(super) async fn until<T>(&self, answer: impl FnMut(&Known) -> Option<T>) -> T {
        self.shared.until(answer).await
    }

    /// The same, for whoever may outlive this: then nothing is heard any more.
    pub(super) fn eventually<T, F>(&self, answer: F) -> impl Future<Output = T> + use<T, F>
    where
        F: FnMut(&Known) -> Option<T>,
    {
        let shared = Arc::clone(&self.shared);
        async move { shared.until(answer).await }
    }
}

impl Known {
    pub(super) fn new() -> Self {
        Self {
            pods: Shelf::new(),
            claims: Shelf::new(),
            words: Words::default(),
            since: HashMap::new(),
            answered: HashSet::new(),
            ends: HashMap::new(),
            ended_here: HashMap::new(),
        }
    }

    /// Why there is no watch of pods or claims; nothing if there is one.
    pub(super) fn trouble(&self) -> Option<&str> {
        self.pods
            .trouble
            .as_deref()
            .or(self.claims.trouble.as_deref())
    }

    /// Whether it is known if there is a watch: not so right after it began.
    pub(super) fn heard(&self) -> bool {
        self.pods.heard && self.claims.heard
    }

    /// The pod of that name.
    pub(super) fn pod(&self, name: &str) -> Option<&Arc<Pod>> {
        self.pods.here.get(name)
    }

    /// All pods.
    pub(super) fn pods(&self) -> impl Iterator<Item = &Arc<Pod>> {
        self.pods.here.values()
    }

    /// All claims.
    pub(super) fn claims(&self) -> impl Iterator<Item = &Arc<PersistentVolumeClaim>> {
        self.claims.here.values()
    }

    /// The pod of a life that is not being ended, else any.
    pub(super) fn pod_of(&self, uid: &EnvironmentUid, instance: &InstanceId) -> Option<&Arc<Pod>> {
        self.pods()
            .filter(|pod| names::owner(&pod.metadata, instance).as_ref() == Some(uid))
            .min_by_key(|pod| pod.metadata.deletion_timestamp.is_some())
    }

    /// Whether a pod or claim with this uid of its own is there.
    pub(super) fn holds(&self, object_uid: &str) -> bool {
        let is = |uid: Option<&String>| uid.is_some_and(|uid| uid == object_uid);
        self.pods().any(|pod| is(pod.metadata.uid.as_ref()))
            || self.claims().any(|claim| is(claim.metadata.uid.as_ref()))
    }

    /// The claim that a pod has its volume from, if it is known.
    pub(super) fn claim_of(&self, pod: &Pod) -> Option<&Arc<PersistentVolumeClaim>> {
        self.claims.here.get(&make::claim_of(pod)?)
    }

    /// Whether a claim of this name is known to hold no more than it asks for.
    pub(super) fn is_bounded(&self, claim: &str) -> bool {
        let claim = self.claims.here.get(claim);
        claim.is_some_and(|claim| storage::is_enforced(claim))
    }

    /// How a pod is, with all that is known beside it.
    pub(super) fn state(&self, pod: &Pod) -> State {
        let claim = self.claim_of(pod);
        let said_of = |uid: Option<&String>| uid.and_then(|uid| self.words.last(uid));
        let beside = Beside {
            claim: claim.map(Arc::as_ref),
            of_pod: said_of(pod.metadata.uid.as_ref()),
            of_claim: claim.and_then(|claim| said_of(claim.metadata.uid.as_ref())),
        };
        match state::of(pod, &beside) {
            State::Starting(None) if state::may_run(pod) && self.has_answered(pod) => {
                State::Running { restarts: 0 }
            }
            told => told,
        }
    }

    fn has_answered(&self, pod: &Pod) -> bool {
        let uid = pod.metadata.uid.as_ref();
        uid.is_some_and(|uid| self.answered.contains(uid))
    }

    /// Notes that the runner in a pod answered.
    pub(super) fn answers(&mut self, pod_uid: &str) {
        // One that went meanwhile would be kept for ever.
        if self.since.contains_key(pod_uid) {
            self.answered.insert(pod_uid.to_owned());
        }
    }

    /// Since when a pod is known.
    pub(super) fn since(&self, pod: &Pod) -> Option<Instant> {
        self.since.get(pod.metadata.uid.as_ref()?).copied()
    }

    /// Why the last pod of a life went, if that was not asked for here.
    pub(super) fn end(&self, uid: &EnvironmentUid) -> Option<&Reason> {
        self.ends.get(uid)
    }

    /// Notes that this process ended a pod, now that the API server has accepted it: its end needs no reason. The watch may
    /// have told of it already.
    pub(super) fn was_ended(&mut self, uid: &EnvironmentUid, pod: &Pod) {
        if let Some(pod_uid) = &pod.metadata.uid {
            self.ended_here.insert(pod_uid.clone(), uid.clone());
        }
        self.ends.remove(uid);
    }

    /// The claim of a life went, and with it whatever is still to be said of its pods.
    fn claim_went(&mut self, owner: &EnvironmentUid) {
        self.ends.remove(owner);
        self.ended_here.retain(|_, of| of != owner);
    }

    #[cfg(test)]
    pub(super) fn hear_of(&mut self, pod: Pod) {
        self.pods.take(Event::Apply(pod));
    }

    #[cfg(test)]
    pub(super) fn hear_no_more_of(&mut self, pod: Pod) {
        self.pods.take(Event::Delete(pod));
    }

    #[cfg(test)]
    pub(super) fn hear_of_claim(&mut self, claim: PersistentVolumeClaim) {
        self.claims.take(Event::Apply(claim));
    }

    #[cfg(test)]
    pub(super) fn hear_all(&mut self) {
        self.pods.trouble = None;
        self.claims.trouble = None;
    }

    fn pod_came(&mut self, pod: &Pod, now: Instant) {
        if let Some(uid) = &pod.metadata.uid {
            self.since.entry(uid.clone()).or_insert(now);
        }
    }

    fn pod_went(&mut self, pod: &Pod, owner: Option<EnvironmentUid>) {
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        self.since.remove(uid);
        self.answered.remove(uid);
        let ended_here = self.ended_here.remove(uid).is_some();
        // The two watches keep no order. Where the claim went first nobody asks any more, and nothing would forget this.
        let claim = make::claim_of(pod);
        let is_last = claim.is_some_and(|claim| !self.claims.here.contains_key(&claim));
        if let (Some(owner), false, false) = (owner, ended_here, is_last) {
            self.ends.insert(owner, went(pod));
        }
    }
}

/// Why a pod that is gone went, by its last state.
fn went(pod: &Pod) -> Reason {
    match state::end_of(pod) {
        reason if reason.code != "exited" => reason,
        _ => state::pod_deleted(pod),
    }
}

impl<K> Shelf<K> {
    fn new() -> Self {
        Self {
            here: BTreeMap::new(),
            coming: None,
            trouble: Some("nothing was heard of the API server yet".to_owned()),
            heard: false,
        }
    }

    fn failed(&mut self, why: String) {
        self.trouble = Some(why);
        self.heard = true;
    }
}

impl<K: Resource + Clone> Shelf<K> {
    /// Takes in what the watch says; answers what came or changed, and what went.
    fn take(&mut self, event: Event<K>) -> (Vec<Arc<K>>, Vec<Arc<K>>) {
        match event {
            Event::Apply(object) => {
                let object = Arc::new(object);
                self.here.insert(object.name_any(), Arc::clone(&object));
                (vec![object], Vec::new())
            }
            Event::Delete(object) => {
                self.here.remove(&object.name_any());
                (Vec::new(), vec![Arc::new(object)])
            }
            Event::Init => {
                self.coming = Some(BTreeMap::new());
                Default::default()
            }
            Event::InitApply(object) => {
                let coming = self.coming.get_or_insert_default();
                coming.insert(object.name_any(), Arc::new(object));
                Default::default()
            }
            Event::InitDone => {
                self.trouble = None;
                self.heard = true;
                let before =
                    std::mem::replace(&mut self.here, self.coming.take().unwrap_or_default());
                let still = |object: &Arc<K>| {
                    self.here
                        .get(&object.name_any())
                        .is_some_and(|now| now.meta().uid == object.meta().uid)
                };
                let went = before.into_values().filter(|object| !still(object));
                let went = went.collect();
                (self.here.values().cloned().collect(), went)
            }
        }
    }
}

impl Shared {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn until<T>(&self, mut answer: impl FnMut(&Known) -> Option<T>) -> T {
        let mut changes = self.changes.subscribe();
        loop {
            if let Some(found) = answer(&self.known()) {
                return found;
            }
            // The sender lives as long as this does.
            let _ = changes.changed().await;
        }
    }

    fn on_pod(&self, event: Result<Event<Pod>, String>) {
        let known = &mut *self.known();
        match event {
            Ok(event) => {
                let (came, went) = known.pods.take(event);
                for pod in went {
                    known.pod_went(&pod, names::owner(&pod.metadata, &self.instance));
                }
                for pod in came {
                    known.pod_came(&pod, self.clock.monotonic());
                }
            }
            Err(why) => known.pods.failed(why),
        }
    }

    fn on_claim(&self, event: Result<Event<PersistentVolumeClaim>, String>) {
        let known = &mut *self.known();
        match event {
            Ok(event) => {
                let (_, went) = known.claims.take(event);
                for claim in went {
                    if let Some(owner) = names::owner(&claim.metadata, &self.instance) {
                        known.claim_went(&owner);
                    }
                }
            }
            Err(why) => known.claims.failed(why),
        }
    }

    fn on_word(&self, event: Result<Event<Word>, String>) {
        // Without them only the wording of reasons is poorer.
        if let Ok(event) = event {
            self.known().words.take(event);
        }
    }
}

/// Follows objects of one kind until the task is dropped. A watch that broke is begun anew, with a whole list: only that
/// says that nothing was missed, also in a namespace where nothing happens.
async fn follow<K>(
    api: Api<K>,
    config: watcher::Config,
    shared: Arc<Shared>,
    on: fn(&Shared, Result<Event<K>, String>),
) where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let backoff = || Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
    let mut pause = backoff();
    loop {
        let mut events = watcher(api.clone(), config.clone())
            .map_ok(|event| event.modify(|object| object.managed_fields_mut().clear()))
            .boxed();
        while let Some(event) = events.next().await {
            let event = event.map_err(|error| error.to_string());
            let whole = matches!(event, Ok(Event::InitDone));
            let broke = event.as_ref().err().cloned();
            on(&shared, event);
            shared.changes.send_replace(());
            if let Some(error) = broke {
                tracing::warn!(kind = %K::kind(&()), error, "the watch broke; it is begun anew");
                break;
            }
            if whole {
                pause = backoff();
            }
        }
        pause.wait().await;
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_an_end_that_nobody_here_brought_about_has_a_reason() {
        let uid = EnvironmentUid::new("abcdefgh22").unwrap();
        let pod = |own: &str| -> Pod {
            serde_json::from_value(json!({ "metadata": { "name": "em-a-1", "uid": own } })).unwrap()
        };
        let mut known = Known::new();
        let mut goes = |ended: bool, went: bool, late: bool, own: &str| {
            if ended && !late {
                known.was_ended(&uid, &pod(own));
            }
            if went {
                known.pod_went(&pod(own), Some(uid.clone()));
            }
            if ended && late {
                known.was_ended(&uid, &pod(own));
            }
            known.end(&uid).map(|reason| reason.code.clone())
        };
        // A deletion that the API server did not accept is noted by nobody.
        assert_eq!(
            goes(false, true, false, "a").as_deref(),
            Some("pod_deleted")
        );
        assert_eq!(goes(true, true, false, "b"), None);
        // The watch was faster than the answer.
        assert_eq!(goes(true, true, true, "c"), None);
        // One that was ended here does not speak for the next.
        assert_eq!(goes(true, false, false, "d"), None);
        assert_eq!(
            goes(false, true, false, "e").as_deref(),
            Some("pod_deleted")
        );
        assert!(!known.ended_here.is_empty());
        known.claim_went(&uid);
        assert!(known.ended_here.is_empty() && known.end(&uid).is_none());
    }

    #[test]
    fn nothing_is_kept_of_a_pod_whose_claim_was_seen_to_go_before_it() {
        let uid = EnvironmentUid::new("abcdefgh22").unwrap();
        let volume = json!({ "name": "v", "persistentVolumeClaim": { "claimName": "c" } });
        let pod: Pod = serde_json::from_value(json!({
            "metadata": { "name": "em-a-1", "uid": "a" },
            "spec": { "containers": [], "volumes": [volume] },
        }))
        .unwrap();
        let claim = json!({ "metadata": { "name": "c" } });
        let mut known = Known::new();
        known.hear_of_claim(serde_json::from_value(claim.clone()).unwrap());
        known.pod_went(&pod, Some(uid.clone()));
        assert!(known.end(&uid).is_some());
        known
            .claims
            .take(Event::Delete(serde_json::from_value(claim).unwrap()));
        known.claim_went(&uid);
        known.pod_went(&pod, Some(uid.clone()));
        assert!(known.end(&uid).is_none());
    }

    #[test]
    fn a_runner_that_answered_runs_though_its_node_has_not_told_it_yet() {
        let ended = json!([{ "name": "install", "image": "i", "imageID": "", "ready": true, "restartCount": 0,
            "state": { "terminated": { "exitCode": 0 } } }]);
        let status = |state: serde_json::Value| {
            json!({ "phase": "Pending", "initContainerStatuses": ended, "containerStatuses": [{
                "name": names::CONTAINER, "image": "i", "imageID": "", "ready": false, "restartCount": 0, "state": state }] })
        };
        let pod = |state: serde_json::Value| -> Pod {
            let metadata = json!({ "name": "em-a-1", "uid": "u" });
            serde_json::from_value(json!({ "metadata": metadata, "status": status(state) }))
                .unwrap()
        };
        let untold = pod(json!({ "waiting": { "reason": "PodInitializing" } }));
        let mut known = Known::new();
        known.answers("u");
        assert_eq!(
            known.state(&untold),
            State::Starting(None),
            "not of this pod"
        );
        known.pod_came(&untold, Instant::now());
        known.answers("u");
        assert_eq!(known.state(&untold), State::Running { restarts: 0 });
        // Whatever its node tells counts.
        let ended = pod(json!({ "terminated": { "exitCode": 1 } }));
        assert!(matches!(known.state(&ended), State::Starting(Some(_))));
        known.pod_went(&untold, None);
        assert_eq!(known.state(&untold), State::Starting(None));
    }
}
