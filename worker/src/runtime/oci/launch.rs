//! Starts one container so that it lives on by itself.
//!
//! ```text
//! worker ── thread in a mount namespace of its own: image bound to STAGE
//!             ├─ helper of the network, if it has one; then the thread is in that network
//!             └─ runc run --detach ── init ──▶ PID 1 (session, namespaces, cgroup of its own)
//!                  │ exits when PID 1 runs
//! ```
//!
//! The private mount namespace is there because the image's tree must be reached by root of the container's user
//! namespace, who is nobody on the machine: he may not pass a data folder that is closed to others, and it should be.
//! Nothing that is mounted there is visible to, or left behind on, the machine.
//!
//! PID 1 inherits a log file, its socket and its cgroups, no pipe of the worker's and nothing that tells it of the
//! worker's death. The OCI runtime holds the life's lock until it is done, whatever becomes of the worker.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::Duration;

use command_fds::{CommandFdExt, FdMapping};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use shared::ports::RuntimeError;

use super::cgroup::Cgroups;
use super::fault::{failed, unavailable};
use super::network::{Helper, Network};
use super::process;
use super::program::{FIRST_FD, Program};
use super::stage::own_mounts;
use super::tree::Tree;

/// How long the OCI runtime may take. It takes 30 ms; much more means that a disk or the machine stands still.
const PATIENCE: Duration = Duration::from_secs(60);
/// How much of what the OCI runtime said is repeated in an error, in bytes.
const LONGEST_WORDS: u64 = 1024;

/// All that one start needs.
pub(super) struct Launch {
    /// The container's name.
    pub(super) container: String,
    /// The folder of `config.json`.
    pub(super) bundle: PathBuf,
    /// Where the pid of PID 1 stands once it runs.
    pub(super) pid_file: PathBuf,
    /// Where PID 1 and the OCI runtime write what they have to say.
    pub(super) log: PathBuf,
    /// The image's tree.
    pub(super) root: Tree,
    /// What PID 1 inherits: see [`Program::inherited`].
    pub(super) inherited: Vec<OwnedFd>,
    /// The network that it is started in; none where it makes one of its own.
    pub(super) network: Option<Connection>,
    /// Whether there is one.
    pub(super) is_connected: bool,
    /// The life's lock.
    pub(super) lock: OwnedFd,
}

/// A network, and what carries its traffic.
pub(super) struct Connection {
    /// The network.
    pub(super) network: Network,
    /// What carries it, not started yet.
    pub(super) helper: Helper,
    /// Where the helper writes what it has to say.
    pub(super) log: PathBuf,
    /// The cgroup of the helper.
    pub(super) cgroup: String,
    /// Where that is made.
    pub(super) cgroups: Cgroups,
}

impl Connection {
    /// Starts the helper, and moves the calling thread into the network.
    fn open(self) -> io::Result<()> {
        let (cgroups, cgroup) = (self.cgroups, self.cgroup);
        self.helper
            .start(&self.network, &self.log, |pid| cgroups.join(&cgroup, pid))?;
        self.network.enter()
    }
}

/// Starts the container; returns when PID 1 runs.
pub(super) fn launch(program: &Program, launch: Launch) -> Result<(), RuntimeError> {
    let log = launch.log.clone();
    let program = program.clone();
    let ended = std::thread::Builder::new()
        .name("launch".to_owned())
        .spawn(move || run(&program, launch))
        .map_err(unavailable("a thread cannot be made"))?
        .join()
        .unwrap_or_else(|_| Err(io::Error::other("the launching thread panicked")));
    match ended {
        Ok(true) => Ok(()),
        Ok(false) => {
            let said = last_words(&log).unwrap_or_default();
            tracing::warn!(%said, "the OCI runtime did not start a container");
            Err(failed("container_not_started", said))
        }
        Err(error) => Err(RuntimeError::Unavailable(format!(
            "a container cannot be started: {error}"
        ))),
    }
}

/// The part that runs in a thread of its own: what it does to its mounts ends with it.
fn run(program: &Program, mut launch: Launch) -> io::Result<bool> {
    own_mounts()?;
    // Before the image is mounted: the helper must not keep it.
    if let Some(connection) = launch.network.take() {
        connection.open()?;
    }
    program.prepare_mounts()?;
    launch.root.mount()?;
    let pid_file = launch.pid_file.clone();
    // gVisor writes it long before PID 1 runs, and whoever killed that by it would fail the start. One that has no such file
    // is made anew by who comes next.
    let early = program
        .has_its_own_kernel()
        .then(|| pid_file.with_extension("starting"));
    let mut child = spawn(program, launch, early.as_deref().unwrap_or(&pid_file))?;
    if !waited(&child)? {
        child.kill()?;
        child.wait()?;
        return Err(io::Error::other(format!(
            "{} did not answer within {PATIENCE:?}",
            program.binary().display()
        )));
    }
    let has_started = child.wait()?.success();
    if let Some(early) = early.filter(|_| has_started) {
        fs::rename(early, pid_file)?;
    }
    Ok(has_started)
}

fn spawn(program: &Program, launch: Launch, pid_file: &Path) -> io::Result<Child> {
    let log = File::create(&launch.log)?;
    let mut command = program.start(launch.inherited.len(), launch.is_connected)?;
    let mappings = (FIRST_FD..)
        .zip(program.inherited(launch.inherited, launch.lock))
        .map(|(child_fd, parent_fd)| FdMapping {
            parent_fd,
            child_fd,
        })
        .collect();
    command
        .arg("--bundle")
        .arg(&launch.bundle)
        .arg("--pid-file")
        .arg(pid_file)
        .arg(&launch.container)
        .stdout(log.try_clone()?)
        .stderr(log)
        .process_group(0)
        .fd_mappings(mappings)
        .map_err(io::Error::other)?;
    command.spawn()
}

fn waited(child: &Child) -> io::Result<bool> {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let pid = pid.ok_or_else(|| io::Error::other("the OCI runtime has no pid"))?;
    process::ended(&pidfd_open(pid, PidfdFlags::empty())?, Some(PATIENCE))
}

/// The end of what was written into the log.
pub(super) fn last_words(log: &Path) -> io::Result<String> {
    let mut file = File::open(log)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(LONGEST_WORDS)))?;
    let mut bytes = Vec::new();
    file.take(LONGEST_WORDS).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).trim().to_owned())
}
