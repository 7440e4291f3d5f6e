//! The cgroups of a life: its limits, its processes as the kernel counts them, and what PID 1 may do with them.
//!
//! The OCI runtime sets the limits. This adapter makes two folders before it, so that PID 1 can have a child cgroup per
//! job without ever seeing the cgroup file system:
//!
//! ```text
//! unified hierarchy   /environment-manager-INSTANCE-UID/   owned by root inside: cgroup.kill ends one job's tree
//! v1 memory           /environment-manager-INSTANCE-UID/   owned by root inside: out-of-memory kills told apart by job
//! ```
//!
//! Only the folders and the files that move processes are handed over; the limits stay the host's. PID 1 gets them as
//! descriptors of detached mounts: `..` ends there, so that not even a PID 1 that was taken over climbs out of them.
//! Where only the unified hierarchy exists there is no second one: its memory controller cannot be given to children
//! of a cgroup that has processes itself.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::mount::{OpenTreeFlags, open_tree};

use super::standing::Standing;
use super::{files, process};

/// How long the kernel may take to empty a cgroup whose processes were killed.
const PATIENCE: Duration = Duration::from_secs(10);
/// Child cgroups that PID 1 may make, of all depths.
const MOST_CHILDREN: &str = "4096";
/// How deep they may be.
const DEEPEST: &str = "2";

/// The hierarchies that are mounted on this machine.
#[derive(Debug, Clone, Default)]
pub(super) struct Cgroups {
    unified: Option<PathBuf>,
    memory: Option<PathBuf>,
    all: Vec<PathBuf>,
}

/// What PID 1 gets of its own cgroups.
#[derive(Debug, Default)]
pub(super) struct Delegated {
    /// Of the unified hierarchy.
    pub(super) unified: Option<OwnedFd>,
    /// Of the v1 memory hierarchy.
    pub(super) memory: Option<OwnedFd>,
}

impl Cgroups {
    /// What a process may use: root all that is mounted, others nothing.
    pub(super) fn of(standing: Standing) -> io::Result<Self> {
        match standing {
            Standing::Root => Self::mounted(),
            Standing::Namespace(_) | Standing::Powerless => Ok(Self::default()),
        }
    }

    /// Finds what is mounted.
    pub(super) fn mounted() -> io::Result<Self> {
        Ok(Self::parse(&fs::read_to_string("/proc/self/mountinfo")?))
    }

    fn parse(mountinfo: &str) -> Self {
        let mut found = Self::default();
        for line in mountinfo.lines() {
            let Some((mount, kind)) = line.split_once(" - ") else {
                continue;
            };
            let path = mount.split(' ').nth(4).map(PathBuf::from);
            let mut kind = kind.split(' ');
            let (Some(path), Some(fs_type)) = (path, kind.next()) else {
                continue;
            };
            let options = kind.nth(1).unwrap_or_default();
            match fs_type {
                "cgroup2" => found.unified = Some(path.clone()),
                "cgroup" if options.split(',').any(|option| option == "memory") => {
                    found.memory = Some(path.clone());
                }
                "cgroup" => {}
                _ => continue,
            }
            found.all.push(path);
        }
        found
    }

    /// Whether limits can be set at all.
    pub(super) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Makes the two folders and hands them to `owner`, the host uid and gid of root inside.
    pub(super) fn delegate(&self, name: &str, owner: u32) -> io::Result<Delegated> {
        let unified = self.unified.as_ref().map(|mount| mount.join(name));
        let memory = self.memory.as_ref().map(|mount| mount.join(name));
        if let Some(folder) = &unified {
            hand_over(
                folder,
                owner,
                &["cgroup.procs", "cgroup.threads", "cgroup.subtree_control"],
            )?;
            fs::write(folder.join("cgroup.max.descendants"), MOST_CHILDREN)?;
            fs::write(folder.join("cgroup.max.depth"), DEEPEST)?;
        }
        if let Some(folder) = &memory {
            hand_over(folder, owner, &["cgroup.procs", "tasks"])?;
        }
        Ok(Delegated {
            unified: unified.as_deref().map(detached).transpose()?,
            memory: memory.as_deref().map(detached).transpose()?,
        })
    }

    /// Puts a process, and what it will start, into a cgroup of that name, so that it is found again.
    pub(super) fn join(&self, name: &str, pid: u32) -> io::Result<()> {
        for mount in self.unified.iter().chain(&self.memory) {
            let folder = mount.join(name);
            fs::create_dir_all(&folder)?;
            fs::write(folder.join("cgroup.procs"), pid.to_string())?;
        }
        Ok(())
    }

    /// Kills whatever is in the cgroup of that name and removes it from every hierarchy. Nothing there is success.
    pub(super) fn remove(&self, name: &str) -> io::Result<()> {
        let until = Instant::now() + PATIENCE;
        for mount in &self.all {
            let mut pause = Duration::from_micros(500);
            while let Err(error) = remove_once(&mount.join(name), name) {
                if Instant::now() > until {
                    return Err(error);
                }
                sleep(pause);
                pause = (pause * 2).min(Duration::from_millis(50));
            }
        }
        Ok(())
    }

