//! The cgroups of a life: its limits, its processes as the kernel counts them, and what PID 1 may do with them.
//!
//! The OCI runtime sets the limits of the whole. Below it this adapter keeps two parts, in each hierarchy that limits
//! something and in the unified one, so that commands that use up all that is theirs never starve PID 1:
//!
//! ```text
//! /environment-manager-INSTANCE-UID/       the whole: what the commands may use, and PID 1's allowance
//!   init/                                  PID 1 and the supervisors of jobs
//!   commands/                              what the spec says
//!     job-ID/                              unified: cgroup.kill ends one job's tree
//!                                          memory: out-of-memory kills told apart by job
//!                                          cpu: a job's share, however many processes another has
//! ```
//!
//! PID 1 makes a child per job without ever seeing the cgroup file system: it gets the folders `commands` as descriptors
//! of detached mounts: `..` ends there, so that not even a PID 1 that was taken over climbs out of them. Only the folders
//! and the files that move processes are handed over; the limits stay the host's.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::standing::Standing;
use super::{files, process};

mod division;

pub(super) use division::Delegated;

/// How long the kernel may take to empty a cgroup whose processes were killed.
const PATIENCE: Duration = Duration::from_secs(10);
/// The part of PID 1.
const INIT: &str = "init";
/// The part of the commands.
const COMMANDS: &str = "commands";

/// The hierarchies that are mounted on this machine.
#[derive(Debug, Clone, Default)]
pub(super) struct Cgroups {
    unified: Option<PathBuf>,
    memory: Option<PathBuf>,
    cpu: Option<PathBuf>,
    pids: Option<PathBuf>,
    all: Vec<PathBuf>,
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
                "cgroup" => {
                    for option in options.split(',') {
                        match option {
                            "memory" => found.memory = Some(path.clone()),
                            "cpu" => found.cpu = Some(path.clone()),
                            "pids" => found.pids = Some(path.clone()),
                            _ => {}
                        }
                    }
                }
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

    /// The hierarchies in which PID 1 and the commands have parts of their own, each once.
    fn divided(&self) -> Vec<&Path> {
        let mut mounts: Vec<&Path> = [&self.unified, &self.memory, &self.cpu, &self.pids]
            .into_iter()
            .filter_map(Option::as_deref)
            .collect();
        mounts.sort_unstable();
        mounts.dedup();
        mounts
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

    /// PID 1s and supervisors that the kernel killed for memory; no command.
    pub(super) fn out_of_memory_kills(&self, name: &str) -> u64 {
        let (mount, file) = match (&self.memory, &self.unified) {
            (Some(memory), _) => (memory, "memory.oom_control"),
            (None, Some(unified)) => (unified, "memory.events.local"),
            (None, None) => return 0,
        };
        // At first PID 1 is in the whole's.
        let top = mount.join(name);
        let kills = [top.join(INIT), top].map(|folder| oom_kills(&folder.join(file)));
        kills.iter().sum()
    }
}

fn oom_kills(file: &Path) -> u64 {
    let text = fs::read_to_string(file).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
    line.and_then(|number| number.trim().parse().ok())
        .unwrap_or_default()
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
    use super::*;

    #[test]
    fn hierarchies_are_read_from_the_mount_table() {
        let hybrid = "\
            35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n\
            36 31 0:33 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct\n\
            39 31 0:36 / /sys/fs/cgroup/pids rw,relatime shared:9 - cgroup cgroup rw,pids\n\
            41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n\
            42 31 0:39 / /proc rw - proc proc rw\n";
        let found = Cgroups::parse(hybrid);
        assert_eq!(found.unified, Some("/sys/fs/cgroup/unified".into()));
        assert_eq!(found.memory, Some("/sys/fs/cgroup/memory".into()));
        assert_eq!(found.cpu, Some("/sys/fs/cgroup/cpu,cpuacct".into()));
        assert_eq!(found.pids, Some("/sys/fs/cgroup/pids".into()));
        assert_eq!(found.all.len(), 4);
        assert_eq!(found.divided().len(), 4);
        let unified = "30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate\n";
        let found = Cgroups::parse(unified);
        assert_eq!(found.unified, Some("/sys/fs/cgroup".into()));
        assert_eq!(found.memory, None);
        assert_eq!(found.divided(), [Path::new("/sys/fs/cgroup")]);
        assert!(Cgroups::parse("42 31 0:39 / /proc rw - proc proc rw\n").is_empty());
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
