//! The operations on this machine, one after the other, blocking.
//!
//! Every operation on a life holds the life's lock and begins by looking at what is there, so each can be cut off at any
//! point and asked for again:
//!
//! ```text
//!  create  .making-… ──rename──▶ UID ──▶ container        begun anew while it is .making-…, else continued
//!  stop    TERM, KILL, container forgotten, cgroups gone  each step is nothing where it was done before
//!  delete  stop, UID ──rename──▶ .deleting-… ──▶ nothing  continued while there is a .deleting-…
//! ```
//!
//! A kill does not wait for the lock, since who holds it may be waiting for that very process.

use std::fs;
use std::io;
use std::os::unix::fs::chown;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use shared::clock::Clock;
use shared::environment::{Egress, EnvironmentSpec, Reason};
use shared::ids::{EnvironmentUid, InstanceId};
use shared::ports::{Placement, RuntimeError, Sight, Started};

use super::cgroup::{Cgroups, Delegated};
use super::fault::{failed, unavailable};
use super::launch::{Launch, STAGE, launch};
use super::layout::{Home, Layout};
use super::lock::Lock;
use super::process::FirstProcess;
use super::program::Program;
use super::ranges::Ranges;
use super::record::Record;
use super::remove::remove_tree;
use super::settings::OciSettings;
use super::skeleton::Skeleton;
use super::spec::{Container, LISTEN_FD, USER};
use super::{files, socket};

/// How long a killed PID 1 may take to be gone with all its processes.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often PID 1 is asked to end.
const ASK_AGAIN: Duration = Duration::from_millis(100);
/// The only image there is here.
const HOST_IMAGE: &str = "host";

/// This machine, as a place for environments.
pub(super) struct Host {
    pub(super) layout: Layout,
    pub(super) program: Program,
    pub(super) cgroups: Cgroups,
    pub(super) clock: Arc<dyn Clock>,
    ranges: Ranges,
    skeleton: Skeleton,
    runner: PathBuf,
}

impl Host {
    /// Makes the folders, the image and the runner's file, where they are not there yet.
    pub(super) fn open(
        settings: &OciSettings,
        instance: InstanceId,
        clock: Arc<dyn Clock>,
    ) -> io::Result<Self> {
        files::folder(&settings.folder, 0o700)?;
        let folder = fs::canonicalize(&settings.folder)?;
        if folder.to_str().is_none() {
            return Err(io::Error::other("its path is not UTF-8"));
        }
        let layout = Layout::new(folder, instance.clone());
        for own in [layout.locks(), layout.ranges(), layout.runtime_state()] {
            files::folder(&own, 0o700)?;
        }
        for shared in [layout.programs(), layout.images()] {
            files::folder(&shared, 0o755)?;
        }
        let runner = layout.programs().join(settings.runner.file_name());
        if !fs::read(&runner).is_ok_and(|there| there == settings.runner.bytes()) {
            files::write_whole(&runner, settings.runner.bytes(), 0o555)?;
        }
        Ok(Self {
            program: Program::new(settings.binary.clone(), layout.runtime_state()),
            cgroups: Cgroups::mounted()?,
            ranges: Ranges::new(layout.ranges(), layout.locks(), instance),
            skeleton: Skeleton::ready(&layout.images(), &layout.locks())?,
            layout,
            clock,
            runner,
        })
    }

    pub(super) fn create(&self, placement: &Placement) -> Result<Started, RuntimeError> {
        refuse_what_cannot_be_had(&placement.spec)?;
        self.locked(&placement.uid, |lock| {
            let record = match self.own(&placement.uid)? {
                Some(record) => record,
                None => self.make(placement)?,
            };
            make_folders(&self.layout.home(&placement.uid), &record)
                .map_err(unavailable("the volume cannot be made"))?;
            self.run(placement, &record, lock)
        })
    }

    pub(super) fn start(&self, placement: &Placement) -> Result<Started, RuntimeError> {
        refuse_what_cannot_be_had(&placement.spec)?;
        self.locked(&placement.uid, |lock| {
            let record = self
                .own(&placement.uid)?
                .ok_or(RuntimeError::VolumeMissing)?;
            if !self.layout.home(&placement.uid).volume().is_dir() {
                return Err(RuntimeError::VolumeMissing);
            }
            self.run(placement, &record, lock)
        })
    }

