//! The network of an environment that may reach the internet, and nothing near.
//!
//! ```text
//!   environment ── tap0 ──▶ rules (nft) ──▶ helper (slirp4netns) ──▶ sockets of the machine ──▶ the internet
//!   └───────── network namespace ─────────┘  └──── nobody's capabilities, a file system of its own ────┘
//! ```
//!
//! Invariants:
//! - The namespace is the machine's, not that of the environment's user namespace: nobody inside, root included, has any
//!   right over it. The rules are there before anything runs inside.
//! - What is not allowed is refused: the machine's own addresses, private networks, metadata services. One address answers
//!   names, on the port for that alone.
//! - The helper ends when PID 1 does: PID 1 alone holds the other end of a pipe that the helper watches. No service is
//!   needed for that, and none has to take it over. One that ended before PID 1 is replaced.

mod addresses;
mod helper;
mod hold;
mod rules;

use std::fs;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::sched::{CloneFlags, setns, unshare};
use shared::config::NetworkSettings;

pub(super) use helper::Helper;
pub(super) use hold::Hold;
pub(super) use rules::NAME_SERVER;

use super::program::is_installed;
use super::stage::own_mounts;

/// Loads rules.
const FILTER: &str = "nft";

/// What traffic goes through.
const DEVICE: &str = "/dev/net/tun";

/// What is in the way of a network for environments, and what mends it.
pub(super) fn lacking() -> Option<(String, String)> {
    let missing: Vec<&str> = [(helper::PROGRAM, "slirp4netns"), (FILTER, "nftables")]
        .into_iter()
        .filter(|(program, _)| !is_installed(program))
        .map(|(_, package)| package)
        .collect();
    if !missing.is_empty() {
        return Some((
            format!("a network for environments needs {}", missing.join(" and ")),
            format!("apt-get install {}", missing.join(" ")),
        ));
    }
    let device = fs::OpenOptions::new().read(true).write(true).open(DEVICE);
    let error = device.err()?;
    Some((
        format!("a network for environments needs {DEVICE}: {error}"),
        format!("as root, modprobe tun; chmod 666 {DEVICE}"),
    ))
}

/// A network namespace with its rules, before there is anything in it.
pub(super) struct Network {
    namespace: OwnedFd,
}

impl Network {
    /// Makes one. The machine's addresses, as far as the rules know them, are written into `known`.
    pub(super) fn make(settings: &NetworkSettings, known: &Path) -> io::Result<Self> {
        let machine = addresses::of_this_machine()?;
        let text = rules::text(settings, &machine);
        let namespace = apart(move || {
            unshare(CloneFlags::CLONE_NEWNET)?;
            load(&text)?;
            own_namespace()
        })?;
        fs::write(known, addresses::written(&machine))?;
        Ok(Self { namespace })
    }

    /// The namespace.
    pub(super) fn namespace(&self) -> &OwnedFd {
        &self.namespace
    }

    /// Moves the calling thread into it: what it starts from now on is there.
    pub(super) fn enter(&self) -> io::Result<()> {
        Ok(setns(&self.namespace, CloneFlags::CLONE_NEWNET)?)
    }
}

/// Makes the rules of a running environment know the machine's addresses of now, if they changed.
pub(super) fn refresh(namespace: OwnedFd, known: &Path) -> io::Result<()> {
    let machine = addresses::of_this_machine()?;
    let written = addresses::written(&machine);
    if fs::read_to_string(known)? == written {
        return Ok(());
    }
    apart(move || {
        setns(namespace, CloneFlags::CLONE_NEWNET)?;
        load(&rules::machine_changed(&machine))
    })?;
    fs::write(known, written)
}

/// Starts another helper for the network of a PID 1, where nobody watches what PID 1 holds any more; whether one was
/// needed. `held` is what PID 1 holds of it.
pub(super) fn revive(
    namespace: OwnedFd,
    hold: Hold,
    held: &OwnedFd,
    log: &Path,
    adopt: impl FnOnce(u32) -> io::Result<()> + Send + 'static,
) -> io::Result<bool> {
    let Some(exit) = hold.unwatched(held)? else {
        return Ok(false);
    };
    let log = log.to_owned();
    apart(move || {
        own_mounts()?;
        Helper::watching(exit).start(&Network { namespace }, &log, adopt)
    })?;
    Ok(true)
}

/// Does something on a thread of its own, whose namespaces end with it.
fn apart<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    std::thread::Builder::new()
        .name("network".to_owned())
        .spawn(work)?
        .join()
        .unwrap_or_else(|_| Err(io::Error::other("the thread of a network panicked")))
}

fn own_namespace() -> io::Result<OwnedFd> {
    Ok(fs::File::open("/proc/thread-self/ns/net")?.into())
}

/// Loads rules into the calling thread's network namespace: all of them or none.
fn load(rules: &str) -> io::Result<()> {
    let mut command = Command::new(FILTER);
    command.env_clear().args(["-f", "-"]);
    if let Some(path) = std::env::var_os("PATH") {
        command.env("PATH", path);
    }
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()?;
    let written = child
        .stdin
        .take()
        .ok_or(io::ErrorKind::BrokenPipe)?
        .write_all(rules.as_bytes());
    let output = child.wait_with_output()?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(io::Error::other(format!(
            "{FILTER} refused the rules of a network: {}",
            said.trim()
        )));
    }
    written
}
