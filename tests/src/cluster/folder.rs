//! The commands of `tests/cluster`, and the folder of a cluster that one test has for itself.

use std::ffi::OsStr;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::{NamedTempFile, TempDir};
use worker::runtime::oci::RunnerProgram;

/// The parts of a cluster that can be troubled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The API server.
    ApiServer,
    /// Its store.
    Etcd,
    /// What runs the containers.
    Containerd,
    /// The node's agent.
    Kubelet,
    /// What gives pods to nodes.
    Scheduler,
    /// What keeps everything as it is to be.
    Controllers,
}

impl Part {
    fn name(self) -> &'static str {
        match self {
            Self::ApiServer => "apiserver",
            Self::Etcd => "etcd",
            Self::Containerd => "containerd",
            Self::Kubelet => "kubelet",
            Self::Scheduler => "scheduler",
            Self::Controllers => "controllers",
        }
    }
}

/// One part of one cluster.
pub struct Trouble {
    folder: PathBuf,
    part: Part,
}

impl Trouble {
    /// Kills it (SIGKILL), and waits until it is gone.
    pub async fn kill(&self) {
        self.control("kill").await;
    }

    /// Starts it again, and waits until it serves.
    pub async fn start(&self) {
        self.control("start").await;
    }

    /// Stops it where it is (SIGSTOP).
    pub async fn pause(&self) {
        self.control("pause").await;
    }

    /// Lets it go on.
    pub async fn resume(&self) {
        self.control("resume").await;
    }

    async fn control(&self, verb: &str) {
        let part = self.part.name();
        let arguments: [&OsStr; 3] = [self.folder.as_os_str(), verb.as_ref(), part.as_ref()];
        run("ctl", &arguments, None).await;
    }
}

/// Brings a cluster up, in a folder or where this checkout has its own, and answers its kubeconfig. One that runs is
/// kept. The runner in its images is the one that the worker under test has in it.
pub(super) async fn up(folder: Option<&Path>) -> PathBuf {
    let mut runner = NamedTempFile::new().expect("a file");
    let program = RunnerProgram::embedded();
    runner.write_all(program.bytes()).expect("written");
    let executable = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(runner.path(), executable).expect("its own file");
    let arguments: Vec<&OsStr> = folder.map(Path::as_os_str).into_iter().collect();
    run("up", &arguments, Some(runner.path())).await.into()
}

/// Runs a command of `tests/cluster` to its end, and answers what it printed.
async fn run(name: &str, arguments: &[&OsStr], runner: Option<&Path>) -> String {
    let mut command = tokio::process::Command::new(scripts().join(name));
    command.args(arguments).stdin(Stdio::null());
    if let Some(runner) = runner {
        command.env("EM_RUNNER_BIN", runner);
    }
    let output = command.output().await.expect("bash is there");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "tests/cluster/{name}: {errors}");
    let printed = String::from_utf8(output.stdout).expect("text");
    printed.trim().to_owned()
}

fn scripts() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("cluster")
}

/// The folder of a cluster; the cluster goes with it.
pub(super) struct Folder {
    folder: TempDir,
}

impl Folder {
    pub(super) fn new() -> Self {
        let folder = TempDir::with_prefix("em-cluster-").expect("a folder");
        Self { folder }
    }

    pub(super) fn path(&self) -> &Path {
        self.folder.path()
    }

    pub(super) fn part(&self, part: Part) -> Trouble {
        Trouble {
            folder: self.path().to_owned(),
            part,
        }
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let down = Command::new(scripts().join("down"))
            .arg(self.path())
            .stdin(Stdio::null())
            .status();
        if !matches!(&down, Ok(status) if status.success()) {
            eprintln!("the cluster in {} stays: {down:?}", self.path().display());
        }
    }
}