    pub(super) fn stop(&self, uid: &EnvironmentUid, grace: Duration) -> Result<(), RuntimeError> {
        self.locked(uid, |_| {
            if self.own(uid)?.is_none() {
                return Ok(());
            }
            if let Some(first) = self.first(uid)? {
                fs::write(self.layout.home(uid).ending(), "")
                    .and_then(|()| ask_to_end(&first, grace))
                    .map_err(unavailable("PID 1 cannot be stopped"))?;
            }
            self.clear(uid)
        })
    }

    pub(super) fn kill(&self, uid: &EnvironmentUid) -> Result<(), RuntimeError> {
        if self.own(uid)?.is_none() {
            return Ok(());
        }
        self.end(uid)?;
        self.locked(uid, |_| self.clear_own(uid))
    }

    pub(super) fn delete(&self, uid: &EnvironmentUid) -> Result<(), RuntimeError> {
        if self.own(uid)?.is_some() {
            self.end(uid)?;
        }
        self.locked(uid, |_| {
            self.clear_own(uid)?;
            self.discard(uid)
                .map_err(unavailable("the environment cannot be removed"))
        })
    }

    pub(super) fn inspect(&self, uid: &EnvironmentUid) -> Result<Sight, RuntimeError> {
        if self.own(uid)?.is_none() {
            return Ok(Sight::Absent);
        }
        if self.first(uid)?.is_some() {
            return Ok(Sight::Alive);
        }
        // A container that was ended on purpose has been forgotten; this one has not.
        let home = self.layout.home(uid);
        let ended_by_itself = home.pid_file().exists() && !home.ending().exists();
        let reason = ended_by_itself.then(|| {
            if self.cgroups.out_of_memory_kills(&self.layout.cgroup(uid)) > 0 {
                Reason::new("oom_killed", "the environment ran out of memory")
            } else {
                Reason::new("exited", "the environment's PID 1 ended by itself")
            }
        });
        Ok(Sight::Stopped { reason })
    }

    /// The record of a life of this instance.
    pub(super) fn own(&self, uid: &EnvironmentUid) -> Result<Option<Record>, RuntimeError> {
        let record = Record::read(&self.layout.home(uid))
            .map_err(unavailable("the environment's record cannot be read"))?;
        Ok(record.filter(|record| &record.instance == self.layout.instance()))
    }

    /// The life's PID 1, if it is alive.
    pub(super) fn first(&self, uid: &EnvironmentUid) -> Result<Option<FirstProcess>, RuntimeError> {
        let pid_file = self.layout.home(uid).pid_file();
        FirstProcess::find(&pid_file, &self.layout.cgroup(uid))
            .map_err(unavailable("PID 1 cannot be looked at"))
    }

    /// Does something while nobody else does anything to the life.
    fn locked<T>(
        &self,
        uid: &EnvironmentUid,
        work: impl FnOnce(&Lock) -> Result<T, RuntimeError>,
    ) -> Result<T, RuntimeError> {
        let lock = Lock::take(&self.layout.locks(), uid.as_str())
            .map_err(unavailable("the environment cannot be locked"))?;
        let done = work(&lock);
        if !self.layout.home(uid).folder().exists() {
            lock.retire()
                .map_err(unavailable("the environment's lock cannot be removed"))?;
        }
        done
    }

    /// Makes the folder of a new life: all of it or nothing.
    fn make(&self, placement: &Placement) -> Result<Record, RuntimeError> {
        let (home, making) = (
            self.layout.home(&placement.uid),
            self.layout.making(&placement.uid),
        );
        if fs::symlink_metadata(home.folder()).is_ok() {
            return Err(failed(
                "uid_taken",
                format!("{} is not of this instance", placement.uid),
            ));
        }
        let made = (|| {
            remove_tree(making.folder())?;
            let record = Record {
                instance: self.layout.instance().clone(),
                tenant: placement.tenant.clone(),
                environment: placement.environment.clone(),
                uid: placement.uid.clone(),
                first_host_id: self.ranges.take(&placement.uid)?,
                created_at: self.clock.now(),
            };
            files::folder(making.folder(), 0o700)?;
            make_folders(&making, &record)?;
            record.write(&making)?;
            fs::rename(making.folder(), home.folder())?;
            Ok(record)
        })();
        made.map_err(unavailable::<io::Error>(
            "the environment's folder cannot be made",
        ))
    }

