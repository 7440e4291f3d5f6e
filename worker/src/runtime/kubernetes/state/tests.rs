//! The wordings of a real cluster, and what they mean.

// So that each case reads as one expression.
#![allow(clippy::needless_pass_by_value)]

use serde_json::{Value, json};

use super::*;

fn pod(status: Value) -> Pod {
    serde_json::from_value(json!({ "status": status })).unwrap()
}

fn claim(phase: &str) -> PersistentVolumeClaim {
    serde_json::from_value(json!({ "status": { "phase": phase } })).unwrap()
}

fn word(reason: &str) -> Word {
    Word {
        reason: reason.to_owned(),
        message: format!("said {reason}"),
    }
}

/// The status of a pod that has a node and whose container is so.
fn with_container(state: Value) -> Value {
    json!({
        "phase": "Pending",
        "conditions": [{"type": "PodScheduled", "status": "True"}],
        "containerStatuses": [container(state, 0, Value::Null)],
    })
}

fn container(state: Value, restarts: i32, last: Value) -> Value {
    json!({
        "name": "environment", "image": "i", "imageID": "", "ready": false,
        "restartCount": restarts, "state": state, "lastState": last,
    })
}

fn waiting(reason: &str, message: &str) -> Value {
    json!({ "waiting": { "reason": reason, "message": message } })
}

fn seen(status: Value) -> State {
    of(&pod(status), &Beside::default())
}

/// Code and kind of what holds a pod up.
fn held(state: &State) -> Option<(&str, Kind)> {
    match state {
        State::Starting(Some(hindrance)) => Some((&hindrance.reason.code, hindrance.kind)),
        _ => None,
    }
}

fn unscheduled() -> Value {
    json!({
        "phase": "Pending",
        "conditions": [{
            "type": "PodScheduled", "status": "False", "reason": "Unschedulable",
            "message": "0/1 nodes are available: 1 Insufficient cpu.",
        }],
    })
}

#[test]
fn a_new_pod_just_starts() {
    assert_eq!(seen(json!({})), State::Starting(None));
    for reason in ["ContainerCreating", "PodInitializing"] {
        let status = with_container(waiting(reason, ""));
        assert_eq!(seen(status), State::Starting(None));
    }
}

/// A status in which the container runs, after so many restarts.
fn running_again(restarts: i32, last: Value) -> Value {
    let running = json!({ "running": { "startedAt": "2026-01-01T00:00:00Z" } });
    json!({ "phase": "Running", "containerStatuses": [container(running, restarts, last)] })
}

#[test]
fn a_container_that_runs_tells_of_its_restarts() {
    let state = seen(running_again(2, Value::Null));
    assert_eq!(state, State::Running { restarts: 2 });
}

#[test]
fn a_restart_is_known_only_once_the_node_has_told_it() {
    let last = json!({ "terminated": { "exitCode": 137, "reason": "OOMKilled" } });
    let again = |status: Value, before| restart(&pod(status), before);
    for (status, before) in [
        (json!({}), 0),
        (with_container(waiting("CrashLoopBackOff", "")), 0),
        (running_again(0, Value::Null), 0),
        // It knows of the restart before this one.
        (running_again(1, last.clone()), 1),
    ] {
        assert_eq!(again(status.clone(), before), Restart::Unknown, "{status}");
    }
    for (last, code) in [(last, "oom_killed"), (Value::Null, "exited")] {
        let Restart::Same { reason, restarts } = again(running_again(2, last), 1) else {
            panic!("it is known");
        };
        assert_eq!((reason.code.as_str(), restarts), (code, 2));
    }
}

#[test]
fn images_that_may_come_are_told_from_those_that_cannot() {
    for (why, kind) in [
        ("ErrImagePull", Kind::ImageTrouble),
        ("ImagePullBackOff", Kind::ImageTrouble),
        ("InvalidImageName", Kind::NoImage),
        ("ErrImageNeverPull", Kind::NoImage),
    ] {
        let state = seen(with_container(waiting(why, "no such host")));
        assert_eq!(held(&state), Some(("image_pull_failed", kind)), "{why}");
    }
    let state = seen(with_container(waiting(
        "RunContainerError",
        "exec format error",
    )));
    assert_eq!(
        held(&state),
        Some(("container_not_started", Kind::ContainerTrouble))
    );
}

