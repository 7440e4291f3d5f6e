//! A data folder for a test, and the look from outside on what it holds.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use shared::clock::{Clock, SystemClock};
use shared::config::{ImageSettings, NetworkSettings};
use shared::ids::{EnvironmentUid, InstanceId};
use shared::ports::Runtime;
use tempfile::TempDir;
use tests::conformance::runtime::{Bed, Does, Given};
use worker::runtime::oci::{OciRuntime, OciSettings, Standing};

/// Whether these tests run as an ordinary user, root of a namespace of his own: then there are no cgroups and few ids.
pub(crate) fn is_rootless() -> bool {
    Standing::of_this_process().expect("/proc").is_namespace()
}

/// The OCI runtime that these tests are run with: `TEST_OCI_RUNTIME`, or `runc`.
pub(crate) fn oci_runtime() -> &'static str {
    static BINARY: OnceLock<String> = OnceLock::new();
    BINARY.get_or_init(|| std::env::var("TEST_OCI_RUNTIME").unwrap_or("runc".to_owned()))
}

/// A data folder of its own. What is left in it at the end, also at a failure, is deleted.
pub(crate) struct Bench {
    kept: TempDir,
    below: PathBuf,
    binary: &'static str,
    pub(crate) instance: InstanceId,
    foreign: InstanceId,
    pub(crate) images: ImageSettings,
    pub(crate) network: NetworkSettings,
    pub(crate) clock: Arc<dyn Clock>,
}

impl Bench {
    pub(crate) fn new() -> Self {
        Self::below("data")
    }

    /// With images from this folder.
    pub(crate) fn with_images(folder: &Path) -> Self {
        let images = ImageSettings {
            folders: vec![folder.to_owned()],
            ..ImageSettings::default()
        };
        let mut bench = Self::new();
        bench.images = images;
        bench
    }

    /// With the data folder at this place below a temporary folder.
    pub(crate) fn below(path: impl Into<PathBuf>) -> Self {
        Self {
            kept: tempfile::tempdir().expect("a folder"),
            below: path.into(),
            binary: oci_runtime(),
            instance: InstanceId::from_random(rand::random()),
            foreign: InstanceId::from_random(rand::random()),
            images: ImageSettings::default(),
            network: NetworkSettings::default(),
            clock: Arc::new(SystemClock),
        }
    }

    /// Whether its environments have a kernel of their own.
    pub(crate) fn has_own_kernel(&self) -> bool {
        Path::new(self.binary).ends_with("runsc")
    }

    /// The folder in the home of an environment in which PID 1 listens.
    pub(crate) fn socket_folder(&self, home: &Path) -> PathBuf {
        if self.has_own_kernel() {
            home.join("runner")
        } else {
            home.to_owned()
        }
    }

    /// The data folder.
    pub(crate) fn data(&self) -> PathBuf {
        self.kept.path().join(&self.below)
    }

    /// The folder of environments.
    pub(crate) fn folder(&self) -> PathBuf {
        self.data().join("environments")
    }

    /// The folder of one life.
    pub(crate) fn home(&self, uid: &EnvironmentUid) -> PathBuf {
        self.folder().join(uid.as_str())
    }

    /// The adapter, opened anew.
    pub(crate) fn open(&self) -> OciRuntime {
        self.open_as(&self.instance)
    }

    fn open_as(&self, instance: &InstanceId) -> OciRuntime {
        self.open_on(self.binary, instance)
    }

    /// The adapter with another OCI runtime.
    pub(crate) fn open_on(&self, binary: &str, instance: &InstanceId) -> OciRuntime {
        let settings = OciSettings {
            binary: binary.into(),
            images: self.images.clone(),
            network: self.network.clone(),
            ..OciSettings::new(self.folder())
        };
        OciRuntime::open(&settings, instance.clone(), Arc::clone(&self.clock)).expect("opens")
    }

    pub(crate) fn bed(&self) -> Bed {
        let own_kernel = self.has_own_kernel();
        Bed {
            runtime: Arc::new(self.open()),
            foreign: Arc::new(self.open_as(&self.foreign)),
            image: "host".to_owned(),
            does: Does {
                keep_records: true,
                count_ooms_by_job: !own_kernel,
                filter_calls: !own_kernel,
                // Without a limit on memory there is nothing to outlive.
                outlive_ooms: !own_kernel || is_rootless(),
            },
        }
    }

    pub(crate) fn given(&self) -> Given {
        Given::new(self.bed())
    }

    /// The host's pid of an environment's PID 1.
    pub(crate) fn pid(&self, uid: &EnvironmentUid) -> i32 {
        let text = fs::read_to_string(self.home(uid).join("bundle/pid")).expect("a pid file");
        text.trim().parse().expect("a pid")
    }

    /// The environment's folders in all cgroup hierarchies.
    pub(crate) fn cgroups(&self, uid: &EnvironmentUid) -> Vec<PathBuf> {
        let name = format!("environment-manager-{}-{uid}", self.instance);
        cgroup_folders(&|found| found == name)
    }

    /// Asserts that no folder, mount, cgroup or process of either instance is there.
    pub(crate) fn assert_nothing_left(&self) {
        let names = |folder: &Path| -> Vec<String> {
            let entries = fs::read_dir(folder).expect("a folder");
            let names = entries.map(|entry| entry.expect("an entry").file_name());
            names
                .map(|name| name.to_string_lossy().into_owned())
                .collect()
        };
        let mut there = names(&self.folder());
        there.sort();
        assert_eq!(there, [".locks", ".ranges", ".runc"]);
        for empty in [".ranges", ".runc"] {
            assert_eq!(names(&self.folder().join(empty)), [""; 0], "{empty}");
        }
        let mut locks = names(&self.folder().join(".locks"));
        locks.retain(|name| name != "images" && name != "ranges");
        assert_eq!(locks, [""; 0]);
        let mounts = fs::read_to_string("/proc/self/mountinfo").expect("the mounts");
        assert!(
            !mounts.contains(&*self.kept.path().to_string_lossy()),
            "{mounts}"
        );
        for instance in [&self.instance, &self.foreign] {
            let cgroups = cgroup_folders(&|name| name.contains(instance.as_str()));
            assert!(cgroups.is_empty(), "{cgroups:?}");
        }
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        let runtimes = [self.open(), self.open_as(&self.foreign)];
        let cleaned = std::thread::spawn(move || {
            let executor = tokio::runtime::Runtime::new().expect("an executor");
            executor.block_on(async {
                for runtime in runtimes {
                    runtime.keep_warm(&[]).await.expect("nothing is held ready");
                    for holding in runtime.list().await.expect("a list") {
                        runtime.delete(&holding.uid).await.expect("deleted");
                    }
                }
            });
        });
        let cleaned = cleaned.join();
        assert!(
            cleaned.is_ok() || std::thread::panicking(),
            "the environments could not be removed"
        );
    }
}

/// The folders right below each hierarchy whose name is as asked for.
fn cgroup_folders(named: &dyn Fn(&str) -> bool) -> Vec<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("the mounts");
    let mounts = mounts.lines().filter(|line| line.contains(" - cgroup"));
    mounts
        .filter_map(|line| line.split(' ').nth(4))
        .flat_map(|mount| fs::read_dir(mount).expect("a hierarchy"))
        .map(|entry| entry.expect("an entry"))
        .filter(|entry| named(&entry.file_name().to_string_lossy()))
        .map(|entry| entry.path())
        .collect()
}
