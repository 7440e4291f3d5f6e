//! The OCI runtime's program: how it is called, and what it must be.
//!
//! ```text
//!            as root                                   as an ordinary user
//!  runc      as it is                                  as it is
//!  crun      without the unified hierarchy where       the same, and without cgroups, which it would
//!            there are others too: it refuses both     ask for even if it has nothing to do with them
//!  runsc     with the sockets of the network that it   the same, and without cgroups
//!            is called in, or none; its containers
//!            may make sockets in what is mounted
//! ```

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, OnceLock};

use rustix::mount::{MountFlags, mount};

use super::files;
use super::stage::own_mounts;
use super::standing::Standing;

/// The first version without the container breakouts that were published in 2025.
const FIRST_SOUND: (u32, u32, u32) = (1, 2, 8);

/// PID 1 may listen on a socket in what is mounted, and what is written to the root goes where it is written.
const GVISOR_FLAGS: [&str; 2] = ["--host-uds=create", "--overlay2=none"];
/// Where it is there: leaves no network namespace behind that the files of all containers would share.
const GVISOR_ALONE: &str = "gofer-network-namespace";

/// Where machines with several hierarchies of cgroups have the unified one.
const UNIFIED_OF_MANY: &str = "/sys/fs/cgroup/unified";

/// The first descriptor behind the usual three.
pub(super) const FIRST_FD: i32 = 3;

/// The OCI runtime of this machine.
#[derive(Debug, Clone)]
pub(super) struct Program {
    binary: PathBuf,
    state: PathBuf,
    standing: Standing,
    kind: Arc<OnceLock<Kind>>,
    flags: Arc<OnceLock<String>>,
}

/// Whose program it is, where that makes a difference.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Crun,
    /// `runsc`: gVisor, with a kernel of its own.
    Gvisor,
    /// `runc`, or one that is called like it.
    Other,
}

impl Kind {
    fn of(version: &str) -> Self {
        if version.starts_with("crun version ") {
            Self::Crun
        } else if version.starts_with("runsc version ") {
            Self::Gvisor
        } else {
            Self::Other
        }
    }
}

impl Program {
    /// `state` is the folder in which it keeps what it knows of its containers.
    pub(super) fn new(binary: PathBuf, state: PathBuf, standing: Standing) -> Self {
        Self {
            binary,
            state,
            standing,
            kind: Arc::default(),
            flags: Arc::default(),
        }
    }

