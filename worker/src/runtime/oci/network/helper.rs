//! The program that carries an environment's traffic: it belongs to the environment, not to the service.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use command_fds::{CommandFdExt, FdMapping};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::super::launch::last_words;
use super::Network;

pub(super) const PROGRAM: &str = "slirp4netns";
/// Waits for a word, by which time it is in its cgroup, and leaves the program to the machine's first process.
const GATE: &str = r#"read -r go || exit 1; exec setsid --fork "$@""#;
/// Largest packet: few large ones cost less than many small ones.
const MTU: &str = "--mtu=65520";
/// How long the helper may take to set up the network, in seconds. It takes 20 ms.
const PATIENCE: Timespec = Timespec {
    tv_sec: 30,
    tv_nsec: 0,
};
/// Its descriptors: the namespace, the word that all is set up, the pipe that ends with PID 1.
const NAMESPACE_FD: i32 = 3;
const READY_FD: i32 = 4;
const EXIT_FD: i32 = 5;

/// A helper that is to be started, and the pipe that ends it.
pub(in super::super) struct Helper {
    exit: OwnedFd,
}

impl Helper {
    /// A helper, and what PID 1 must hold for as long as it lives.
    pub(in super::super) fn new() -> io::Result<(Self, OwnedFd)> {
        let (exit, held) = io::pipe()?;
        Ok((Self { exit: exit.into() }, held.into()))
    }

    /// One that ends when the other end of this pipe does.
    pub(super) fn watching(exit: OwnedFd) -> Self {
        Self { exit }
    }

    /// Starts it in the calling thread's network and mounts, for `network`; `adopt` puts its process where it is found
    /// again. Returns when the network is set up.
    ///
    /// The mounts must be the thread's own: the program unmounts all that it sees.
    pub(in super::super) fn start(
        self,
        network: &Network,
        log: &Path,
        adopt: impl FnOnce(u32) -> io::Result<()>,
    ) -> io::Result<()> {
        let (mut ready, told) = io::pipe()?;
        let mut command = self.command(network, told.into(), log)?;
        let mut child = command.spawn()?;
        drop(command);
        let admitted = adopt(child.id()).and_then(|()| {
            let stdin = child.stdin.take();
            stdin.ok_or(io::ErrorKind::BrokenPipe)?.write_all(b"go\n")
        });
        if admitted.is_err() {
            child.kill()?;
        }
        child.wait()?;
        admitted?;
        let set_up = poll(&mut [PollFd::new(&ready, PollFlags::IN)], Some(&PATIENCE))? > 0
            && ready.read(&mut [0])? == 1;
        if set_up {
            Ok(())
        } else {
            let said = last_words(log).unwrap_or_default();
            Err(io::Error::other(format!("{PROGRAM} did not start: {said}")))
        }
    }

    fn command(self, network: &Network, told: OwnedFd, log: &Path) -> io::Result<Command> {
        let log = File::create(log)?;
        let namespace = network.namespace().try_clone()?;
        let descriptors = [
            (namespace, NAMESPACE_FD),
            (told, READY_FD),
            (self.exit, EXIT_FD),
        ];
        let mappings = descriptors.map(|(parent_fd, child_fd)| FdMapping {
            parent_fd,
            child_fd,
        });
        let mut command = Command::new("sh");
        command
            .env_clear()
            .args(["-c", GATE, "sh", PROGRAM])
            .args(["--configure", MTU, "--enable-ipv6"])
            .args([
                "--disable-host-loopback",
                "--enable-sandbox",
                "--enable-seccomp",
            ])
            .arg(format!("--ready-fd={READY_FD}"))
            .arg(format!("--exit-fd={EXIT_FD}"))
            .arg("--netns-type=path")
            .args([&format!("/proc/self/fd/{NAMESPACE_FD}"), "tap0"])
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0)
            .fd_mappings(mappings.into())
            .map_err(io::Error::other)?;
        if let Some(path) = std::env::var_os("PATH") {
            command.env("PATH", path);
        }
        Ok(command)
    }
}
