//! How the cgroup of a life is divided between PID 1 and the commands, and what PID 1 gets of it.
//!
//! A hierarchy of version 1 takes limits at any time, so they are there before the first process is. The unified one
//! gives its controllers to children only of a cgroup that has no process itself: there the limits follow as soon as
//! PID 1 has moved into its own part, which is the first thing that it does.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::Errno;
use rustix::mount::{OpenTreeFlags, open_tree};

use super::super::limits::{Limits, PERIOD};
use super::{COMMANDS, Cgroups, INIT};

/// Child cgroups that PID 1 may make.
const MOST_CHILDREN: &str = "4096";
/// How deep they may be.
const DEEPEST: &str = "1";
/// How long PID 1 may take to move into its part.
const PATIENCE: Duration = Duration::from_secs(20);
/// How often it is looked whether it has.
const LOOK_AGAIN: Duration = Duration::from_millis(1);

/// What PID 1 gets of its own cgroups.
#[derive(Debug, Default)]
pub(in super::super) struct Delegated {
    /// The commands' folder of the unified hierarchy.
    pub(in super::super) unified: Option<OwnedFd>,
    /// The commands' folder of the hierarchy that counts memory.
    pub(in super::super) memory: Option<OwnedFd>,
    /// The commands' folder of the hierarchy that counts processor time.
    pub(in super::super) cpu: Option<OwnedFd>,
    /// `cgroup.procs` of PID 1's own part of each hierarchy.
    pub(in super::super) own: Vec<OwnedFd>,
    /// `cgroup.procs` of the commands' part of each hierarchy that has no child for each job.
    pub(in super::super) commands: Vec<OwnedFd>,
}

impl Cgroups {
    /// Makes the parts, with their limits as far as the hierarchies take them now, and hands them to `owner`, the host
    /// uid and gid of root inside.
    pub(in super::super) fn delegate(
        &self,
        name: &str,
        owner: u32,
        limits: Limits,
    ) -> io::Result<Delegated> {
        let mut delegated = Delegated::default();
        for mount in self.divided() {
            let top = mount.join(name);
            let (own, commands) = (top.join(INIT), top.join(COMMANDS));
            fs::create_dir_all(&own)?;
            fs::create_dir_all(&commands)?;
            delegated.own.push(procs(&own)?);
            if self.unified.as_deref() == Some(mount) {
                delegated.unified = Some(hand_over_tree(&top, owner)?);
                continue;
            }
            limit_v1(&commands, limits)?;
            let is = |hierarchy: &Option<PathBuf>| hierarchy.as_deref() == Some(mount);
            let (memory, cpu) = (is(&self.memory), is(&self.cpu));
            if memory || cpu {
                hand_over(&commands, owner, &["cgroup.procs", "tasks"])?;
            } else {
                delegated.commands.push(procs(&commands)?);
            }
            if memory {
                delegated.memory = Some(detached(&commands)?);
            }
            if cpu {
                delegated.cpu = Some(detached(&commands)?);
            }
        }
        // What no hierarchy of version 1 counts, the unified one does, if its controllers are there.
        let unified = delegated.unified.as_ref();
        if delegated.memory.is_none() {
            delegated.memory = unified.map(OwnedFd::try_clone).transpose()?;
        }
        if delegated.cpu.is_none() {
            delegated.cpu = unified.map(OwnedFd::try_clone).transpose()?;
        }
        Ok(delegated)
    }

    /// Sets the limits that the unified hierarchy takes only once PID 1 has moved into its part. Where no controller is
    /// in that hierarchy there is nothing to do; where it was done before nothing changes.
    pub(in super::super) fn enforce(&self, name: &str, limits: Limits) -> io::Result<()> {
        let Some(top) = self.unified.as_ref().map(|mount| mount.join(name)) else {
            return Ok(());
        };
        let there = fs::read_to_string(top.join("cgroup.controllers")).unwrap_or_default();
        let has = |wanted: &str| there.split_whitespace().any(|found| found == wanted);
        let commands = top.join(COMMANDS);
        let quota = format!("{} {PERIOD}", limits.quota);
        let (memory, pids) = (limits.memory.to_string(), limits.pids.to_string());
        for (controller, file, value) in [
            ("cpu", "cpu.max", quota.as_str()),
            ("memory", "memory.max", &memory),
            ("memory", "memory.swap.max", "0"),
            ("pids", "pids.max", &pids),
        ] {
            if has(controller) {
                switch_on(&top, controller)?;
                write_if_there(&commands.join(file), value)?;
            }
        }
        // Of the jobs: the kills for memory are told apart, the processor time is shared between them.
        for controller in ["memory", "cpu"] {
            if has(controller) {
                switch_on(&commands, controller)?;
            }
        }
        Ok(())
    }
}

