//! One cgroup per job, where the runtime delegated a folder: the surest way to end a tree, the way to count what the
//! kernel killed for memory, and what gives each job its share of processor time, however many processes another has.
//!
//! Only the command's process joins, never its supervisor, which must survive the tree to report its end. Everything
//! here is best effort: a job without a cgroup is watched and killed through `/proc` like any other.
//!
//! Where the runtime set limits for all commands together, each joins what they are set on, so that however much the
//! commands use up, what ends them is not starved.

use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustix::fs::{AtFlags, Mode, OFlags};

use crate::ids::JobId;

/// Old cgroups that are looked at again after each job.
const RETRIES_AT_ONCE: usize = 32;

/// The folders that the runtime delegated.
pub(crate) struct Cgroups {
    /// Of the v2 hierarchy, for trees.
    trees: Option<OwnedFd>,
    /// Of the memory hierarchy, unless it is the one of trees.
    memory: Option<Limiting>,
    /// Of the hierarchy of processor time, unless it is the one of trees.
    cpu: Option<Limiting>,
    /// `trees` counts memory too.
    trees_count_memory: bool,
    /// `cgroup.procs` of what every command joins beside its job's own.
    commands: Vec<OwnedFd>,
    /// Names that were still in use when their job ended.
    leftovers: Mutex<Vec<String>>,
}

/// A folder whose limits hold for all commands together.
struct Limiting {
    folder: OwnedFd,
    /// `cgroup.procs` of the folder itself: for a job that has no child of it.
    procs: Option<OwnedFd>,
}

/// What the runtime delegated, by what it is for.
#[derive(Default)]
pub(crate) struct Delegated {
    pub(crate) trees: Option<OwnedFd>,
    pub(crate) memory: Option<OwnedFd>,
    pub(crate) cpu: Option<OwnedFd>,
    pub(crate) commands: Vec<OwnedFd>,
}

/// One cgroup of one job.
struct Child {
    folder: OwnedFd,
    /// Writing `0` to it moves the writer in.
    procs: OwnedFd,
}

/// The cgroups of one job.
#[derive(Default)]
pub(crate) struct JobCgroups {
    tree: Option<Child>,
    memory: Option<Child>,
    cpu: Option<Child>,
    name: String,
}

impl Cgroups {
    /// Uses what was given on the command line.
    pub(crate) fn new(delegated: Delegated) -> Self {
        let Delegated {
            trees,
            memory,
            cpu,
            commands,
        } = delegated;
        let is_trees =
            |folder: &OwnedFd| trees.as_ref().is_some_and(|trees| is_same(trees, folder));
        Self {
            trees_count_memory: memory.as_ref().is_some_and(is_trees),
            memory: memory.filter(|folder| !is_trees(folder)).map(Limiting::new),
            cpu: cpu.filter(|folder| !is_trees(folder)).map(Limiting::new),
            trees,
            commands,
            leftovers: Mutex::new(Vec::new()),
        }
    }

    /// Makes the cgroups of a job, as far as that is possible.
    pub(crate) fn make(&self, job: &JobId) -> JobCgroups {
        let name = format!("job-{job}");
        let [tree, memory, cpu] = self.folders().map(|folder| make_child(folder?, &name).ok());
        JobCgroups {
            tree,
            memory,
            cpu,
            name,
        }
    }

    /// The `cgroup.procs` files that the command's process must write itself into: the tree's first, if there is one.
    pub(crate) fn procs<'a>(&'a self, job: &'a JobCgroups) -> impl Iterator<Item = BorrowedFd<'a>> {
        let own = |child: &'a Option<Child>| child.as_ref().map(|child| &child.procs);
        let all = |folder: &'a Option<Limiting>| folder.as_ref()?.procs.as_ref();
        let of_job = [
            own(&job.tree),
            own(&job.memory).or_else(|| all(&self.memory)),
            own(&job.cpu).or_else(|| all(&self.cpu)),
        ];
        let procs = of_job.into_iter().flatten().chain(&self.commands);
        procs.map(OwnedFd::as_fd)
    }

    /// In the order of a job's cgroups.
    fn folders(&self) -> [Option<&OwnedFd>; 3] {
        let [memory, cpu] =
            [&self.memory, &self.cpu].map(|limiting| Some(&limiting.as_ref()?.folder));
        [self.trees.as_ref(), memory, cpu]
    }

    /// Processes of the job that the kernel killed for memory.
    pub(crate) fn oom_kills(&self, job: &JobCgroups) -> u64 {
        let (folder, file) = match (&job.memory, &job.tree) {
            (Some(memory), _) => (memory, "memory.oom_control"),
            (None, Some(tree)) if self.trees_count_memory => (tree, "memory.events"),
            _ => return 0,
        };
        // A memory folder of its own may also be one of the v2 hierarchy.
        let text = read(&folder.folder, file)
            .or_else(|_| read(&folder.folder, "memory.events"))
            .unwrap_or_default();
        value(&text, "oom_kill").unwrap_or(0)
    }

