//! `runc` by itself: the peer on one machine.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::Failure;

/// A running container of the service's.
pub struct Container {
    state: PathBuf,
    id: String,
}

/// The only container under the service's folder.
pub fn container_of(environments: &Path) -> Result<Container, Failure> {
    let state = environments.join(".runc");
    let list = Command::new("runc")
        .arg("--root")
        .arg(&state)
        .args(["list", "--quiet"])
        .output()?;
    let id = String::from_utf8(list.stdout)?.trim().to_owned();
    if id.is_empty() || id.contains('\n') {
        Err("not exactly one container".into())
    } else {
        Ok(Container { state, id })
    }
}

impl Container {
    pub fn exec_true(&self) -> Result<(), Failure> {
        runc(&self.state, &["exec", &self.id, "true"])
    }

    /// A command in it, as the user that commands have there.
    pub fn exec(&self, command: &[&str]) -> Command {
        let mut runc = Command::new("runc");
        runc.arg("--root").arg(&self.state);
        runc.args(["exec", "--user", "1000:1000", &self.id]);
        runc.args(command).stdin(Stdio::null());
        runc
    }
}

/// A plain bundle on this machine's `/usr`.
pub struct Bundle {
    folder: tempfile::TempDir,
}

impl Bundle {
    pub fn new() -> Result<Self, Failure> {
        let folder = tempfile::tempdir()?;
        let root = folder.path().join("rootfs");
        for name in ["usr", "proc", "dev", "sys", "tmp", "etc"] {
            std::fs::create_dir_all(root.join(name))?;
        }
        for name in ["bin", "sbin", "lib", "lib64"] {
            std::os::unix::fs::symlink(format!("usr/{name}"), root.join(name))?;
        }
        let spec = Command::new("runc")
            .args(["spec", "--bundle"])
            .arg(folder.path())
            .status()?;
        if !spec.success() {
            return Err("runc spec failed".into());
        }
        let path = folder.path().join("config.json");
        let mut config: Value = serde_json::from_slice(&std::fs::read(&path)?)?;
        config["process"]["terminal"] = json!(false);
        config["process"]["args"] = json!(["sleep", "1000"]);
        let usr = json!({"destination": "/usr", "type": "bind", "source": "/usr", "options": ["bind", "ro"]});
        config["mounts"]
            .as_array_mut()
            .ok_or("a spec without mounts")?
            .push(usr);
        std::fs::write(&path, serde_json::to_vec(&config)?)?;
        Ok(Self { folder })
    }

    pub fn run(&self, id: &str) -> Result<(), Failure> {
        let bundle = self
            .folder
            .path()
            .to_str()
            .ok_or("a temporary folder that is not UTF-8")?;
        runc(&self.state(), &["run", "--detach", "--bundle", bundle, id])
    }

    pub fn exec_true(&self, id: &str) -> Result<(), Failure> {
        runc(&self.state(), &["exec", id, "true"])
    }

    pub fn delete(&self, id: &str) -> Result<(), Failure> {
        runc(&self.state(), &["delete", "--force", id])
    }

    fn state(&self) -> PathBuf {
        self.folder.path().join("state")
    }
}

fn runc(state: &Path, arguments: &[&str]) -> Result<(), Failure> {
    // A detached container inherits the streams: a pipe would never end.
    let status = Command::new("runc")
        .arg("--root")
        .arg(state)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()?;
    if status.success() {
        Ok(())
    } else {
        Err(format!("runc {arguments:?}: {status}").into())
    }
}