    /// Processes of the cgroup itself, not of its children, that the kernel killed for memory.
    pub(super) fn out_of_memory_kills(&self, name: &str) -> u64 {
        let v1 = self
            .memory
            .as_ref()
            .map(|mount| mount.join(name).join("memory.oom_control"));
        let v2 = self
            .unified
            .as_ref()
            .map(|mount| mount.join(name).join("memory.events.local"));
        v1.or(v2)
            .and_then(|path| fs::read_to_string(path).ok())
            .and_then(|text| {
                let line = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
                line?.trim().parse().ok()
            })
            .unwrap_or_default()
    }
}

/// Makes the folder and gives it with some of its files to another owner.
fn hand_over(folder: &Path, owner: u32, names: &[&str]) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    chown(folder, Some(owner), Some(owner))?;
    for name in names {
        chown(folder.join(name), Some(owner), Some(owner))?;
    }
    Ok(())
}

/// Opens a folder of which nothing above can be reached.
fn detached(folder: &Path) -> io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let mount = open_tree(CWD, folder, flags)?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(openat(&mount, ".", flags, Mode::empty())?)
}

/// Kills what is in the folder and those below it, and removes them all, the deepest first.
fn remove_once(top: &Path, name: &str) -> io::Result<()> {
    let folders = folders_below(top)?;
    for folder in &folders {
        for pid in members(folder)?.lines() {
            process::kill_member(pid, name)?;
        }
    }
    for folder in folders.iter().rev() {
        files::absent(fs::remove_dir(folder))?;
    }
    Ok(())
}

/// The folder and all below it, each after its parent; none if it is not there.
fn folders_below(top: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    if top.is_dir() {
        found.push(top.to_owned());
    }
    let mut next = 0;
    while let Some(folder) = found.get(next).cloned() {
        next += 1;
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        for entry in entries {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                found.push(entry.path());
            }
        }
    }
    Ok(found)
}

/// The pids in a cgroup, a line each.
fn members(folder: &Path) -> io::Result<String> {
    match fs::read_to_string(folder.join("cgroup.procs")) {
        Err(error)
            if error.kind() == io::ErrorKind::NotFound
                // So says one that is being removed.
                || error.raw_os_error() == Some(rustix::io::Errno::NODEV.raw_os_error()) =>
        {
            Ok(String::new())
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use rustix::fs::fstat;

    use super::*;

    #[test]
    fn hierarchies_are_read_from_the_mount_table() {
        let hybrid = "\
            35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n\
            39 31 0:36 / /sys/fs/cgroup/pids rw,relatime shared:9 - cgroup cgroup rw,pids\n\
            41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n\
            42 31 0:39 / /proc rw - proc proc rw\n";
        let found = Cgroups::parse(hybrid);
        assert_eq!(found.unified, Some("/sys/fs/cgroup/unified".into()));
        assert_eq!(found.memory, Some("/sys/fs/cgroup/memory".into()));
        assert_eq!(found.all.len(), 3);
        let unified = "30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate\n";
        let found = Cgroups::parse(unified);
        assert_eq!(found.unified, Some("/sys/fs/cgroup".into()));
        assert_eq!(found.memory, None);
        assert!(Cgroups::parse("42 31 0:39 / /proc rw - proc proc rw\n").is_empty());
    }

    #[test]
    fn nothing_above_a_delegated_folder_can_be_reached() {
        let cgroups = Cgroups::mounted().expect("hierarchies");
        let name = format!("environment-manager-test-{}", std::process::id());
        let Delegated { unified, memory } = cgroups.delegate(&name, 1 << 20).expect("delegated");
        let folders: Vec<OwnedFd> = unified.into_iter().chain(memory).collect();
        assert!(!folders.is_empty());
        for folder in &folders {
            let flags = OFlags::PATH | OFlags::DIRECTORY;
            let above = openat(folder, "../../../../..", flags, Mode::empty()).expect("a folder");
            let (above, own) = (fstat(&above).expect("there"), fstat(folder).expect("there"));
            assert_eq!((above.st_dev, above.st_ino), (own.st_dev, own.st_ino));
            assert_eq!((own.st_uid, own.st_gid), (1 << 20, 1 << 20));
        }
        cgroups.remove(&name).expect("removed");
        cgroups.remove(&name).expect("twice is no error");
        assert!(cgroups.all.iter().all(|mount| !mount.join(&name).exists()));
    }

    #[test]
    fn what_is_in_a_cgroup_is_killed_with_it() {
        let cgroups = Cgroups::mounted().expect("hierarchies");
        let name = format!("environment-manager-test-kill-{}", std::process::id());
        let mut child = std::process::Command::new("sleep")
            .arg("1000")
            .spawn()
            .expect("started");
        for mount in &cgroups.all {
            let below = mount.join(&name).join("below");
            fs::create_dir_all(&below).expect("made");
            // A cpuset takes no process before it has processors.
            if fs::write(below.join("cgroup.procs"), child.id().to_string()).is_err() {
                assert!(below.join("cpuset.cpus").exists(), "{}", below.display());
            }
        }
        // As the machine's first process does with what it inherits: else it would stay there as a zombie.
        let reaper = std::thread::spawn(move || child.wait());
        cgroups.remove(&name).expect("removed");
        let ended = reaper.join().expect("joined").expect("ended");
        assert!(!ended.success());
    }
}