    /// Told by itself, once.
    fn kind(&self) -> io::Result<Kind> {
        if let Some(kind) = self.kind.get() {
            return Ok(*kind);
        }
        match self.version() {
            Ok(version) => Ok(*self.kind.get_or_init(|| Kind::of(&version))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(error),
            // What is wrong with it shows best in what it says to the call itself.
            Err(_) => Ok(Kind::Other),
        }
    }

    pub(super) fn binary(&self) -> &Path {
        &self.binary
    }

    /// Whether its containers have a kernel of their own, beside the machine's: to that most descriptors of the machine and
    /// its cgroups mean nothing.
    pub(super) fn has_its_own_kernel(&self) -> bool {
        matches!(self.kind(), Ok(Kind::Gvisor))
    }

    /// Whether gVisor is young enough to let containers make sockets in what is mounted, and hold what they are given.
    pub(super) fn is_young_enough(&self) -> io::Result<bool> {
        self.knows("host-uds")
    }

    /// Whether gVisor has this flag. It lists them all where it says how it is used.
    fn knows(&self, flag: &str) -> io::Result<bool> {
        if self.flags.get().is_none() {
            let said = self.bare().arg("flags").output()?;
            let text = [said.stdout, said.stderr].concat();
            let _ = self.flags.set(String::from_utf8_lossy(&text).into_owned());
        }
        let flags = self.flags.get().map_or("", String::as_str);
        Ok(flags
            .split_whitespace()
            .any(|word| word.trim_start_matches('-') == flag))
    }

    /// The call that starts a container and leaves it to itself, with the first of the `given` descriptors of
    /// [`Self::inherited`] and those behind it. The network is the one that it is called in, or none.
    pub(super) fn start(&self, given: usize, is_connected: bool) -> io::Result<Command> {
        let mut command = self.command()?;
        if self.kind()? != Kind::Gvisor {
            command.args(["run", "--detach", &format!("--preserve-fds={given}")]);
            return Ok(command);
        }
        // With the machine's sockets, which stand below the rules of the network that they are in.
        command.arg(if is_connected {
            "--network=host"
        } else {
            "--network=none"
        });
        command.args(["run", "--detach"]);
        let passed = (FIRST_FD..).skip(1).take(given);
        command.args(passed.map(|number| format!("--pass-fd={number}:{number}")));
        Ok(command)
    }

    /// Puts what PID 1 is given and what the call alone shall hold in order, from [`FIRST_FD`] on. gVisor's own programs keep
    /// what is open at a number that they do not need: never the first.
    pub(super) fn inherited(&self, given: Vec<OwnedFd>, own: OwnedFd) -> Vec<OwnedFd> {
        let own = [own];
        if self.has_its_own_kernel() {
            own.into_iter().chain(given).collect()
        } else {
            given.into_iter().chain(own).collect()
        }
    }

    /// A call of it, to be made where [`Self::prepare_mounts`] was.
    pub(super) fn command(&self) -> io::Result<Command> {
        let mut command = self.bare();
        match self.kind()? {
            Kind::Crun if self.standing.is_namespace() => {
                command.arg("--cgroup-manager=disabled");
            }
            Kind::Gvisor => {
                command.args(GVISOR_FLAGS);
                if self.standing.is_namespace() {
                    command.arg("--ignore-cgroups");
                }
                if self.knows(GVISOR_ALONE)? {
                    command.arg(format!("--{GVISOR_ALONE}=new"));
                }
            }
            Kind::Crun | Kind::Other => {}
        }
        command.arg("--root").arg(&self.state);
        Ok(command)
    }

    /// Hides from the calling thread, whose mounts must be its own, what the program does not bear.
    pub(super) fn prepare_mounts(&self) -> io::Result<()> {
        if self.kind()? == Kind::Crun && Path::new(UNIFIED_OF_MANY).is_dir() {
            // It may still make folders there, which end with the mount.
            mount("none", UNIFIED_OF_MANY, "tmpfs", MountFlags::empty(), None)?;
        }
        Ok(())
    }

    /// A call of it with nothing of this process's variables but the PATH.
    fn bare(&self) -> Command {
        let mut command = Command::new(&self.binary);
        command.env_clear().current_dir("/").stdin(Stdio::null());
        if let Some(path) = std::env::var_os("PATH") {
            command.env("PATH", path);
        }
        command
    }

    /// Makes it forget a container whose processes have ended, or were never quite begun. One that it does not know is
    /// success. It may be one of another OCI runtime, from before the setting was another: what that has left is removed.
    pub(super) fn delete(&self, container: &str) -> io::Result<()> {
        if self.known(container)?.is_empty() || self.call(&["delete", container])? {
            return self.forget(container);
        }
        // A container that was interrupted while it was made: `--force` ends what waits there.
        self.call(&["delete", "--force", container])?;
        self.forget(container)
    }

    /// Removes what is known of a container: gVisor takes for gone what it cannot read, and leaves it.
    fn forget(&self, container: &str) -> io::Result<()> {
        for left in self.known(container)? {
            if left.is_dir() {
                files::absent(fs::remove_dir_all(left))?;
            } else {
                files::absent(fs::remove_file(left))?;
            }
        }
        Ok(())
    }

    /// What OCI runtimes know of a container: a folder of its name, or gVisor's files.
    fn known(&self, container: &str) -> io::Result<Vec<PathBuf>> {
        let of_gvisor = [format!("{container}_"), format!("runsc-{container}.")];
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.state)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if name == container || of_gvisor.iter().any(|begin| name.starts_with(begin)) {
                found.push(entry.path());
            }
        }
        Ok(found)
    }

    /// Its version, as it says it: the first line.
    pub(super) fn version(&self) -> io::Result<String> {
        let output = self.bare().arg("--version").output()?;
        let text = String::from_utf8_lossy(&output.stdout);
        let first = text.lines().next().unwrap_or_default().to_owned();
        if output.status.success() && !first.is_empty() {
            Ok(first)
        } else {
            Err(io::Error::other(format!("it ended with {}", output.status)))
        }
    }

    fn output(&self, arguments: &[&str]) -> io::Result<Output> {
        let mut command = self.command()?;
        command.args(arguments);
        if self.kind()? == Kind::Other {
            return command.output();
        }
        let in_own_mounts = || {
            own_mounts()?;
            self.prepare_mounts()?;
            command.output()
        };
        std::thread::scope(|scope| scope.spawn(in_own_mounts).join())
            .unwrap_or_else(|_| Err(io::Error::other("the calling thread panicked")))
    }

    fn call(&self, arguments: &[&str]) -> io::Result<bool> {
        let output = self.output(arguments)?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            tracing::debug!(?arguments, %said, "the OCI runtime refused");
        }
        Ok(output.status.success())
    }
}

/// Whether a program of that name is on the PATH.
pub(super) fn is_installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}

/// Whether this is a `runc` of a version with known breakouts. (A distribution may have mended it in its own way.)
pub(super) fn is_unsound(version: &str) -> bool {
    let numbers = version.strip_prefix("runc version ").map(|rest| {
        let mut parts = rest
            .split(|character: char| !character.is_ascii_digit())
            .map(|part| part.parse::<u32>().unwrap_or_default());
        let mut next = || parts.next().unwrap_or_default();
        (next(), next(), next())
    });
    numbers.is_some_and(|numbers| numbers < FIRST_SOUND)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_says_what_it_is() {
        assert_eq!(Kind::of("crun version 1.8.1"), Kind::Crun);
        assert_eq!(Kind::of("runc version 1.1.5+ds1"), Kind::Other);
        assert_eq!(Kind::of("runsc version release-20260905.0"), Kind::Gvisor);
    }

    #[test]
    fn versions_are_compared_by_number() {
        for old in [
            "runc version 1.1.5+ds1",
            "runc version 1.2.7",
            "runc version 1.0.0-rc93",
        ] {
            assert!(is_unsound(old), "{old}");
        }
        for sound in [
            "runc version 1.2.8",
            "runc version 1.10.0",
            "runc version 2.0.0",
            "crun version 1.8",
        ] {
            assert!(!is_unsound(sound), "{sound}");
        }
    }
}
