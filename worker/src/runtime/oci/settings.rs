//! What the adapter needs to know, and the program that it puts into every environment.

use std::borrow::Cow;
use std::path::PathBuf;

use shared::config::{ImageSettings, NetworkSettings};

/// Where the adapter finds its tools and keeps its environments.
#[derive(Debug, Clone)]
pub struct OciSettings {
    /// The OCI runtime: a name on the PATH or a path.
    pub binary: PathBuf,
    /// The folder of all environments, made if it is not there. Several workers of one machine may share it. Its
    /// parent gets the folders `bin` (the runner) and `images` (what environments are made from).
    pub folder: PathBuf,
    /// The program that becomes PID 1.
    pub runner: RunnerProgram,
    /// Which images can be had, and how.
    pub images: ImageSettings,
    /// What environments with a network may reach.
    pub network: NetworkSettings,
}

impl OciSettings {
    /// The settings of `runc` on the PATH with the runner that is embedded in this program.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self {
            binary: PathBuf::from("runc"),
            folder: folder.into(),
            runner: RunnerProgram::embedded(),
            images: ImageSettings::default(),
            network: NetworkSettings::default(),
        }
    }
}

/// A static program, PID 1 of every environment.
#[derive(Clone)]
pub struct RunnerProgram {
    /// The executable.
    bytes: Cow<'static, [u8]>,
    /// Names these bytes and no others.
    hash: Cow<'static, str>,
}

impl RunnerProgram {
    /// The runner that `build.rs` built or was given.
    pub fn embedded() -> Self {
        Self {
            bytes: Cow::Borrowed(include_bytes!(env!("EM_RUNNER_PROGRAM"))),
            hash: Cow::Borrowed(env!("EM_RUNNER_HASH")),
        }
    }

    /// The executable.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The name of its file: another program has another.
    pub fn file_name(&self) -> String {
        format!("em-runner-{}", self.hash)
    }
}

impl std::fmt::Debug for RunnerProgram {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.file_name())
    }
}
