//! The pod and the claim of a life, as plain values: nothing here asks the cluster for anything.
//!
//! ```text
//!   init container (the runner's image)           main container (the environment's image)
//!     em-runner install ──▶ emptyDir "runner" ──▶ /.em/bin, read-only      PID 1 = /.em/bin/em-runner
//!                           emptyDir "state"  ──▶ /.em/state               records, logs, socket
//!     makes the folder app on the claim     ──▶ /app                     HOME, the user's own
//! ```
//!
//! The image of the environment needs nothing: no shell, no user, no entry point. Nothing of the cluster is put into the
//! pod either: no token, no addresses of services. The variables of an environment come with each command, never from
//! the pod, where everybody who may read pods would see them.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Capabilities, Container, EmptyDirVolumeSource, LocalObjectReference, PersistentVolumeClaim,
    PersistentVolumeClaimSpec, PersistentVolumeClaimVolumeSource, Pod, PodSecurityContext, PodSpec,
    ResourceRequirements, SeccompProfile, SecurityContext, Toleration, Volume, VolumeMount,
    VolumeResourceRequirements,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use shared::config::{self, PodSecurity};
use shared::environment::EnvironmentSpec;
use shared::resources::{Cpu, Resources};

use super::names;
use super::settings::KubernetesSettings;

/// The user and group of commands that need no other.
const USER: i64 = 1000;

/// Where the volume is while the runner is brought.
const VOLUME: &str = "/.em/volume";
/// The folder on the volume that is the environment's. The volume's own root is its maker's: it belongs to root, and may
/// hold what a file system puts there.
const HOME_ON_VOLUME: &str = "app";
/// Where the environment finds it.
const HOME: &str = "/app";
/// Where the runner's program is, read-only.
const PROGRAM_FOLDER: &str = "/.em/bin";
/// Where the runner keeps what outlives a restart of the container.
const STATE_FOLDER: &str = "/.em/state";
/// Where the runner listens.
pub(super) const SOCKET: &str = "/.em/state/socket";
/// The runner.
pub(super) const PROGRAM: &str = "/.em/bin/em-runner";
/// The runner in its own image, found on the PATH there.
const PROGRAM_IN_IMAGE: &str = "em-runner";

/// Between TERM and KILL where the cluster itself ends a pod, in seconds.
const GRACE_SECONDS: i64 = 30;

/// Environments idle most of the time: one part in so many of their processor limit is set aside for them.
const CPU_SHARE_SET_ASIDE: u64 = 20;

/// What a pod is promised of its node's disk.
const DISK_SET_ASIDE: &str = "64Mi";

/// The least that a pod may use of its node's disk, in bytes: for what commands write beside the volume, and for the
/// output that the runner keeps of them.
const DISK_LEAST: u64 = 10 << 30;

/// A claim for the volume of an environment.
pub(super) fn claim(
    metadata: ObjectMeta,
    spec: &EnvironmentSpec,
    settings: &KubernetesSettings,
) -> PersistentVolumeClaim {
    let storage = Quantity(spec.resources.storage.0.to_string());
    PersistentVolumeClaim {
        metadata,
        spec: Some(PersistentVolumeClaimSpec {
            access_modes: Some(vec!["ReadWriteOnce".to_owned()]),
            resources: Some(VolumeResourceRequirements {
                requests: Some(BTreeMap::from([("storage".to_owned(), storage)])),
                ..VolumeResourceRequirements::default()
            }),
            storage_class_name: settings.storage_class.clone(),
            ..PersistentVolumeClaimSpec::default()
        }),
        ..PersistentVolumeClaim::default()
    }
}

/// A pod on the claim of this name.
pub(super) fn pod(
    mut metadata: ObjectMeta,
    spec: &EnvironmentSpec,
    settings: &KubernetesSettings,
    claim: &str,
) -> Pod {
    metadata.labels.get_or_insert_default().insert(
        names::EGRESS.to_owned(),
        names::egress(spec.egress).to_owned(),
    );
    Pod {
        metadata,
        spec: Some(pod_spec(spec, settings, claim)),
        ..Pod::default()
    }
}