    /// Removes the cgroups of a job, now or, if processes are left in them, after a later job.
    pub(crate) fn remove(&self, job: JobCgroups) {
        let JobCgroups {
            tree,
            memory,
            cpu,
            name,
        } = job;
        if tree.is_none() && memory.is_none() && cpu.is_none() {
            return;
        }
        drop((tree, memory, cpu));
        let mut leftovers = self
            .leftovers
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        leftovers.push(name);
        let untried = leftovers.len().saturating_sub(RETRIES_AT_ONCE);
        let tried = leftovers.split_off(untried);
        let kept: Vec<String> = tried
            .into_iter()
            .filter(|name| !self.remove_named(name))
            .collect();
        // To the front, so that each gets its turn.
        leftovers.splice(..0, kept);
    }

    fn remove_named(&self, name: &str) -> bool {
        let removed = self.folders().map(|parent| {
            parent.is_none_or(|parent| {
                matches!(
                    rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR),
                    Ok(()) | Err(rustix::io::Errno::NOENT)
                )
            })
        });
        removed.iter().all(|removed| *removed)
    }
}

impl Limiting {
    fn new(folder: OwnedFd) -> Self {
        let procs = open(&folder, "cgroup.procs", OFlags::WRONLY).ok();
        Self { folder, procs }
    }
}

impl JobCgroups {
    /// Forgets the tree's cgroup if the command did not join it: bit N of `joined` stands for the Nth of
    /// [`Cgroups::procs`].
    pub(crate) fn keep(&mut self, joined: u8) {
        if joined & 1 == 0 {
            self.tree = None;
        }
    }

    /// Kills everything in the tree's cgroup and waits until nothing is in it; `None` if there is no such cgroup.
    pub(crate) fn kill(&self, patience: Duration) -> Option<io::Result<()>> {
        self.tree.as_ref().map(|tree| kill(&tree.folder, patience))
    }
}

fn kill(tree: &OwnedFd, patience: Duration) -> io::Result<()> {
    let deadline = Instant::now() + patience;
    let events = open(tree, "cgroup.events", OFlags::RDONLY)?;
    rustix::io::write(open(tree, "cgroup.kill", OFlags::WRONLY)?, b"1")?;
    while value(&read_open(&events)?, "populated") != Some(0) {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let mut changed = [PollFd::new(events.as_fd(), PollFlags::POLLPRI)];
        // The kernel wakes at each change; the bound is for a missed one.
        match poll(&mut changed, PollTimeout::from(50_u8)) {
            // What dies in here interrupts this thread, too.
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn make_child(parent: &OwnedFd, name: &str) -> io::Result<Child> {
    let mode = Mode::from_raw_mode(0o755);
    match rustix::fs::mkdirat(parent, name, mode) {
        // An earlier incarnation's; nothing of it lives, or this incarnation could not have begun.
        Err(rustix::io::Errno::EXIST) => {
            rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR)?;
            rustix::fs::mkdirat(parent, name, mode)?;
        }
        made => made?,
    }
    let folder = open(parent, name, OFlags::RDONLY | OFlags::DIRECTORY)?;
    let procs = open(&folder, "cgroup.procs", OFlags::WRONLY)?;
    Ok(Child { folder, procs })
}

fn open(folder: &OwnedFd, name: &str, flags: OFlags) -> io::Result<OwnedFd> {
    Ok(rustix::fs::openat(
        folder,
        name,
        flags | OFlags::CLOEXEC,
        Mode::empty(),
    )?)
}

fn read(folder: &OwnedFd, name: &str) -> io::Result<String> {
    let mut text = String::new();
    std::fs::File::from(open(folder, name, OFlags::RDONLY)?).read_to_string(&mut text)?;
    Ok(text)
}

/// Reads an open file from its start; such files are short.
fn read_open(file: impl AsFd) -> io::Result<String> {
    let mut text = [0; 4096];
    let length = rustix::io::pread(file, &mut text, 0)?;
    Ok(String::from_utf8_lossy(text.get(..length).unwrap_or_default()).into_owned())
}

/// The number after a key in a file of lines `key number`.
fn value(text: &str, key: &str) -> Option<u64> {
    text.lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.parse().ok())
}

fn is_same(one: impl AsFd, other: impl AsFd) -> bool {
    let identity =
        |fd: BorrowedFd<'_>| rustix::fs::fstat(fd).map(|stat| (stat.st_dev, stat.st_ino));
    matches!((identity(one.as_fd()), identity(other.as_fd())), (Ok(one), Ok(other)) if one == other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_whole_words() {
        let text = "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n";
        assert_eq!(value(text, "oom_kill"), Some(3));
        assert_eq!(value(text, "oom"), None);
    }
}
