//! The OCI runtime's program: how it is called, and what it must be.
//!
//! ```text
//!            as root                                   as an ordinary user
//!  runc      as it is                                  as it is
//!  crun      without the unified hierarchy where       the same, and without cgroups, which it would
//!            there are others too: it refuses both     ask for even if it has nothing to do with them
//! ```

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, OnceLock};

use rustix::mount::{MountFlags, mount};

use super::files;
use super::stage::own_mounts;
use super::standing::Standing;

/// The first version without the container breakouts that were published in 2025.
const FIRST_SOUND: (u32, u32, u32) = (1, 2, 8);

/// Where machines with several hierarchies of cgroups have the unified one.
const UNIFIED_OF_MANY: &str = "/sys/fs/cgroup/unified";

/// The OCI runtime of this machine.
#[derive(Debug, Clone)]
pub(super) struct Program {
    binary: PathBuf,
    state: PathBuf,
    standing: Standing,
    kind: Arc<OnceLock<Kind>>,
}

/// Whose program it is, where that makes a difference.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Crun,
    /// `runc`, or one that is called like it.
    Other,
}

impl Kind {
    fn of(version: &str) -> Self {
        if version.starts_with("crun version ") {
            Self::Crun
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

    /// Whether it brings a network of its own into its containers, which the machine's rules do not see.
    pub(super) fn has_its_own_network(&self) -> bool {
        let name = self.binary.file_name().and_then(|name| name.to_str());
        name.is_some_and(|name| name.starts_with("runsc"))
    }

    /// A call of it, to be made where [`Self::prepare_mounts`] was.
    pub(super) fn command(&self) -> io::Result<Command> {
        let mut command = self.bare();
        if self.kind()? == Kind::Crun && self.standing.is_namespace() {
            command.arg("--cgroup-manager=disabled");
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
    /// success.
    pub(super) fn delete(&self, container: &str) -> io::Result<()> {
        let known = self.state.join(container);
        if !known.exists() || self.call(&["delete", container])? {
            return Ok(());
        }
        // A container that was interrupted while it was made: `--force` ends what waits there.
        self.call(&["delete", "--force", container])?;
        if known.exists() {
            files::absent(fs::remove_dir_all(known))?;
        }
        Ok(())
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
