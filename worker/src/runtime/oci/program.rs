//! The OCI runtime's program: how it is called, and what it must be.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::files;

/// The first version without the container breakouts that were published in 2025.
const FIRST_SOUND: (u32, u32, u32) = (1, 2, 8);

/// The OCI runtime of this machine.
#[derive(Debug, Clone)]
pub(super) struct Program {
    binary: PathBuf,
    state: PathBuf,
}

impl Program {
    /// `state` is the folder in which it keeps what it knows of its containers.
    pub(super) fn new(binary: PathBuf, state: PathBuf) -> Self {
        Self { binary, state }
    }

    pub(super) fn binary(&self) -> &Path {
        &self.binary
    }

    /// A call of it, with nothing of this process's variables but the PATH.
    pub(super) fn command(&self) -> Command {
        let mut command = Command::new(&self.binary);
        command.env_clear().current_dir("/").stdin(Stdio::null());
        if let Some(path) = std::env::var_os("PATH") {
            command.env("PATH", path);
        }
        command.arg("--root").arg(&self.state);
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
        let output = self.command().arg("--version").output()?;
        let text = String::from_utf8_lossy(&output.stdout);
        let first = text.lines().next().unwrap_or_default().to_owned();
        if output.status.success() && !first.is_empty() {
            Ok(first)
        } else {
            Err(io::Error::other(format!("it ended with {}", output.status)))
        }
    }

    fn call(&self, arguments: &[&str]) -> io::Result<bool> {
        let output = self.command().args(arguments).output()?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            tracing::debug!(?arguments, %said, "the OCI runtime refused");
        }
        Ok(output.status.success())
    }
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
