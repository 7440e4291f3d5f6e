//! What a pod's status says of its environment: pure, so that every wording of the cluster has its test.
//!
//! ```text
//!   no room, no volume, no image yet ──▶ Starting ──▶ Running ──▶ Ended: evicted, out of its node's room, given up
//!                                           ▲            │
//!                                           └── restart ─┘  (same pod: the runner's records are kept)
//! ```
//!
//! A container that fails again and again is still `Starting`: how often that is borne is for whoever waits.

use k8s_openapi::api::core::v1::{
    ContainerState, ContainerStateTerminated, ContainerStatus, PersistentVolumeClaim, Pod,
    PodCondition,
};
use shared::environment::Reason;
use shared::ports::Restart;

use super::names::CONTAINER;

/// How an environment's container is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum State {
    /// Its PID 1 does not run yet, or not again yet.
    Starting(Option<Hindrance>),
    /// Its PID 1 runs.
    Running {
        /// How often it was started again in this pod.
        restarts: u32,
    },
    /// Nothing will run in this pod any more.
    Ended(Reason),
}

/// What keeps PID 1 from running.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Hindrance {
    pub(super) reason: Reason,
    pub(super) kind: Kind,
}

/// What can be expected of a hindrance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// The cluster may get room, or a volume.
    Waiting,
    /// An image may come after all, though it seldom does.
    ImageTrouble,
    /// An image that cannot come.
    NoImage,
    /// The container cannot be made or does not stay.
    ContainerTrouble,
}

/// A word of the cluster about an object: what its events said last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Word {
    pub(super) reason: String,
    pub(super) message: String,
}

/// What is known beside the pod itself.
#[derive(Default)]
pub(super) struct Beside<'a> {
    pub(super) claim: Option<&'a PersistentVolumeClaim>,
    /// The last warning about the pod.
    pub(super) of_pod: Option<&'a Word>,
    /// The last word about the claim.
    pub(super) of_claim: Option<&'a Word>,
}

/// The state of a pod.
pub(super) fn of(pod: &Pod, beside: &Beside<'_>) -> State {
    let status = pod.status.as_ref();
    if matches!(
        status.and_then(|it| it.phase.as_deref()),
        Some("Failed" | "Succeeded")
    ) {
        return State::Ended(end_of(pod));
    }
    let Some(container) = container(pod) else {
        return State::Starting(unscheduled(pod, beside));
    };
    let state = container.state.as_ref();
    if state.is_some_and(|state| state.running.is_some()) {
        return State::Running {
            restarts: restarts(pod),
        };
    }
    if let Some(ended) = state.and_then(|state| state.terminated.as_ref()) {
        return State::Starting(Some(container_trouble(&ended_because(ended))));
    }
    match waiting(state) {
        Some(("CrashLoopBackOff", message)) => {
            let reason =
                last_end(container).unwrap_or_else(|| Reason::new("exited", message.to_owned()));
            State::Starting(Some(container_trouble(&reason)))
        }
        Some((why, message)) => State::Starting(
            hindrance(why, message)
                .or_else(|| installer_trouble(pod))
                .or_else(|| unscheduled(pod, beside))
                .or_else(|| unmounted(beside)),
        ),
        None => State::Starting(unscheduled(pod, beside)),
    }
}

/// How often PID 1 was started again in a pod.
pub(super) fn restarts(pod: &Pod) -> u32 {
    container(pod).map_or(0, |container| {
        u32::try_from(container.restart_count).unwrap_or_default()
    })
}

/// How PID 1 was started again in a pod, in which it had been so often before. A node tells it late.
pub(super) fn restart(pod: &Pod, before: u32) -> Restart {
    let (Some(container), restarts) = (container(pod), restarts(pod)) else {
        return Restart::Unknown;
    };
    let state = container.state.as_ref();
    let runs = state.is_some_and(|state| state.running.is_some());
    if !runs || restarts <= before {
        return Restart::Unknown;
    }
    let reason =
        last_end(container).unwrap_or_else(|| Reason::new("exited", "PID 1 was started again"));
    Restart::Same { reason, restarts }
}

/// Whether PID 1 of a pod that starts may run although its node has not told it yet: the runner was brought, and nothing
/// has ended in it since.
pub(super) fn may_run(pod: &Pod) -> bool {
    let status = pod.status.as_ref();
    let installer = status
        .and_then(|status| status.init_container_statuses.as_ref()?.first())
        .and_then(|installer| installer.state.as_ref()?.terminated.as_ref());
    let brought = installer.is_some_and(|ended| ended.exit_code == 0);
    let untold = container(pod).is_some_and(|container| {
        let why = waiting(container.state.as_ref()).map(|(why, _)| why);
        why == Some("PodInitializing") && container.restart_count == 0
    });
    brought && untold && pod.metadata.deletion_timestamp.is_none()
}

