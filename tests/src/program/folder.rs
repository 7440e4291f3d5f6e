//! A data folder, and everything on this machine that belongs to it.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, Uid};
use tempfile::TempDir;

/// How long the kernel may take to empty a cgroup whose processes were killed.
const PATIENCE: Duration = Duration::from_secs(10);

/// A file system in memory, of a few megabytes, mounted where a data folder is to be.
struct SmallDisk(PathBuf);

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // A program that just ended may still hold it.
        let _ = nix::mount::umount2(&self.0, nix::mount::MntFlags::MNT_DETACH);
    }
}

/// A data folder in a temporary one. When it is dropped, so is every container, cgroup, process and mount of it.
pub struct DataFolder {
    path: PathBuf,
    instance: OnceLock<String>,
    disk: Option<SmallDisk>,
    temporary: TempDir,
}

impl DataFolder {
    /// A new one, not made yet.
    pub fn new() -> Self {
        Self::below("")
    }

    /// A new one whose whole path has `length` bytes.
    pub fn with_path_length(length: usize) -> Self {
        let folder = Self::below("");
        let missing = length - folder.path.as_os_str().len();
        let mut middle = String::new();
        while middle.len() < missing {
            let part = (missing - middle.len() - 1).min(100);
            middle.push_str(&"p".repeat(part));
            middle.push('/');
        }
        let folder = Self::below(&middle);
        assert_eq!(folder.path.as_os_str().len(), length);
        folder
    }

    /// A new one on a file system of its own, which has room for so many mebibytes.
    pub fn on_small_disk(mebibytes: u32) -> Self {
        Self::with_small_disk_at("", mebibytes)
    }

    /// A new one of which one folder is on a file system of its own, which has room for so many mebibytes.
    pub fn with_small_disk_at(part: &str, mebibytes: u32) -> Self {
        let mut folder = Self::below("");
        let at = folder.path.join(part);
        fs::create_dir_all(&at).expect("made");
        let (none, size) = (None::<&str>, format!("size={mebibytes}m"));
        let flags = nix::mount::MsFlags::empty();
        nix::mount::mount(none, &at, Some("tmpfs"), flags, Some(&*size))
            .expect("mounting needs root");
        folder.disk = Some(SmallDisk(at));
        folder
    }

    /// Takes all the room that is left on the disk of one of its folders; answers the file that takes it.
    pub fn fill(&self, part: &str) -> PathBuf {
        let path = self.path.join(part).join("ballast");
        let mut file = File::create(&path).expect("made");
        for size in [1 << 20, 1 << 12, 1] {
            while file.write_all(&vec![0; size]).is_ok() {}
        }
        path
    }

    fn below(middle: &str) -> Self {
        let temporary = TempDir::with_prefix("em-test-").expect("a folder");
        let parent = temporary.path().join(middle);
        fs::create_dir_all(&parent).expect("made");
        Self {
            path: parent.join("data"),
            instance: OnceLock::new(),
            disk: None,
            temporary,
        }
    }

