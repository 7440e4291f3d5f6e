//! PID 1 of an environment as the host sees it: found, signalled, waited for, without ever touching another process.
//!
//! A pid alone proves nothing, since pids are used again. A process is taken for PID 1 of a life only if it is the
//! first of a pid namespace and has what nothing else can have ([`Proof`]); the descriptor that is signalled was opened
//! before that was checked, so it is the same process.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{CWD, Mode, OFlags, fstat, openat};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::spec::VOLUME;

/// By what PID 1 of a life is known from outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Proof {
    /// It is in the cgroup of this name, or below it.
    Cgroup(String),
    /// This folder is mounted in it at [`VOLUME`], or is open in it, as it is in gVisor's: for one without cgroups of its
    /// own.
    Volume(PathBuf),
}

/// A living PID 1.
#[derive(Debug)]
pub(super) struct FirstProcess {
    pid: Pid,
    descriptor: OwnedFd,
}

impl FirstProcess {
    /// The PID 1 that the OCI runtime wrote into `pid_file`, if it is alive and the one that is meant.
    pub(super) fn find(pid_file: &Path, proof: &Proof) -> io::Result<Option<Self>> {
        let Some(pid) = read_pid(pid_file)? else {
            return Ok(None);
        };
        let descriptor = match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(descriptor) => descriptor,
            Err(rustix::io::Errno::SRCH | rustix::io::Errno::INVAL) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let folder = format!("/proc/{}", pid.as_raw_nonzero());
        let Ok(status) = fs::read_to_string(format!("{folder}/status")) else {
            return Ok(None);
        };
        let process = Self { pid, descriptor };
        let alive =
            is_first(&status) && proof.holds(&folder) && !process.wait(Some(Duration::ZERO))?;
        Ok(alive.then_some(process))
    }

    /// Its user namespace, open; nothing if it ended meanwhile.
    pub(super) fn user_namespace(&self) -> io::Result<Option<OwnedFd>> {
        self.namespace("user")
    }

    /// Its network namespace, open; nothing if it ended meanwhile.
    pub(super) fn network(&self) -> io::Result<Option<OwnedFd>> {
        self.namespace("net")
    }

    /// What it holds of a file that is known by its device and inode, not touched by that; nothing if it does not hold it,
    /// or ended meanwhile.
    pub(super) fn held(&self, file: (u64, u64)) -> io::Result<Option<OwnedFd>> {
        match number_of(&format!("/proc/{}", self.pid.as_raw_nonzero()), file) {
            Some(number) => self.open(&format!("fd/{number}"), OFlags::PATH),
            None => Ok(None),
        }
    }

    fn namespace(&self, kind: &str) -> io::Result<Option<OwnedFd>> {
        self.open(&format!("ns/{kind}"), OFlags::RDONLY)
    }

    fn open(&self, below: &str, flags: OFlags) -> io::Result<Option<OwnedFd>> {
        let path = format!("/proc/{}/{below}", self.pid.as_raw_nonzero());
        let opened = openat(CWD, path, flags | OFlags::CLOEXEC, Mode::empty());
        // Now it is known whose the number was when the file was opened.
        if self.wait(Some(Duration::ZERO))? {
            return Ok(None);
        }
        Ok(Some(opened?))
    }

    /// Sends a signal. One that has ended meanwhile is no error.
    pub(super) fn signal(&self, signal: Signal) -> io::Result<()> {
        send(&self.descriptor, signal)
    }

    /// Waits until it has ended, and with it every process of its namespace; false if `limit` passed before that.
    pub(super) fn wait(&self, limit: Option<Duration>) -> io::Result<bool> {
        ended(&self.descriptor, limit)
    }
}

impl Proof {
    /// Whether it holds for the process of this folder of `/proc`.
    fn holds(&self, process: &str) -> bool {
        match self {
            Self::Cgroup(name) => fs::read_to_string(format!("{process}/cgroup"))
                .is_ok_and(|cgroups| is_in(&cgroups, name)),
            Self::Volume(volume) => {
                is_mounted_in(process, volume).unwrap_or_default() || is_open_in(process, volume)
            }
        }
    }
}

/// Whether a process finds this folder at [`VOLUME`]. Its root is followed, nothing that it could have made is.
fn is_mounted_in(process: &str, volume: &Path) -> io::Result<bool> {
    let path = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = openat(CWD, format!("{process}/root"), path, Mode::empty())?;
    let inside = openat(
        root,
        VOLUME.trim_start_matches('/'),
        path | OFlags::NOFOLLOW,
        Mode::empty(),
    )?;
    let own = openat(CWD, volume, path | OFlags::NOFOLLOW, Mode::empty())?;
    let (inside, own) = (fstat(inside)?, fstat(own)?);
    Ok((inside.st_dev, inside.st_ino) == (own.st_dev, own.st_ino))
}

