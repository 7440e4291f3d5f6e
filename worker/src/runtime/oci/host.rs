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
//! A create first looks for what fits among the environments that are held ready: see warm.rs.
//!
//! A kill does not wait for the lock, since who holds it may be waiting for that very process.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use shared::clock::Clock;
use shared::config::NetworkSettings;
use shared::environment::{Egress, EnvironmentSpec, Reason};
use shared::ids::{EnvironmentUid, InstanceId};
use shared::ports::{Placement, RuntimeError, Sight, Started};

use super::cgroup::Cgroups;
use super::checks::{self, Check};
use super::container::{ask_to_end, boot};
use super::fault::unavailable;
use super::files;
use super::image::Images;
use super::layout::{Home, Layout};
use super::life::{Life, make_folders};
use super::lock::Lock;
use super::network;
use super::process::{FirstProcess, Proof};
use super::program::Program;
use super::ranges::Ranges;
use super::record::Record;
use super::settings::OciSettings;
use super::skeleton::Skeletons;
use super::standing::Standing;
use crate::runtime::pauses::Pauses;

/// This machine, as a place for environments.
pub(super) struct Host {
    pub(super) standing: Standing,
    pub(super) layout: Layout,
    pub(super) program: Program,
    pub(super) cgroups: Cgroups,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) ranges: Ranges,
    pub(super) skeletons: Skeletons,
    pub(super) images: Images,
    pub(super) pauses: Pauses,
    /// Of what is held ready, what was silent when it was needed.
    pub(super) doubted: Mutex<HashSet<EnvironmentUid>>,
    pub(super) network: NetworkSettings,
    pub(super) runner: PathBuf,
}