    /// Gives the folder that it lies in to somebody.
    pub fn give(&self, give: impl Fn(&Path)) {
        give(self.temporary.path());
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The folder of environments.
    pub fn environments(&self) -> PathBuf {
        self.path.join("environments")
    }

    /// The host's pid of PID 1 of the only environment.
    pub fn first_process(&self) -> Pid {
        let [uid] = &self.lives()[..] else {
            panic!("not one environment: {:?}", self.lives());
        };
        let file = self.environments().join(uid).join("bundle/pid");
        let text = fs::read_to_string(file).expect("a pid file");
        Pid::from_raw(text.trim().parse().expect("a pid"))
    }

    /// The volume of the only environment.
    pub fn volume(&self) -> PathBuf {
        let mut volumes = self.volumes();
        assert_eq!(volumes.len(), 1, "not one environment: {volumes:?}");
        volumes.remove(0)
    }

    /// The volumes of the environments.
    pub(super) fn volumes(&self) -> Vec<PathBuf> {
        let volume = |uid| self.environments().join(uid).join("volume");
        self.lives().into_iter().map(volume).collect()
    }

    /// The uids of the lives that have a folder.
    pub fn lives(&self) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.environments()) else {
            return Vec::new();
        };
        entries
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .filter(|name| !name.starts_with('.'))
            .collect()
    }

    /// The names of the environments that are held ready and that nobody is busy with.
    pub fn ready(&self) -> Vec<String> {
        let names = self.ready_folders().into_iter();
        let names = names.filter_map(|folder| Some(folder.rsplit('-').next()?.to_owned()));
        names.filter(|name| !self.is_locked(name)).collect()
    }

    fn is_locked(&self, name: &str) -> bool {
        let lock = File::open(self.environments().join(".locks").join(name));
        lock.is_ok_and(|lock| Flock::lock(lock, FlockArg::LockSharedNonblock).is_err())
    }

    /// The folders of the environments that are held ready.
    pub fn ready_folders(&self) -> Vec<String> {
        let entries = fs::read_dir(self.environments()).into_iter().flatten();
        entries
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .filter(|name| name.starts_with(".ready-"))
            .collect()
    }

    /// Everything of its environments that is there: folders, container states, id ranges, cgroups, mounts,
    /// processes.
    pub fn traces(&self) -> Vec<String> {
        let mut traces = self.lives();
        for folder in [".runc", ".ranges"] {
            let entries = fs::read_dir(self.environments().join(folder));
            traces.extend(entries.into_iter().flatten().filter_map(|entry| {
                Some(format!("{folder}/{}", entry.ok()?.file_name().display()))
            }));
        }
        let leftovers = fs::read_dir(self.environments()).into_iter().flatten();
        traces.extend(
            leftovers
                .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
                .filter(|name| name.starts_with(".making-") || name.starts_with(".deleting-")),
        );
        traces.extend(self.ready_folders());
        traces.extend(self.cgroups().iter().map(|path| path.display().to_string()));
        traces.extend(self.mounts().iter().map(|path| path.display().to_string()));
        traces.extend(self.processes().iter().map(|pid| format!("process {pid}")));
        traces
    }

    /// Living processes that have a volume of it mounted, whatever the service knows of them.
    fn processes(&self) -> Vec<u32> {
        let volumes = self.environments();
        let volumes = volumes.to_string_lossy();
        let entries = fs::read_dir("/proc").into_iter().flatten();
        entries
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
            .filter(|pid: &u32| {
                let mounts = fs::read_to_string(format!("/proc/{pid}/mountinfo"));
                mounts.is_ok_and(|mounts| mounts.contains(&*volumes))
            })
            .collect()
    }

    /// The installation's id, as the first environment that was seen tells it.
    fn instance(&self) -> Option<&str> {
        if self.instance.get().is_none() {
            let entries = fs::read_dir(self.environments().join(".ranges"))
                .into_iter()
                .flatten();
            let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
            // SLOT.UID.INSTANCE
            if let Some(name) = names.last() {
                let instance = name.rsplit('.').next().unwrap_or_default().to_owned();
                let _ = self.instance.set(instance);
            }
        }
        self.instance.get().map(String::as_str)
    }

    /// Notes whose the environments are, so that what is left of them is known after the last one is gone. Call it while
    /// there is one.
    pub fn note_instance(&self) {
        assert!(self.instance().is_some(), "there is no environment");
    }

    /// Ends all that runs in its environments and removes their cgroups, as a restart of the machine does.
    pub fn remove_cgroups(&self) {
        for cgroup in self.cgroups() {
            empty_and_remove(&cgroup);
        }
    }

    fn cgroups(&self) -> Vec<PathBuf> {
        let Some(instance) = self.instance() else {
            return Vec::new();
        };
        let prefix = format!("environment-manager-{instance}-");
        hierarchies()
            .iter()
            .filter_map(|mount| fs::read_dir(mount).ok())
            .flatten()
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| {
                let name = path.file_name().and_then(|name| name.to_str());
                name.is_some_and(|name| name.starts_with(&prefix))
            })
            .collect()
    }

    fn mounts(&self) -> Vec<PathBuf> {
        let disk = self.disk.as_ref().map(|disk| &disk.0);
        mount_points()
            .into_iter()
            .filter(|point| point.starts_with(&self.path) && Some(point) != disk)
            .collect()
    }

    fn remove_all(&self) {
        for uid in self.lives().into_iter().chain(self.ready_folders()) {
            let home = self.environments().join(&uid);
            let pid = fs::read_to_string(home.join("bundle/pid")).unwrap_or_default();
            if let Ok(pid) = pid.trim().parse::<i32>()
                && is_mounted_in(pid, &home)
            {
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
            let _ = Command::new("runc")
                .arg("--root")
                .arg(self.environments().join(".runc"))
                .args(["delete", "--force", &format!("em-{uid}")])
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status();
        }
        self.remove_cgroups();
        for mount in self.mounts().iter().rev() {
            let _ = nix::mount::umount2(mount, nix::mount::MntFlags::MNT_DETACH);
        }
        // What an ordinary user's environments have made only root of his namespace may remove.
        if !Uid::effective().is_root() && self.path.exists() {
            let _ = Command::new(super::program())
                .args(["unshare", "rm", "-rf"])
                .arg(&self.path)
                .status();
        }
    }
}

/// Whether a process has a volume of this life mounted.
fn is_mounted_in(pid: i32, home: &Path) -> bool {
    let mounts = fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap_or_default();
    let volume = home.join("volume");
    mounts.contains(&*volume.to_string_lossy())
}

impl Default for DataFolder {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for DataFolder {
    fn drop(&mut self) {
        self.remove_all();
    }
}

/// Where cgroup hierarchies are mounted.
fn hierarchies() -> Vec<PathBuf> {
    let mountinfo = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    mountinfo
        .lines()
        .filter(|line| line.contains(" - cgroup"))
        .filter_map(|line| line.split(' ').nth(4).map(PathBuf::from))
        .collect()
}

fn mount_points() -> Vec<PathBuf> {
    let mountinfo = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    mountinfo
        .lines()
        .filter_map(|line| line.split(' ').nth(4).map(PathBuf::from))
        .collect()
}

/// Kills what is in a cgroup of this test's own, and removes it with its children.
fn empty_and_remove(cgroup: &Path) {
    let began = Instant::now();
    while began.elapsed() < PATIENCE {
        kill_all_in(cgroup);
        remove_tree(cgroup);
        if !cgroup.exists() {
            return;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn children(cgroup: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(cgroup).into_iter().flatten();
    entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.is_dir())
        .collect()
}

fn kill_all_in(cgroup: &Path) {
    for child in children(cgroup) {
        kill_all_in(&child);
    }
    let processes = fs::read_to_string(cgroup.join("cgroup.procs")).unwrap_or_default();
    for pid in processes.lines().filter_map(|line| line.parse().ok()) {
        if pid > 1 {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
}

fn remove_tree(cgroup: &Path) {
    for child in children(cgroup) {
        remove_tree(&child);
    }
    let _ = fs::remove_dir(cgroup);
}