#[test]
fn the_runners_own_image_is_named() {
    let mut status = with_container(waiting("PodInitializing", ""));
    for (state, said) in [
        (waiting("ImagePullBackOff", "refused"), "refused"),
        (
            json!({ "terminated": { "exitCode": 1, "message": "no space" } }),
            "no space",
        ),
    ] {
        status["initContainerStatuses"] = json!([{
            "name": "install", "image": "environment-manager:1", "imageID": "", "ready": false,
            "restartCount": 1, "state": state,
        }]);
        let State::Starting(Some(hindrance)) = seen(status.clone()) else {
            panic!("it is held up");
        };
        assert_eq!(hindrance.reason.code, "runner_not_installed");
        let message = hindrance.reason.message;
        assert!(
            message.contains("environment-manager:1") && message.contains(said),
            "{message}"
        );
    }
    status["initContainerStatuses"][0]["state"] = json!({ "terminated": { "exitCode": 0 } });
    assert_eq!(seen(status), State::Starting(None));
}

#[test]
fn want_of_room_is_told_from_want_of_a_volume() {
    let pending = claim("Pending");
    let (bound, lost) = (claim("Bound"), claim("Lost"));
    for (claim, said, code) in [
        (None, None, "unschedulable"),
        (
            Some(&bound),
            Some(word("ProvisioningSucceeded")),
            "unschedulable",
        ),
        (Some(&pending), None, "unschedulable"),
        (
            Some(&pending),
            Some(word("WaitForFirstConsumer")),
            "unschedulable",
        ),
        (
            Some(&pending),
            Some(word("ProvisioningFailed")),
            "volume_pending",
        ),
        (
            Some(&pending),
            Some(word("ExternalProvisioning")),
            "volume_pending",
        ),
        (Some(&lost), None, "volume_pending"),
    ] {
        let beside = Beside {
            claim,
            of_claim: said.as_ref(),
            of_pod: None,
        };
        let state = of(&pod(unscheduled()), &beside);
        assert_eq!(held(&state), Some((code, Kind::Waiting)), "{said:?}");
    }
}

#[test]
fn a_volume_that_does_not_come_to_its_node_is_told_by_its_event() {
    let failed = word("FailedMount");
    let beside = Beside {
        of_pod: Some(&failed),
        ..Beside::default()
    };
    let state = of(
        &pod(with_container(waiting("ContainerCreating", ""))),
        &beside,
    );
    assert_eq!(held(&state), Some(("volume_pending", Kind::Waiting)));
}

#[test]
fn a_container_that_fails_again_and_again_still_starts_however_old_it_is() {
    let last =
        json!({ "terminated": { "exitCode": 1, "reason": "Error", "message": "no state folder" } });
    for restarts in [1, 3, 100] {
        let waits = waiting("CrashLoopBackOff", "back-off");
        let container = container(waits, restarts, last.clone());
        let state = seen(json!({ "phase": "Running", "containerStatuses": [container] }));
        assert_eq!(held(&state), Some(("exited", Kind::ContainerTrouble)));
        let State::Starting(Some(hindrance)) = state else {
            panic!("{state:?}");
        };
        assert!(
            hindrance.reason.message.contains("no state folder"),
            "{hindrance:?}"
        );
    }
}

#[test]
fn a_node_of_which_there_is_no_word_is_told_from_a_container_that_is_not_ready() {
    let lost = |ready: Value, containers: &str| {
        let mut pod = pod(json!({ "phase": "Running", "conditions": [
            { "type": "Ready", "status": "False" },
            { "type": "ContainersReady", "status": containers },
        ]}));
        pod.spec = serde_json::from_value(json!({ "nodeName": "one", "containers": [] })).unwrap();
        let conditions = pod.status.as_mut().unwrap().conditions.as_mut().unwrap();
        conditions[0].reason = serde_json::from_value(ready).unwrap();
        node_lost(&pod)
    };
    let reason = lost(Value::Null, "True").unwrap();
    assert_eq!(reason.code, "node_lost");
    assert!(reason.message.contains("the node one"), "{reason:?}");
    assert!(lost(json!("NodeStatusUnknown"), "False").is_some());
    assert_eq!(lost(Value::Null, "False"), None);
    assert_eq!(lost(json!("ContainersNotReady"), "False"), None);
    assert_eq!(lost(json!("ReadinessGatesNotReady"), "True"), None);
    let marked = |reason| {
        json!({ "phase": "Running", "conditions": [
            { "type": "DisruptionTarget", "status": "True", "reason": reason, "message": "no word" },
        ]})
    };
    let reason = node_lost(&pod(marked("DeletionByPodGC"))).unwrap();
    assert!(reason.message.ends_with(": no word"), "{reason:?}");
    assert_eq!(node_lost(&pod(marked("EvictionByEvictionAPI"))), None);
    // Any taint does that, also one on a node that is well.
    let mut driven_away = marked("DeletionByTaintManager");
    assert_eq!(node_lost(&pod(driven_away.clone())), None);
    let conditions = driven_away["conditions"].as_array_mut().unwrap();
    conditions.push(json!({ "type": "Ready", "status": "Unknown" }));
    let reason = node_lost(&pod(driven_away)).unwrap();
    assert!(reason.message.ends_with(": no word"), "{reason:?}");
}