impl Host {
    /// Makes the folders and the runner's file, where they are not there yet, and begins with the image.
    pub(super) fn open(
        settings: &OciSettings,
        instance: InstanceId,
        clock: Arc<dyn Clock>,
    ) -> io::Result<Self> {
        let standing = Standing::of_this_process()?;
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
            program: Program::new(settings.binary.clone(), layout.runtime_state(), standing),
            cgroups: Cgroups::of(standing)?,
            ranges: Ranges::new(layout.ranges(), layout.locks(), instance, standing.ids()),
            standing,
            skeletons: Skeletons::begin(layout.images(), layout.locks())?,
            images: Images::open(layout.data(), settings.images.clone(), Arc::clone(&clock))?,
            pauses: Pauses::default(),
            doubted: Mutex::default(),
            network: settings.network.clone(),
            layout,
            clock,
            runner,
        })
    }

    /// What this machine has of what containers need.
    pub(super) fn checks(&self) -> Vec<Check> {
        checks::of_the_machine(self.standing, &self.program, &self.cgroups)
    }

    pub(super) fn create(&self, placement: &Placement) -> Result<Started, RuntimeError> {
        refuse_what_cannot_be_had(&placement.spec)?;
        self.locked(&placement.uid, |lock| {
            let life = match self.own(&placement.uid)? {
                Some(life) => self.settle(life, placement)?,
                None => match self.take(placement)? {
                    Some(taken) => taken,
                    None => self.make_on_image(placement)?,
                },
            };
            make_folders(&life.home, &life.record)
                .map_err(unavailable("the volume cannot be made"))?;
            self.run(&life, &placement.spec, lock)
        })
    }

    pub(super) fn start(&self, placement: &Placement) -> Result<Started, RuntimeError> {
        refuse_what_cannot_be_had(&placement.spec)?;
        self.locked(&placement.uid, |lock| {
            let life = self
                .own(&placement.uid)?
                .ok_or(RuntimeError::VolumeMissing)?;
            if !life.home.volume().is_dir() {
                return Err(RuntimeError::VolumeMissing);
            }
            let life = self.settle(life, placement)?;
            self.run(&life, &placement.spec, lock)
        })
    }

    pub(super) fn stop(&self, uid: &EnvironmentUid, grace: Duration) -> Result<(), RuntimeError> {
        self.locked(uid, |_| {
            let Some(life) = self.own(uid)? else {
                return Ok(());
            };
            if let Some(first) = self.first(&life)? {
                fs::write(life.home.ending(), "")
                    .and_then(|()| ask_to_end(&first, grace))
                    .map_err(unavailable("PID 1 cannot be stopped"))?;
            }
            self.clear(&life)
        })
    }

    /// Where a container is named, it is the only one that is killed.
    pub(super) fn kill(
        &self,
        uid: &EnvironmentUid,
        container: Option<&str>,
    ) -> Result<(), RuntimeError> {
        let Some(life) = self.own(uid)? else {
            return Ok(());
        };
        if container.is_some_and(|container| container != life.record.container()) {
            return Ok(());
        }
        self.end(&life)?;
        self.locked(uid, |_| self.clear_own(uid))
    }

    pub(super) fn delete(&self, uid: &EnvironmentUid) -> Result<(), RuntimeError> {
        if let Some(life) = self.own(uid)? {
            self.end(&life)?;
        }
        self.locked(uid, |_| {
            self.clear_own(uid)?;
            self.discard(uid)
                .map_err(unavailable("the environment cannot be removed"))
        })
    }

    pub(super) fn inspect(&self, uid: &EnvironmentUid) -> Result<Sight, RuntimeError> {
        let Some(life) = self.own(uid)? else {
            return Ok(Sight::Absent);
        };
        if self.first(&life)?.is_some() {
            return Ok(Sight::Alive);
        }
        // A container that was ended on purpose has been forgotten; this one has not.
        let Life { home, record } = life;
        let ended_by_itself = home.pid_file().exists() && !home.ending().exists();
        let reason = ended_by_itself.then(|| {
            if is_of_another_start(&home) {
                Reason::new(
                    "machine_restarted",
                    "the machine was started anew; the volume is there: start the environment again",
                )
            } else if self.cgroups.out_of_memory_kills(&record.cgroup()) > 0 {
                Reason::new("oom_killed", "the environment ran out of memory")
            } else {
                Reason::new("exited", "the environment's PID 1 ended by itself")
            }
        });
        Ok(Sight::Stopped { reason })
    }

    /// A life, if it is of this instance.
    pub(super) fn own(&self, uid: &EnvironmentUid) -> Result<Option<Life>, RuntimeError> {
        self.life_at(self.layout.home(uid))
    }

    /// What is in this folder, if it is whole and of this instance.
    pub(super) fn life_at(&self, home: Home) -> Result<Option<Life>, RuntimeError> {
        let record =
            Record::read(&home).map_err(unavailable("the environment's record cannot be read"))?;
        let own = record.filter(|record| &record.instance == self.layout.instance());
        Ok(own.map(|record| Life { home, record }))
    }

    /// The life's PID 1, if it is alive.
    pub(super) fn first(&self, life: &Life) -> Result<Option<FirstProcess>, RuntimeError> {
        let pid_file = life.home.pid_file();
        let proof = if self.standing.is_namespace() {
            Proof::Volume(life.home.volume())
        } else {
            Proof::Cgroup(life.record.cgroup())
        };
        FirstProcess::find(&pid_file, &proof).map_err(unavailable("PID 1 cannot be looked at"))
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
}

/// Whether the machine was started anew since the container was.
pub(super) fn is_of_another_start(home: &Home) -> bool {
    match (fs::read_to_string(home.boot()), boot()) {
        (Ok(then), Ok(now)) => then != now,
        _ => false,
    }
}

fn refuse_what_cannot_be_had(spec: &EnvironmentSpec) -> Result<(), RuntimeError> {
    match spec.egress {
        Egress::None => Ok(()),
        Egress::Internet => match network::lacking() {
            None => Ok(()),
            Some((says, mend)) => Err(RuntimeError::Unsupported(format!("{says}: {mend}"))),
        },
        Egress::Cluster => Err(RuntimeError::Unsupported(
            "there is no cluster here: ask for egress `none` or `internet`".to_owned(),
        )),
    }
}
