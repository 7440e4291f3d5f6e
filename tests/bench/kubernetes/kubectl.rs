//! The peer that people use by hand.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use crate::Failure;

/// Tries by which the quickest program is found.
const TRIES: usize = 5;

/// How far apart `kubectl` and server may be.
const MINORS_APART: u32 = 1;

/// `kubectl` in a namespace.
pub struct Kubectl {
    program: PathBuf,
    kubeconfig: PathBuf,
    namespace: String,
    /// How it names itself: streams go by another protocol in old ones.
    pub version: String,
    /// What it remembers of the cluster between calls.
    cache: TempDir,
}

impl Kubectl {
    /// The quickest that fits the server, which is of the minor version `server`: a peer is not to be slow because of who
    /// packed it.
    pub fn new(kubeconfig: &Path, namespace: &str, server: u32) -> Result<Self, Failure> {
        // The test cluster's own, which is all of Kubernetes in one program.
        let mut programs = vec![kubeconfig.with_file_name("kubectl")];
        for folder in std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()) {
            programs.extend(found_in(&folder));
        }
        let tried = programs.into_iter().filter_map(|program| {
            let (minor, version) = version_of(&program)?;
            let fits = minor.abs_diff(server) <= MINORS_APART;
            fits.then_some((start_of(&program)?, program, version))
        });
        let found = tried
            .min()
            .ok_or("there is no kubectl that fits the server")?;
        let (_, program, version) = found;
        Ok(Self {
            program,
            kubeconfig: kubeconfig.to_owned(),
            namespace: namespace.to_owned(),
            version,
            cache: tempfile::tempdir()?,
        })
    }

    /// How long a call takes that must succeed.
    pub fn run(&self, arguments: &[&str]) -> Result<Duration, Failure> {
        self.call(arguments, "")
    }

    /// The same with something on its standard input.
    pub fn call(&self, arguments: &[&str], input: &str) -> Result<Duration, Failure> {
        let began = Instant::now();
        let mut child = Command::new(&self.program)
            .arg("--kubeconfig")
            .arg(&self.kubeconfig)
            .args(["--namespace", &self.namespace])
            .arg("--cache-dir")
            .arg(self.cache.path())
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()?;
        child
            .stdin
            .take()
            .ok_or("no pipe")?
            .write_all(input.as_bytes())?;
        let output = child.wait_with_output()?;
        if output.status.success() {
            Ok(began.elapsed())
        } else {
            let said = String::from_utf8_lossy(&output.stderr);
            Err(format!("kubectl {arguments:?}: {said}").into())
        }
    }
}

/// `kubectl` in a folder, and those that Google's, which starts one of its neighbours, has beside it.
fn found_in(folder: &Path) -> Vec<PathBuf> {
    let Ok(program) = folder.join("kubectl").canonicalize() else {
        return Vec::new();
    };
    let beside = program.parent().map(std::fs::read_dir);
    let beside = beside.into_iter().flatten().flatten().flatten();
    let beside = beside.map(|entry| entry.path()).filter(|path| {
        let name = path.file_name().and_then(|name| name.to_str());
        name.is_some_and(|name| name.starts_with("kubectl."))
    });
    beside.chain([program.clone()]).collect()
}

/// A program's minor version, and all of it in words; none where it is no `kubectl`.
fn version_of(program: &Path) -> Option<(u32, String)> {
    let mut command = Command::new(program);
    command.args(["version", "--client", "--output=json"]);
    let told: Value = serde_json::from_slice(&command.output().ok()?.stdout).ok()?;
    let client = &told["clientVersion"];
    let version = client["gitVersion"].as_str()?.to_owned();
    Some((minor(client["minor"].as_str()?)?, version))
}

/// The number in a minor version, which some write with a `+`.
pub fn minor(told: &str) -> Option<u32> {
    told.trim_end_matches('+').parse().ok()
}

/// How long a program takes to do nothing, at best; none where it is no program.
fn start_of(program: &Path) -> Option<Duration> {
    let start = || {
        let began = Instant::now();
        let mut command = Command::new(program);
        command.args(["version", "--client"]).stdin(Stdio::null());
        let output = command.output().ok()?;
        output.status.success().then(|| began.elapsed())
    };
    (0..TRIES)
        .map(|_| start())
        .collect::<Option<Vec<_>>>()?
        .into_iter()
        .min()
}
