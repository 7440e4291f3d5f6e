//! What the OCI runtime is told: `config.json` of one environment.
//!
//! The isolation of an environment stands in this file and in [`super::seccomp`]; `docs/security.md` explains it. PID 1
//! is root of its own user namespace with three capabilities and no way to more: SETUID and SETGID to become the user
//! of a command, KILL to end it. None can be inherited, so a command has none.

use std::path::{Path, PathBuf};

use rustix::process::{Resource, getrlimit};
use serde_json::{Value, json};
use shared::resources::Resources;

use super::ground::{Ground, HOST_NAME};
use super::image::Person;
use super::limits::{Limits, PERIOD};
use super::ranges;
use super::record::Record;
use super::{seccomp, socket};

/// The uid and gid of commands, inside, where the image does not say it.
pub(super) const USER: u32 = 1000;
/// All that PID 1 may do beyond its uid.
const CAPABILITIES: [&str; 3] = ["CAP_SETUID", "CAP_SETGID", "CAP_KILL"];
/// Where the volume is.
pub(super) const VOLUME: &str = "/app";
/// Where the runner is.
const RUNNER: &str = "/.em/runner";
/// Where the runner keeps its records.
const STATE: &str = "/.em/state";
/// The descriptor of the listening socket in PID 1.
pub(super) const LISTEN_FD: i32 = 3;
/// Open files a process may have, where the machine allows as many.
const OPEN_FILES: u64 = 1 << 20;

/// Files of `/proc` that tell of the machine, or reach into it.
const MASKED: [&str; 12] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/bootconfig",
    "/proc/cmdline",
    "/proc/kallsyms",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
];
/// Files of `/proc` that set something.
const READ_ONLY: [&str; 5] = [
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];

/// What one container is made of.
pub(super) struct Container<'a> {
    /// Whose it is, and its uids.
    pub(super) record: &'a Record,
    /// What its commands may use.
    pub(super) resources: &'a Resources,
    /// What all of it may use.
    pub(super) limits: Limits,
    /// The image.
    pub(super) ground: &'a Ground,
    /// Where the image's tree is while the container is made: somewhere that everybody may reach.
    pub(super) root: &'a Path,
    /// The runner's program.
    pub(super) runner: &'a Path,
    /// The volume.
    pub(super) volume: &'a Path,
    /// The runner's records.
    pub(super) state: &'a Path,
    /// Whether it gets a network of its own with nothing in it, and not the one that it is started in.
    pub(super) is_isolated: bool,
    /// Whether the OCI runtime gives it a kernel of its own: then PID 1 makes its socket itself, and processes are not the
    /// machine's, so nobody counts them.
    pub(super) own_kernel: bool,
    /// The name of its cgroup in every hierarchy; none where this process may make no cgroups.
    pub(super) cgroup: Option<&'a str>,
    /// The flags that tell PID 1 which of its descriptors are its cgroups.
    pub(super) cgroup_flags: Vec<(&'static str, i32)>,
}

