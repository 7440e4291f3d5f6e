//! An OCI runtime by itself: the peer on one machine.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use serde_json::{Value, json};

use crate::Failure;

/// Where machines with several hierarchies of cgroups have the unified one.
const UNIFIED_OF_MANY: &str = "/sys/fs/cgroup/unified";

/// A running container of the service's.
pub struct Container {
    binary: &'static str,
    state: PathBuf,
    id: String,
}

/// The only container under the service's folder, as this OCI runtime knows it.
pub fn container_of(binary: &'static str, environments: &Path) -> Result<Container, Failure> {
    let state = environments.join(".runc");
    let mut ids = Vec::new();
    for entry in std::fs::read_dir(&state)? {
        ids.push(entry?.file_name());
    }
    let [id] = ids.as_slice() else {
        return Err(format!("not exactly one container: {ids:?}").into());
    };
    let id = id.to_str().ok_or("an id that is not UTF-8")?.to_owned();
    Ok(Container { binary, state, id })
}

impl Container {
    /// How long `true` takes.
    pub fn exec_true(&self) -> Result<Duration, Failure> {
        let command = || oci(self.binary, &self.state, &["exec", &self.id, "true"]);
        match self.binary {
            "crun" => where_crun_runs(command),
            _ => command(),
        }
    }

    /// A command in it, as the user that commands have there.
    pub fn exec(&self, command: &[&str]) -> Command {
        let mut exec = Command::new(self.binary);
        exec.arg("--root").arg(&self.state);
        exec.args(["exec", "--user", "1000:1000", &self.id]);
        exec.args(command).stdin(Stdio::null());
        exec
    }

    /// How long it takes to read all that a command writes: at least so many bytes.
    pub fn read(&self, command: &[&str], least: u64) -> Result<Duration, Failure> {
        let began = Instant::now();
        let mut child = self.exec(command).stdout(Stdio::piped()).spawn()?;
        let mut pipe = child.stdout.take().ok_or("no pipe")?;
        let (mut buffer, mut size) = (vec![0; 1 << 20], 0);
        loop {
            match pipe.read(&mut buffer)? {
                0 => break,
                read => size += read as u64,
            }
        }
        if child.wait()?.success() && size >= least {
            Ok(began.elapsed())
        } else {
            Err(format!("{command:?} gave {size} bytes").into())
        }
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

    pub fn run(&self, id: &str) -> Result<Duration, Failure> {
        let bundle = self
            .folder
            .path()
            .to_str()
            .ok_or("a temporary folder that is not UTF-8")?;
        let arguments = ["run", "--detach", "--bundle", bundle, id];
        oci("runc", &self.state(), &arguments)
    }

    pub fn exec_true(&self, id: &str) -> Result<Duration, Failure> {
        oci("runc", &self.state(), &["exec", id, "true"])
    }

    pub fn delete(&self, id: &str) -> Result<Duration, Failure> {
        oci("runc", &self.state(), &["delete", "--force", id])
    }

    fn state(&self) -> PathBuf {
        self.folder.path().join("state")
    }
}

/// How long a call of the OCI runtime takes.
fn oci(binary: &str, state: &Path, arguments: &[&str]) -> Result<Duration, Failure> {
    let began = Instant::now();
    // A detached container inherits the streams: a pipe would never end.
    let status = Command::new(binary)
        .arg("--root")
        .arg(state)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()?;
    if status.success() {
        Ok(began.elapsed())
    } else {
        Err(format!("{binary} {arguments:?}: {status}").into())
    }
}

/// On a thread with mounts of its own, in which there is no unified hierarchy where there are others too: `crun` refuses
/// both. Making them is in nobody's measured time.
fn where_crun_runs(
    call: impl FnOnce() -> Result<Duration, Failure> + Send,
) -> Result<Duration, Failure> {
    let in_own_mounts = || {
        if Path::new(UNIFIED_OF_MANY).is_dir() {
            let (none, nothing) = (None::<&str>, None::<&str>);
            unshare(CloneFlags::CLONE_NEWNS)?;
            mount(
                none,
                "/",
                nothing,
                MsFlags::MS_SLAVE | MsFlags::MS_REC,
                nothing,
            )?;
            let hidden = Some("tmpfs");
            mount(hidden, UNIFIED_OF_MANY, hidden, MsFlags::empty(), nothing)?;
        }
        call()
    };
    std::thread::scope(|scope| scope.spawn(in_own_mounts).join())
        .unwrap_or_else(|_| Err("the calling thread panicked".into()))
}