/// Whether a process has this folder open.
fn is_open_in(process: &str, volume: &Path) -> bool {
    fs::metadata(volume)
        .is_ok_and(|volume| number_of(process, (volume.dev(), volume.ino())).is_some())
}

/// The number under which the process of this folder of `/proc` has a file open that is known by its device and inode.
fn number_of(process: &str, file: (u64, u64)) -> Option<String> {
    let numbers = fs::read_dir(format!("{process}/fd")).ok()?;
    let number = numbers.flatten().find(|number| {
        fs::metadata(number.path()).is_ok_and(|found| (found.dev(), found.ino()) == file)
    })?;
    Some(number.file_name().to_string_lossy().into_owned())
}

fn send(process: &OwnedFd, signal: Signal) -> io::Result<()> {
    match pidfd_send_signal(process, signal) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// A pid as the kernel writes it; nothing where it is none.
fn pid_of(text: &str) -> Option<Pid> {
    text.trim()
        .parse()
        .ok()
        .filter(|pid| *pid > 0)
        .and_then(Pid::from_raw)
}

/// Kills a process if it is in this cgroup or below it.
pub(super) fn kill_member(pid: &str, cgroup: &str) -> io::Result<()> {
    let Some(pid) = pid_of(pid) else {
        return Ok(());
    };
    let Ok(descriptor) = pidfd_open(pid, PidfdFlags::empty()) else {
        return Ok(());
    };
    let cgroups = fs::read_to_string(format!("/proc/{}/cgroup", pid.as_raw_nonzero()));
    if cgroups.is_ok_and(|cgroups| is_in(&cgroups, cgroup)) {
        send(&descriptor, Signal::KILL)?;
    }
    Ok(())
}

/// Waits for the end of the process of a descriptor; false if `limit` passed before that.
pub(super) fn ended(descriptor: &OwnedFd, limit: Option<Duration>) -> io::Result<bool> {
    let until = limit.map(|limit| Instant::now() + limit);
    loop {
        let left = until.map(|until| until.saturating_duration_since(Instant::now()));
        let timeout = left.map(|left| Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(left.subsec_nanos()),
        });
        match poll(
            &mut [PollFd::new(descriptor, PollFlags::IN)],
            timeout.as_ref(),
        ) {
            Ok(0) => return Ok(false),
            Ok(_) => return Ok(true),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn read_pid(path: &Path) -> io::Result<Option<Pid>> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(pid_of(&text)),
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
            ) =>
        {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Whether `/proc/PID/status` is of the first process of a namespace below ours, and of no zombie.
fn is_first(status: &str) -> bool {
    let field = |name: &str| {
        status
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .unwrap_or_default()
    };
    let mut pids = field("NSpid:").split_whitespace().rev();
    let dead = field("State:").trim_start().starts_with(['Z', 'X']);
    pids.next() == Some("1") && pids.next().is_some() && !dead
}

/// Whether `/proc/PID/cgroup` is of a process in the cgroup of that name, or below it.
fn is_in(cgroups: &str, name: &str) -> bool {
    cgroups
        .lines()
        .filter_map(|line| line.splitn(3, ':').nth(2))
        .any(|path| path.split('/').any(|part| part == name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::oci::files;

    #[test]
    fn pid_1_is_known_by_its_namespace_and_its_cgroup() {
        assert!(is_first("Name:\tx\nState:\tS (sleeping)\nNSpid:\t123\t1\n"));
        assert!(!is_first("State:\tS (sleeping)\nNSpid:\t123\t2\n"));
        assert!(!is_first("State:\tZ (zombie)\nNSpid:\t123\t1\n"));
        assert!(!is_first("State:\tS (sleeping)\nNSpid:\t1\n"));
        let cgroups = "8:pids:/environment-manager-a-b\n0::/environment-manager-a-b/job\n";
        assert!(is_in(cgroups, "environment-manager-a-b"));
        assert!(!is_in(cgroups, "environment-manager-a"));
        assert!(!is_in("0::/\n", "environment-manager-a-b"));
    }

    #[test]
    fn another_process_is_never_taken_for_pid_1() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("pid");
        for proof in [
            Proof::Cgroup("environment-manager-a-b".to_owned()),
            Proof::Volume(folder.path().to_owned()),
        ] {
            files::absent(fs::remove_file(&file)).expect("removed");
            let find = || FirstProcess::find(&file, &proof).expect("a look");
            assert!(find().is_none());
            for text in [std::process::id().to_string().as_str(), "1", "", "-4", "x"] {
                fs::write(&file, text).expect("written");
                assert!(find().is_none(), "{text:?}");
            }
        }
    }
}