    /// Starts the container, unless it is alive and was not asked to end by a stop that did not come to its own end.
    fn run(
        &self,
        placement: &Placement,
        record: &Record,
        lock: &Lock,
    ) -> Result<Started, RuntimeError> {
        let started = Started {
            container: Layout::container(&placement.uid),
            limits_not_enforced: vec!["storage".to_owned()],
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

    /// Makes all that the OCI runtime needs to start the container.
    fn prepare(&self, placement: &Placement, record: &Record, lock: &Lock) -> io::Result<Launch> {
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
            skeleton: &self.skeleton,
            root: STAGE.as_ref(),
            runner: &self.runner,
            volume: &home.volume(),
            state: &home.runner_state(),
            cgroup: &cgroup,
            cgroup_fd,
            memory_fd,
        };
        let config = serde_json::to_vec(&config.config())?;
        fs::write(home.bundle().join("config.json"), config)?;
        Ok(Launch {
            container: Layout::container(&placement.uid),
            bundle: home.bundle(),
            pid_file: home.pid_file(),
            log: home.log(),
            root: self.skeleton.root.clone(),
            inherited,
            lock: lock.share()?,
        })
    }

    /// Kills PID 1, and returns when it is gone with all its processes.
    fn end(&self, uid: &EnvironmentUid) -> Result<(), RuntimeError> {
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

    fn clear_own(&self, uid: &EnvironmentUid) -> Result<(), RuntimeError> {
        match self.own(uid)? {
            Some(_) => self.clear(uid),
            None => Ok(()),
        }
    }

    /// Ends the container and removes all of it but the life's folder.
    fn clear(&self, uid: &EnvironmentUid) -> Result<(), RuntimeError> {
        self.end(uid)?;
        let home = self.layout.home(uid);
        self.program
            .delete(&Layout::container(uid))
            .and_then(|()| self.cgroups.remove(&self.layout.cgroup(uid)))
            .and_then(|()| files::absent(fs::remove_file(home.pid_file())))
            .and_then(|()| files::absent(fs::remove_file(home.ending())))
            .and_then(|()| socket::remove(home.folder()))
            .map_err(unavailable("the container cannot be removed"))
    }

    /// Removes the life's folder, or what earlier attempts have left of it, and gives its uids back.
    fn discard(&self, uid: &EnvironmentUid) -> io::Result<()> {
        let deleting = self.layout.deleting(uid);
        remove_tree(&deleting)?;
        if matches!(self.own(uid), Ok(Some(_))) {
            fs::rename(self.layout.home(uid).folder(), &deleting)?;
        }
        remove_tree(&deleting)?;
        remove_tree(self.layout.making(uid).folder())?;
        self.ranges.give_back(uid)
    }
}

/// The folders of a life, where they are not there.
fn make_folders(home: &Home, record: &Record) -> io::Result<()> {
    let user = record.first_host_id + USER;
    for (folder, mode, owner) in [
        (home.volume(), 0o750, Some(user)),
        (home.runner_state(), 0o700, Some(record.first_host_id)),
        (home.bundle(), 0o700, None),
    ] {
        if !folder.is_dir() {
            files::folder(&folder, mode)?;
            chown(&folder, owner, owner)?;
        }
    }
    Ok(())
}

/// Asks PID 1 to end, and waits until it has or the grace is over. It is asked again and again, since the kernel drops a
/// TERM that comes before a PID 1 has said what it does about it.
fn ask_to_end(first: &FirstProcess, grace: Duration) -> io::Result<()> {
    let begun = Instant::now();
    loop {
        first.signal(Signal::TERM)?;
        let left = grace.saturating_sub(begun.elapsed());
        if first.wait(Some(left.min(ASK_AGAIN)))? || left.is_zero() {
            return Ok(());
        }
    }
}

fn refuse_what_cannot_be_had(spec: &EnvironmentSpec) -> Result<(), RuntimeError> {
    if spec.image != HOST_IMAGE {
        return Err(RuntimeError::ImageNotFound {
            image: spec.image.clone(),
            why: format!(
                "only the image `{HOST_IMAGE}`, this machine's own programs, can be had here"
            ),
        });
    }
    if spec.egress != Egress::None {
        return Err(RuntimeError::Unsupported(
            "this runtime gives environments no network: ask for egress `none`".to_owned(),
        ));
    }
    Ok(())
}