impl Container<'_> {
    /// The whole of `config.json`.
    pub(super) fn config(&self) -> Value {
        json!({
            "ociVersion": "1.0.2",
            "process": self.process(),
            "root": {"path": self.root, "readonly": self.ground.is_bare},
            "hostname": HOST_NAME,
            "mounts": self.mounts(),
            "annotations": self.annotations(),
            "linux": self.linux(),
        })
    }

    /// For who looks at the machine's containers. One that is held ready is nobody's yet.
    fn annotations(&self) -> Value {
        let mut annotations = json!({
            "environment-manager.instance": self.record.instance,
            "environment-manager.uid": self.record.uid,
            "environment-manager.first-host-id": self.record.first_host_id.to_string(),
        });
        if let Some(owner) = &self.record.owner {
            annotations["environment-manager.tenant"] = json!(owner.tenant);
            annotations["environment-manager.environment"] = json!(owner.environment);
        }
        annotations
    }

    fn process(&self) -> Value {
        let mut args: Vec<String> = [RUNNER, "init", "--state", STATE, "--volume", VOLUME]
            .map(str::to_owned)
            .into();
        if self.own_kernel {
            args.extend(["--listen".to_owned(), format!("{STATE}/{}", socket::NAME)]);
        } else {
            args.extend(["--listen-fd".to_owned(), LISTEN_FD.to_string()]);
        }
        for (flag, number) in &self.cgroup_flags {
            args.extend([(*flag).to_owned(), number.to_string()]);
        }
        let Person { uid, gid } = self.ground.user;
        let variables = self.ground.env.iter();
        args.extend(variables.flat_map(|variable| ["--env".to_owned(), variable.clone()]));
        args.extend(["--uid", &uid.to_string(), "--gid", &gid.to_string()].map(str::to_owned));
        // gVisor counts a command by who has started it, which is PID 1: it would bound PID 1.
        if self.cgroup.is_none() && !self.own_kernel {
            // Not as an rlimit of the OCI runtime's: one that sets it before it makes the user namespace would have the
            // kernel count the processes of all environments together.
            args.extend(["--processes".to_owned(), self.resources.pids.to_string()]);
        }
        json!({
            "user": {"uid": 0, "gid": 0},
            "args": args,
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
            "cwd": "/",
            "noNewPrivileges": true,
            "capabilities": {
                "bounding": CAPABILITIES,
                "effective": CAPABILITIES,
                "permitted": CAPABILITIES,
            },
            "rlimits": self.rlimits(),
        })
    }

    fn rlimits(&self) -> Value {
        let allowed = getrlimit(Resource::Nofile).maximum.unwrap_or(OPEN_FILES);
        let limits = [
            ("RLIMIT_NOFILE", OPEN_FILES.min(allowed)),
            // The machine's handler of core dumps is outside.
            ("RLIMIT_CORE", 0),
        ];
        limits
            .into_iter()
            .map(|(kind, most)| json!({"type": kind, "soft": most, "hard": most}))
            .collect()
    }

    fn mounts(&self) -> Vec<Value> {
        // As the kernel does by default with the machine's own memory.
        let half = format!("size={}", self.resources.memory.0 / 2);
        let mut mounts = vec![
            special("/proc", "proc", "nosuid,nodev,noexec"),
            special("/dev", "tmpfs", "nosuid,noexec,mode=755,size=65536"),
            special(
                "/dev/pts",
                "devpts",
                "nosuid,noexec,newinstance,ptmxmode=0666,mode=0620,gid=5",
            ),
            special("/dev/mqueue", "mqueue", "nosuid,nodev,noexec"),
            special(
                "/dev/shm",
                "tmpfs",
                &format!("nosuid,nodev,mode=1777,{half}"),
            ),
            special("/run", "tmpfs", "nosuid,nodev,mode=755,size=16777216"),
        ];
        if self.ground.is_bare {
            mounts.extend(self.places_in_memory(&half));
        }
        mounts.extend(
            self.ground
                .binds
                .iter()
                .map(|(from, at)| bind(from, at, "ro,nosuid,nodev")),
        );
        mounts.extend([
            bind(self.volume, Path::new(VOLUME), "rw,nosuid,nodev"),
            bind(self.state, Path::new(STATE), "rw,nosuid,nodev,noexec"),
            bind(self.runner, Path::new(RUNNER), "ro,nosuid,nodev"),
        ]);
        mounts
    }

    /// Where programs expect to be able to write, on a root that cannot be written to.
    fn places_in_memory(&self, half: &str) -> [Value; 4] {
        let Person { uid, gid } = self.ground.user;
        let everybody = format!("nosuid,nodev,mode=1777,{half}");
        [
            special("/tmp", "tmpfs", &everybody),
            special("/var/tmp", "tmpfs", &everybody),
            special("/root", "tmpfs", &format!("nosuid,nodev,mode=700,{half}")),
            special(
                "/home",
                "tmpfs",
                &format!("nosuid,nodev,mode=755,uid={uid},gid={gid},{half}"),
            ),
        ]
    }

    fn linux(&self) -> Value {
        let ids = json!([{
            "containerID": 0,
            "hostID": self.record.first_host_id,
            "size": ranges::SIZE,
        }]);
        let mut namespaces = vec!["user", "pid", "ipc", "uts", "mount", "cgroup"];
        namespaces.extend(self.is_isolated.then_some("network"));
        let namespaces: Vec<Value> = namespaces
            .iter()
            .map(|kind| json!({"type": kind}))
            .collect();
        let mut linux = json!({
            "uidMappings": ids,
            "gidMappings": ids,
            "namespaces": namespaces,
            "rootfsPropagation": "private",
            "maskedPaths": MASKED,
            "readonlyPaths": READ_ONLY,
            "seccomp": seccomp::profile(),
        });
        if let Some(cgroup) = self.cgroup {
            linux["cgroupsPath"] = json!(PathBuf::from("/").join(cgroup));
            linux["resources"] = self.limits();
        }
        linux
    }

    fn limits(&self) -> Value {
        let Limits {
            memory,
            pids,
            quota,
        } = self.limits;
        let mut limits = json!({
            "devices": [{"allow": false, "access": "rwm"}],
            // Memory and swap together: so there is no swap.
            "memory": {"limit": memory, "swap": memory},
            "cpu": {"quota": quota, "period": PERIOD},
        });
        if !self.own_kernel {
            limits["pids"] = json!({"limit": pids});
        }
        limits
    }
}

fn special(at: &str, kind: &str, options: &str) -> Value {
    let options: Vec<&str> = options.split(',').collect();
    json!({"destination": at, "type": kind, "source": kind, "options": options})
}

fn bind(from: &Path, at: &Path, options: &str) -> Value {
    let options: Vec<&str> = std::iter::once("bind").chain(options.split(',')).collect();
    json!({"destination": at, "type": "bind", "source": from, "options": options})
}