fn pod_spec(spec: &EnvironmentSpec, settings: &KubernetesSettings, claim: &str) -> PodSpec {
    PodSpec {
        init_containers: Some(vec![installer(spec, settings)]),
        containers: vec![environment(spec, settings)],
        volumes: Some(vec![
            scratch("runner"),
            scratch("state"),
            Volume {
                name: "volume".to_owned(),
                persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
                    claim_name: claim.to_owned(),
                    ..PersistentVolumeClaimVolumeSource::default()
                }),
                ..Volume::default()
            },
        ]),
        hostname: Some(names::CONTAINER.to_owned()),
        restart_policy: Some("Always".to_owned()),
        termination_grace_period_seconds: Some(GRACE_SECONDS),
        automount_service_account_token: Some(false),
        enable_service_links: Some(false),
        security_context: Some(PodSecurityContext {
            fs_group: Some(USER),
            fs_group_change_policy: Some("OnRootMismatch".to_owned()),
            seccomp_profile: Some(SeccompProfile {
                type_: "RuntimeDefault".to_owned(),
                ..SeccompProfile::default()
            }),
            ..PodSecurityContext::default()
        }),
        service_account_name: settings.service_account.clone(),
        runtime_class_name: settings.runtime_class.clone(),
        priority_class_name: settings.priority_class.clone(),
        node_selector: (!settings.node_selector.0.is_empty())
            .then(|| settings.node_selector.0.clone()),
        tolerations: (!settings.tolerations.0.is_empty())
            .then(|| settings.tolerations.0.iter().map(toleration).collect()),
        image_pull_secrets: settings
            .image_pull_credentials
            .clone()
            .map(|name| vec![LocalObjectReference { name }]),
        ..PodSpec::default()
    }
}

/// Copies the runner to where the environment's container finds it.
fn installer(spec: &EnvironmentSpec, settings: &KubernetesSettings) -> Container {
    Container {
        name: "install".to_owned(),
        image: Some(settings.runner_image.clone()),
        image_pull_policy: Some("IfNotPresent".to_owned()),
        command: Some(words(&[
            PROGRAM_IN_IMAGE,
            "install",
            PROGRAM_FOLDER,
            &format!("{VOLUME}/{HOME_ON_VOLUME}"),
        ])),
        volume_mounts: Some(vec![
            mount("runner", PROGRAM_FOLDER, false),
            mount("volume", VOLUME, false),
        ]),
        resources: Some(resources(&spec.resources)),
        security_context: Some(match settings.security {
            PodSecurity::Restricted => confined(Some(USER)),
            // The user of the other image is not known, and he of this one may be anybody.
            PodSecurity::Baseline => confined(Some(0)),
        }),
        ..Container::default()
    }
}

fn environment(spec: &EnvironmentSpec, settings: &KubernetesSettings) -> Container {
    let records = format!("{STATE_FOLDER}/runner");
    let init = [
        PROGRAM, "init", "--state", &records, "--listen", SOCKET, "--volume", HOME,
    ];
    let user = match settings.security {
        PodSecurity::Restricted => Some(USER),
        PodSecurity::Baseline => None,
    };
    Container {
        name: names::CONTAINER.to_owned(),
        image: Some(spec.image.clone()),
        image_pull_policy: Some("IfNotPresent".to_owned()),
        command: Some(words(&init)),
        working_dir: Some("/".to_owned()),
        volume_mounts: Some(vec![
            mount("runner", PROGRAM_FOLDER, true),
            mount("state", STATE_FOLDER, false),
            VolumeMount {
                sub_path: Some(HOME_ON_VOLUME.to_owned()),
                ..mount("volume", HOME, false)
            },
        ]),
        resources: Some(resources(&spec.resources)),
        security_context: Some(confined(user)),
        // The last words of a runner that could not start are in the pod's status then.
        termination_message_policy: Some("FallbackToLogsOnError".to_owned()),
        ..Container::default()
    }
}