/// Sets what of the limits this folder of version 1 knows.
fn limit_v1(folder: &Path, limits: Limits) -> io::Result<()> {
    for (file, value) in [
        ("memory.limit_in_bytes", limits.memory),
        // Memory and swap together: so there is no swap.
        ("memory.memsw.limit_in_bytes", limits.memory),
        ("pids.max", limits.pids),
        ("cpu.cfs_period_us", PERIOD),
        ("cpu.cfs_quota_us", limits.quota),
    ] {
        write_if_there(&folder.join(file), &value.to_string())?;
    }
    Ok(())
}

/// Gives a controller to the children of a folder, as soon as no process is in it.
fn switch_on(folder: &Path, controller: &str) -> io::Result<()> {
    let until = Instant::now() + PATIENCE;
    loop {
        let switched = fs::write(
            folder.join("cgroup.subtree_control"),
            format!("+{controller}"),
        );
        match switched {
            Err(error)
                if error.raw_os_error() == Some(Errno::BUSY.raw_os_error())
                    && Instant::now() < until =>
            {
                sleep(LOOK_AGAIN);
            }
            other => return other,
        }
    }
}

fn write_if_there(file: &Path, value: &str) -> io::Result<()> {
    if file.exists() {
        fs::write(file, value)?;
    }
    Ok(())
}

/// Hands over the commands' folder of the unified hierarchy. Above it only the right to move between the two parts is
/// given, which the kernel asks for where they meet.
fn hand_over_tree(top: &Path, owner: u32) -> io::Result<OwnedFd> {
    let commands = top.join(COMMANDS);
    chown(top.join("cgroup.procs"), Some(owner), Some(owner))?;
    let files = ["cgroup.procs", "cgroup.threads", "cgroup.subtree_control"];
    hand_over(&commands, owner, &files)?;
    fs::write(commands.join("cgroup.max.descendants"), MOST_CHILDREN)?;
    fs::write(commands.join("cgroup.max.depth"), DEEPEST)?;
    detached(&commands)
}

/// Gives the folder with some of its files to another owner.
fn hand_over(folder: &Path, owner: u32, names: &[&str]) -> io::Result<()> {
    chown(folder, Some(owner), Some(owner))?;
    for name in names {
        chown(folder.join(name), Some(owner), Some(owner))?;
    }
    Ok(())
}

/// The file that moves in who writes to it.
fn procs(folder: &Path) -> io::Result<OwnedFd> {
    let file = fs::OpenOptions::new()
        .write(true)
        .open(folder.join("cgroup.procs"))?;
    Ok(file.into())
}

/// Opens a folder of which nothing above can be reached.
fn detached(folder: &Path) -> io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let mount = open_tree(CWD, folder, flags)?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(openat(&mount, ".", flags, Mode::empty())?)
}

#[cfg(test)]
mod tests {
    use rustix::fs::fstat;

    use super::*;

    #[test]
    fn nothing_above_a_delegated_folder_can_be_reached() {
        let cgroups = Cgroups::mounted().expect("hierarchies");
        let name = format!("environment-manager-test-{}", std::process::id());
        let limits = Limits {
            memory: 64 << 20,
            pids: 100,
            quota: 50_000,
        };
        let delegated = cgroups.delegate(&name, 1 << 20, limits).expect("delegated");
        let folders = [delegated.unified, delegated.memory, delegated.cpu];
        let folders = folders.into_iter().flatten();
        let mut count = 0;
        for folder in folders {
            let flags = OFlags::PATH | OFlags::DIRECTORY;
            let above = openat(&folder, "../../../../..", flags, Mode::empty()).expect("a folder");
            let (above, own) = (
                fstat(&above).expect("there"),
                fstat(&folder).expect("there"),
            );
            assert_eq!((above.st_dev, above.st_ino), (own.st_dev, own.st_ino));
            assert_eq!((own.st_uid, own.st_gid), (1 << 20, 1 << 20));
            count += 1;
        }
        assert!(count > 0);
        cgroups.remove(&name).expect("removed");
        cgroups.remove(&name).expect("twice is no error");
        assert!(cgroups.all.iter().all(|mount| !mount.join(&name).exists()));
    }
}
