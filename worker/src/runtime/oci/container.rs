//! The container of a life: made, started, ended, cleared away.

use std::fs;
use std::io;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use shared::ids::EnvironmentUid;
use shared::ports::{Placement, RuntimeError, Started};

use super::cgroup::Delegated;
use super::fault::unavailable;
use super::host::Host;
use super::launch::{Launch, STAGE, launch};
use super::layout::Layout;
use super::lock::Lock;
use super::process::FirstProcess;
use super::record::Record;
use super::spec::{Container, LISTEN_FD};
use super::{files, socket};

/// How long a killed PID 1 may take to be gone with all its processes.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often PID 1 is asked to end.
const ASK_AGAIN: Duration = Duration::from_millis(100);

impl Host {
    /// Starts the container, unless it is alive and was not asked to end by a stop that did not come to its own end.
    pub(super) fn run(
        &self,
        placement: &Placement,
        record: &Record,
        lock: &Lock,
    ) -> Result<Started, RuntimeError> {
        let started = Started {
            place: None,
            container: Layout::container(&placement.uid),
            limits_not_enforced: self.not_enforced(),
        };
        let ending = self.layout.home(&placement.uid).ending().exists();
        if !ending && self.first(&placement.uid)?.is_some() {
            return Ok(started);
        }
        self.clear(&placement.uid)?;
        let prepared = self
            .prepare(placement, record, lock)
            .map_err(unavailable("the container cannot be prepared"))?;
        if let Err(error) = launch(&self.program, prepared) {
            self.clear(&placement.uid)?;
            return Err(error);
        }
        Ok(started)
    }

    /// What of a spec nothing holds an environment to. Without cgroups its processes are still counted, by an rlimit.
    fn not_enforced(&self) -> Vec<String> {
        let limits: &[&str] = if self.standing.is_namespace() {
            &["cpu", "memory", "storage"]
        } else {
            &["storage"]
        };
        limits.iter().map(|limit| (*limit).to_owned()).collect()
    }

    /// Makes all that the OCI runtime needs to start the container.
    fn prepare(&self, placement: &Placement, record: &Record, lock: &Lock) -> io::Result<Launch> {
        let skeleton = self.skeletons.get()?;
        let home = self.layout.home(&placement.uid);
        let cgroup = self.layout.cgroup(&placement.uid);
        let Delegated { unified, memory } = self.cgroups.delegate(&cgroup, record.first_host_id)?;
        let mut inherited = vec![socket::listen(home.folder())?];
        let mut inherit = |descriptor: Option<_>| {
            let number = (LISTEN_FD..).nth(inherited.len());
            inherited.push(descriptor?);
            number
        };
        let (cgroup_fd, memory_fd) = (inherit(unified), inherit(memory));
        let config = Container {
            record,
            resources: &placement.spec.resources,
            skeleton,
            root: STAGE.as_ref(),
            runner: &self.runner,
            volume: &home.volume(),
            state: &home.runner_state(),
            cgroup: (!self.standing.is_namespace()).then_some(cgroup.as_str()),
            cgroup_fd,
            memory_fd,
        };
        let config = serde_json::to_vec(&config.config())?;
        fs::write(home.bundle().join("config.json"), config)?;
        fs::write(home.boot(), boot()?)?;
        Ok(Launch {
            container: Layout::container(&placement.uid),
            bundle: home.bundle(),
            pid_file: home.pid_file(),
            log: home.log(),
            root: skeleton.root.clone(),
            inherited,
            lock: lock.share()?,
        })
    }

    /// Kills PID 1, and returns when it is gone with all its processes.
    pub(super) fn end(&self, uid: &EnvironmentUid) -> Result<(), RuntimeError> {
        let Some(first) = self.first(uid)? else {
            return Ok(());
        };
        let ended = first
            .signal(Signal::KILL)
            .and_then(|()| first.wait(Some(PATIENCE)))
            .map_err(unavailable("PID 1 cannot be killed"))?;
        if ended {
            Ok(())
        } else {
            Err(RuntimeError::Unavailable(
                "PID 1 was killed but has not ended yet".to_owned(),
            ))
        }
    }

    pub(super) fn clear_own(&self, uid: &EnvironmentUid) -> Result<(), RuntimeError> {
        match self.own(uid)? {
            Some(_) => self.clear(uid),
            None => Ok(()),
        }
    }

    /// Ends the container and removes all of it but the life's folder.
    pub(super) fn clear(&self, uid: &EnvironmentUid) -> Result<(), RuntimeError> {
        self.end(uid)?;
        let home = self.layout.home(uid);
        self.program
            .delete(&Layout::container(uid))
            .and_then(|()| self.cgroups.remove(&self.layout.cgroup(uid)))
            .and_then(|()| files::absent(fs::remove_file(home.pid_file())))
            .and_then(|()| files::absent(fs::remove_file(home.ending())))
            .and_then(|()| files::absent(fs::remove_file(home.boot())))
            .and_then(|()| socket::remove(home.folder()))
            .map_err(unavailable("the container cannot be removed"))
    }
}

/// Names this start of the machine.
pub(super) fn boot() -> io::Result<String> {
    fs::read_to_string("/proc/sys/kernel/random/boot_id")
}

/// Asks PID 1 to end, and waits until it has or the grace is over. It is asked again and again, since the kernel drops a
/// TERM that comes before a PID 1 has said what it does about it.
pub(super) fn ask_to_end(first: &FirstProcess, grace: Duration) -> io::Result<()> {
    let begun = Instant::now();
    loop {
        first.signal(Signal::TERM)?;
        let left = grace.saturating_sub(begun.elapsed());
        if first.wait(Some(left.min(ASK_AGAIN)))? || left.is_zero() {
            return Ok(());
        }
    }
}