/// Why a pod's environment ended, as far as the pod tells.
pub(super) fn end_of(pod: &Pod) -> Reason {
    let status = pod.status.as_ref();
    let message = |given: Option<&String>, default: &str| {
        given
            .filter(|text| !text.is_empty())
            .map_or_else(|| default.to_owned(), Clone::clone)
    };
    let disruption = condition(pod, "DisruptionTarget").filter(|it| it.status == "True");
    if let Some(lost) = node_lost(pod) {
        return lost;
    }
    let word = status
        .and_then(|status| status.reason.as_deref())
        .unwrap_or_default();
    let told = status.and_then(|status| status.message.as_ref());
    match (word, disruption.and_then(|it| it.reason.as_deref())) {
        ("Preempting", _) | (_, Some("PreemptionByScheduler")) => Reason::new(
            "preempted",
            message(
                told,
                "the pod had to make room for one of a higher priority",
            ),
        ),
        ("Evicted", _) => Reason::new("evicted", message(told, "the pod was evicted")),
        (_, Some(_)) => Reason::new(
            "evicted",
            message(
                disruption.and_then(|it| it.message.as_ref()),
                "the pod was evicted",
            ),
        ),
        // It ended because it was asked to.
        ("", None) if pod.metadata.deletion_timestamp.is_some() => pod_deleted(pod),
        ("", None) => container(pod)
            .and_then(|container| {
                let ended = container.state.as_ref()?.terminated.as_ref()?;
                Some(ended_because(ended))
            })
            .unwrap_or_else(|| Reason::new("exited", message(told, "the pod has ended"))),
        (word, None) => Reason::new("evicted", message(told, word)),
    }
}

/// Whether the cluster has no word of the pod's node any more: what runs there may go on, and nobody can say.
///
/// The control plane then says that the pod is not ready, though its containers were when the node spoke last; the node
/// itself always says why. Later it marks the pod as one that goes. That a taint drives the pod away proves nothing: an
/// administrator may have put it on a node that is well.
pub(super) fn node_lost(pod: &Pod) -> Option<Reason> {
    let status = pod.status.as_ref()?;
    let disruption = condition(pod, "DisruptionTarget").filter(|it| it.status == "True");
    let marked = |reason| disruption.filter(|it| it.reason.as_deref() == Some(reason));
    let forgotten = marked("DeletionByPodGC");
    let silent = is_silent(pod) || status.reason.as_deref() == Some("NodeLost");
    if !silent && forgotten.is_none() {
        return None;
    }
    let taken = forgotten.or_else(|| marked("DeletionByTaintManager"));
    let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
    let said = taken
        .and_then(|it| it.message.clone())
        .or_else(|| status.message.clone());
    let mut message = format!("there is no word of the node {}", node.unwrap_or_default());
    if let Some(said) = said.filter(|said| !said.is_empty()) {
        message = format!("{message}: {said}");
    }
    Some(Reason::new(Reason::NODE_LOST, message))
}

/// Whether it is the control plane that says that the pod is not ready, for want of its node's word.
fn is_silent(pod: &Pod) -> bool {
    let Some(ready) = condition(pod, "Ready") else {
        return false;
    };
    match (ready.status.as_str(), ready.reason.as_deref()) {
        ("Unknown", _) | ("False", Some("NodeStatusUnknown")) => true,
        ("False", None | Some("")) => {
            condition(pod, "ContainersReady").is_some_and(|it| it.status == "True")
        }
        _ => false,
    }
}

fn condition<'a>(pod: &'a Pod, kind: &str) -> Option<&'a PodCondition> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    conditions.iter().find(|condition| condition.type_ == kind)
}

/// Somebody else deleted the pod.
pub(super) fn pod_deleted(pod: &Pod) -> Reason {
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    Reason::new("pod_deleted", format!("the pod {name} was deleted"))
}

fn container(pod: &Pod) -> Option<&ContainerStatus> {
    let statuses = pod.status.as_ref()?.container_statuses.as_ref()?;
    statuses.iter().find(|status| status.name == CONTAINER)
}

fn last_end(container: &ContainerStatus) -> Option<Reason> {
    let ended = container.last_state.as_ref()?.terminated.as_ref()?;
    Some(ended_because(ended))
}