/// What an environment may use, and what is set aside for it. Memory is set aside whole: who was promised it is not
/// evicted for another's. The node's disk is limited, since an environment could fill it for all others.
fn resources(resources: &Resources) -> ResourceRequirements {
    let memory = Quantity(resources.memory.0.to_string());
    let set_aside = Cpu {
        millis: (resources.cpu.millis / CPU_SHARE_SET_ASIDE).max(1),
    };
    let disk = resources.storage.0.max(DISK_LEAST);
    let amounts = |cpu: Cpu, disk: String| {
        BTreeMap::from([
            ("cpu".to_owned(), Quantity(cpu.to_string())),
            ("memory".to_owned(), memory.clone()),
            ("ephemeral-storage".to_owned(), Quantity(disk)),
        ])
    };
    ResourceRequirements {
        limits: Some(amounts(resources.cpu, disk.to_string())),
        requests: Some(amounts(set_aside, DISK_SET_ASIDE.to_owned())),
        ..ResourceRequirements::default()
    }
}

/// Without any privilege, as this user; as the image's own, who may be root, where none is named.
fn confined(user: Option<i64>) -> SecurityContext {
    SecurityContext {
        allow_privilege_escalation: Some(false),
        capabilities: Some(Capabilities {
            drop: Some(words(&["ALL"])),
            ..Capabilities::default()
        }),
        run_as_non_root: user.map(|user| user != 0),
        run_as_user: user,
        run_as_group: user,
        ..SecurityContext::default()
    }
}

fn scratch(name: &str) -> Volume {
    Volume {
        name: name.to_owned(),
        empty_dir: Some(EmptyDirVolumeSource::default()),
        ..Volume::default()
    }
}

fn mount(name: &str, path: &str, read_only: bool) -> VolumeMount {
    VolumeMount {
        name: name.to_owned(),
        mount_path: path.to_owned(),
        read_only: read_only.then_some(true),
        ..VolumeMount::default()
    }
}

fn toleration(taint: &config::Toleration) -> Toleration {
    let operator = taint.value.as_ref().map_or("Exists", |_| "Equal");
    Toleration {
        key: Some(taint.key.clone()),
        operator: Some(operator.to_owned()),
        value: taint.value.clone(),
        effect: taint.effect.clone(),
        toleration_seconds: None,
    }
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use shared::ports::Placement;

    use super::*;
    use crate::runtime::kubernetes::given;

    fn pod_of(placement: &Placement, settings: &KubernetesSettings, claim: &str) -> Pod {
        let name = names::pod(&placement.uid, placement.generation);
        let metadata = names::metadata(name, placement, &given::instance());
        pod(metadata, &placement.spec, settings, claim)
    }

    fn claim_of(placement: &Placement, settings: &KubernetesSettings) -> PersistentVolumeClaim {
        let name = names::claim(&placement.uid);
        let metadata = names::metadata(name, placement, &given::instance());
        claim(metadata, &placement.spec, settings)
    }

    #[test]
    fn the_pod_of_a_life() {
        let pod = pod_of(&given::placement(), &given::settings(), "em-abcdefgh22");
        insta::assert_yaml_snapshot!(pod);
    }

    #[test]
    fn the_pod_of_every_setting() {
        let mut placement = given::placement();
        placement.spec.egress = shared::environment::Egress::None;
        let settings = KubernetesSettings {
            storage_class: Some("fast".to_owned()),
            runtime_class: Some("gvisor".to_owned()),
            service_account: Some("environments".to_owned()),
            node_selector: "disktype=ssd".parse().unwrap(),
            tolerations: "spot,gpu=a:NoSchedule".parse().unwrap(),
            image_pull_credentials: Some("registry".to_owned()),
            priority_class: Some("low".to_owned()),
            security: PodSecurity::Baseline,
            runner_image: "registry.example/environment-manager:1".to_owned(),
            ..given::settings()
        };
        insta::assert_yaml_snapshot!(pod_of(&placement, &settings, "em-of-another-name"));
        insta::assert_yaml_snapshot!(claim_of(&placement, &settings));
    }

    #[test]
    fn the_claim_of_a_life() {
        insta::assert_yaml_snapshot!(claim_of(&given::placement(), &given::settings()));
    }

    #[test]
    fn no_variable_of_the_environment_stands_in_the_pod() {
        let mut placement = given::placement();
        placement.spec.env = serde_json::from_value(serde_json::json!({"TOKEN": "hush"})).unwrap();
        let pod = pod_of(&placement, &given::settings(), "em-abcdefgh22");
        let text = serde_json::to_string(&pod).unwrap();
        assert!(!text.contains("hush") && !text.contains("TOKEN"), "{text}");
    }
}