#[test]
fn a_restart_that_comes_is_not_an_end() {
    let ended = json!({ "terminated": { "exitCode": 137, "reason": "Error" } });
    let status =
        json!({ "phase": "Running", "containerStatuses": [container(ended, 0, Value::Null)] });
    assert_eq!(
        held(&seen(status)),
        Some(("exited", Kind::ContainerTrouble))
    );
}

#[test]
fn an_end_that_was_asked_for_is_the_deletion() {
    let mut pod = pod(json!({ "phase": "Succeeded" }));
    pod.metadata = serde_json::from_value(json!({
        "name": "em-a-1", "deletionTimestamp": "2026-01-01T00:00:00Z",
    }))
    .unwrap();
    let State::Ended(reason) = of(&pod, &Beside::default()) else {
        panic!("it ended");
    };
    assert_eq!(reason.code, "pod_deleted");
}

#[test]
fn every_end_has_its_reason() {
    let disruption = |reason: &str| {
        json!({ "phase": "Failed", "conditions": [{
            "type": "DisruptionTarget", "status": "True", "reason": reason, "message": "for it",
        }]})
    };
    let oom = json!({ "terminated": { "exitCode": 137, "reason": "OOMKilled" } });
    for (status, code) in [
        (
            json!({ "phase": "Failed", "reason": "Evicted", "message": "low on memory" }),
            "evicted",
        ),
        (
            json!({ "phase": "Failed", "reason": "NodeLost" }),
            "node_lost",
        ),
        (
            json!({ "phase": "Failed", "reason": "Preempting" }),
            "preempted",
        ),
        (
            json!({ "phase": "Failed", "reason": "OutOfcpu" }),
            "evicted",
        ),
        (disruption("PreemptionByScheduler"), "preempted"),
        (disruption("EvictionByEvictionAPI"), "evicted"),
        (disruption("DeletionByTaintManager"), "evicted"),
        (disruption("DeletionByPodGC"), "node_lost"),
        (
            json!({ "phase": "Failed", "containerStatuses": [container(oom, 0, Value::Null)] }),
            "oom_killed",
        ),
        (json!({ "phase": "Succeeded" }), "exited"),
    ] {
        let State::Ended(reason) = seen(status.clone()) else {
            panic!("it ended: {status}");
        };
        assert_eq!(reason.code, code, "{status}");
        assert!(!reason.message.is_empty());
    }
}

#[test]
fn a_runner_that_was_brought_may_run_before_it_is_told() {
    let installer = |state: Value| {
        let mut status = with_container(waiting("PodInitializing", ""));
        status["initContainerStatuses"] = json!([container(state, 0, Value::Null)]);
        status
    };
    let ended = |code: i32| json!({ "terminated": { "exitCode": code } });
    assert!(may_run(&pod(installer(ended(0)))));
    let mut told = installer(ended(0));
    told["containerStatuses"][0]["state"] = waiting("ErrImagePull", "");
    let mut again = installer(ended(0));
    again["containerStatuses"][0]["restartCount"] = json!(1);
    for status in [
        json!({}),
        with_container(waiting("PodInitializing", "")),
        installer(json!({ "running": {} })),
        installer(ended(1)),
        told,
        again,
    ] {
        assert!(!may_run(&pod(status.clone())), "{status}");
    }
    let mut going = pod(installer(ended(0)));
    going.metadata.deletion_timestamp =
        serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap();
    assert!(!may_run(&going));
}
