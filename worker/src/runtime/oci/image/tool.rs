//! Programs that fetch and unpack for this service: watched while they run, and ended with it.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use command_fds::{CommandFdExt, FdMapping};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::super::process;
use super::super::standing::Standing;
use super::super::userns::{self, IdMap};
use super::pull::PullError;
use super::source::SOURCE_FD;

/// How often a running program's work is looked at, unless that takes long.
const LOOK: Duration = Duration::from_millis(250);
/// Waits for a word, so that a program is not started for a service that is gone already, and bounds the size of files.
const GATE: &str = r#"ulimit -f "$1"; shift; read -r go || exit 1; exec "$@""#;
/// Bounds the size of files.
const BOUND: &str = r#"ulimit -f "$1"; shift; exec "$@""#;
/// What programs get to know of this process's variables: the way to registries.
const VARIABLES: [&str; 9] = [
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "PATH",
    "SSL_CERT_DIR",
    "SSL_CERT_FILE",
];

/// Tells what fetches that it is root only of a namespace: root's own folders, where it would look for signatures, may be
/// closed to it. It reads only whether the number is that of root.
const NOT_ROOT: (&str, &str) = ("_CONTAINERS_ROOTLESS_UID", "1");

/// Where a program runs.
pub(super) struct Place<'a> {
    /// Its folder; its HOME too.
    pub(super) folder: &'a Path,
    /// Where it writes what it has to say.
    pub(super) log: &'a Path,
    /// What it inherits, from descriptor 3 on.
    pub(super) inherited: Vec<OwnedFd>,
    /// The largest file that it may write, in bytes.
    pub(super) largest: u64,
}

impl Place<'_> {
    /// Runs a program as this process's user; `look` may end it.
    pub(super) fn run(
        self,
        program: &[&str],
        look: impl FnMut() -> Result<(), PullError>,
    ) -> Result<(), PullError> {
        let largest = self.blocks();
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig=KILL", "--", "sh", "-c", GATE, "sh", &largest])
            .args(program)
            .env_clear()
            .stdin(Stdio::piped())
            .stdout(Stdio::null());
        self.configure(&mut command).map_err(PullError::Here)?;
        let standing = Standing::of_this_process().map_err(PullError::Here)?;
        command.envs(standing.is_namespace().then_some(NOT_ROOT));
        let mut child = command.spawn().map_err(PullError::Here)?;
        let told = child
            .stdin
            .take()
            .map(|mut stdin| io::Write::write_all(&mut stdin, b"go\n"));
        // Where it does not listen it has ended, and that is seen below.
        drop(told);
        watch(child, look)
    }

    /// Runs a program as root of a user namespace, who is nobody on the machine and has no network.
    pub(super) fn run_as_nobody(
        self,
        map: IdMap,
        program: &[&str],
        look: impl FnMut() -> Result<(), PullError>,
    ) -> Result<(), PullError> {
        let largest = self.blocks();
        let bounded = [&["sh", "-c", BOUND, "sh", &largest], program].concat();
        let child = userns::spawn(map, &bounded, |command| self.configure(command));
        watch(child.map_err(PullError::Here)?, look)
    }

    /// The limit as shells count it.
    fn blocks(&self) -> String {
        self.largest.div_ceil(512).to_string()
    }

    fn configure(self, command: &mut Command) -> io::Result<()> {
        let known = |name: &&str| std::env::var_os(name).map(|value| ((*name).to_owned(), value));
        let mappings = (SOURCE_FD..)
            .zip(self.inherited)
            .map(|(child_fd, parent_fd)| FdMapping {
                parent_fd,
                child_fd,
            })
            .collect();
        command
            .current_dir(self.folder)
            .envs(VARIABLES.iter().filter_map(known))
            .env("HOME", self.folder)
            .stderr(File::create(self.log)?)
            .fd_mappings(mappings)
            .map_err(io::Error::other)?;
        Ok(())
    }
}

fn watch(
    mut child: Child,
    mut look: impl FnMut() -> Result<(), PullError>,
) -> Result<(), PullError> {
    let watched = (|| {
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        let pid = pid.ok_or_else(|| PullError::Here(io::Error::other("a program has no pid")))?;
        let descriptor = pidfd_open(pid, PidfdFlags::empty()).map_err(io::Error::from);
        let descriptor = descriptor.map_err(PullError::Here)?;
        let mut pause = LOOK;
        while !process::ended(&descriptor, Some(pause)).map_err(PullError::Here)? {
            let began = Instant::now();
            look()?;
            // A look at a large tree takes a while: it shall not take more than a tenth of the time.
            pause = LOOK.max(began.elapsed() * 10);
        }
        look()
    })();
    if watched.is_err() {
        child.kill().map_err(PullError::Here)?;
    }
    let status = child.wait().map_err(PullError::Here)?;
    watched?;
    if status.success() {
        Ok(())
    } else {
        Err(PullError::Failed)
    }
}