fn ended_because(ended: &ContainerStateTerminated) -> Reason {
    if ended.reason.as_deref() == Some("OOMKilled") {
        return Reason::new("oom_killed", "the environment used up its memory");
    }
    let said = ended.message.as_deref().unwrap_or_default().trim();
    let mut message = format!("PID 1 ended with exit code {}", ended.exit_code);
    if !said.is_empty() {
        message = format!("{message}: {said}");
    }
    Reason::new("exited", message)
}

fn waiting(state: Option<&ContainerState>) -> Option<(&str, &str)> {
    let waiting = state?.waiting.as_ref()?;
    Some((
        waiting.reason.as_deref().unwrap_or_default(),
        waiting.message.as_deref().unwrap_or_default(),
    ))
}

/// What a container's reason to wait means; nothing if it only takes its time.
fn hindrance(why: &str, message: &str) -> Option<Hindrance> {
    let told = |code: &str, kind| {
        let message = if message.is_empty() { why } else { message };
        Some(Hindrance {
            reason: Reason::new(code, message),
            kind,
        })
    };
    match why {
        "InvalidImageName" | "ErrImageNeverPull" => told("image_pull_failed", Kind::NoImage),
        "ErrImagePull"
        | "ImagePullBackOff"
        | "ImageInspectError"
        | "RegistryUnavailable"
        | "SignatureValidationFailed" => told("image_pull_failed", Kind::ImageTrouble),
        "" | "ContainerCreating" | "PodInitializing" => None,
        _ => told("container_not_started", Kind::ContainerTrouble),
    }
}

fn container_trouble(reason: &Reason) -> Hindrance {
    Hindrance {
        reason: reason.clone(),
        kind: Kind::ContainerTrouble,
    }
}

/// The container that brings the runner has a trouble of its own: not the caller's image is to blame.
fn installer_trouble(pod: &Pod) -> Option<Hindrance> {
    let statuses = pod.status.as_ref()?.init_container_statuses.as_ref()?;
    let installer = statuses.first()?;
    let told = |message: &str| Hindrance {
        reason: Reason::new(
            "runner_not_installed",
            format!("the image of the runner, {}: {message}", installer.image),
        ),
        kind: Kind::ContainerTrouble,
    };
    if let Some((why, message)) = waiting(installer.state.as_ref()) {
        return match hindrance(why, message) {
            Some(_) if why == "CrashLoopBackOff" => {
                last_end(installer).map(|end| told(&end.message))
            }
            found => found.map(|hindrance| told(&hindrance.reason.message)),
        };
    }
    let ended = installer.state.as_ref()?.terminated.as_ref()?;
    (ended.exit_code != 0).then(|| told(&ended_because(ended).message))
}

/// The pod has no node yet: for want of its volume, or of a node that fits.
fn unscheduled(pod: &Pod, beside: &Beside<'_>) -> Option<Hindrance> {
    let waits = |code: &str, message: &str| {
        Some(Hindrance {
            reason: Reason::new(code, message),
            kind: Kind::Waiting,
        })
    };
    pod.status.as_ref()?.conditions.as_ref()?;
    let scheduled = condition(pod, "PodScheduled");
    if scheduled.is_some_and(|condition| condition.status == "True") {
        return None;
    }
    if let Some(message) = missing_volume(beside) {
        return waits("volume_pending", &message);
    }
    let condition = scheduled.filter(|condition| condition.status == "False")?;
    let message = condition.message.as_deref().unwrap_or("no node fits");
    waits("unschedulable", message)
}

/// Whether it is the claim that is waited for. One that waits for its pod to be scheduled says so.
fn missing_volume(beside: &Beside<'_>) -> Option<String> {
    let status = beside.claim?.status.as_ref();
    match status.and_then(|status| status.phase.as_deref()) {
        Some("Lost") => Some("the volume of the claim is gone".to_owned()),
        Some("Bound") => None,
        _ => match beside.of_claim?.reason.as_str() {
            "WaitForFirstConsumer" | "WaitForPodScheduled" => None,
            _ => Some(beside.of_claim?.message.clone()),
        },
    }
}

/// The pod has a node, which has trouble with the volume or with anything else that comes before an image.
fn unmounted(beside: &Beside<'_>) -> Option<Hindrance> {
    let word = beside.of_pod?;
    let (code, kind) = match word.reason.as_str() {
        "FailedMount" | "FailedAttachVolume" | "FailedMapVolume" => {
            ("volume_pending", Kind::Waiting)
        }
        "FailedCreatePodSandBox" | "FailedPodSandBoxStatus" => ("sandbox_failed", Kind::Waiting),
        _ => return None,
    };
    Some(Hindrance {
        reason: Reason::new(code, word.message.clone()),
        kind,
    })
}

#[cfg(test)]
mod tests;
