//! Environments that are held ready, so that a create has to wait for no start.
//!
//! ```text
//!   keep ──▶ .ready-INSTANCE-SHAPE-NAME, its container runs, nobody's
//!                                │
//!   create of the same shape ── rename ──▶ UID, the environment's
//!                                             └─ settle: its range of ids, its record
//! ```
//!
//! Invariants:
//! - A folder can be renamed once, so no two take the same: a worker that dies before the rename has taken nothing, one
//!   that dies after it has taken it for that very life. Whoever is asked for the life next finds it and settles the rest.
//! - Who makes or removes what is held ready holds the lock of its name, as does the OCI runtime while it starts the
//!   container: what is locked is left alone, and so is whatever a dead worker's OCI runtime is still busy with.
//! - None of them can fail a create: what cannot be taken, or does not answer, is thrown away, and the create makes its own.
//! - What does not stay, or does not answer, is made anew only after a pause, as what could not be made.
//! - Whatever could differ between two environments is in the shape, but for their variables, which come with each
//!   command. A service that starts containers in another way takes none of the old ones, and removes them.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::io;
use std::path::Path;
use std::sync::{MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::json;
use sha2::{Digest as _, Sha256};
use shared::environment::{Egress, EnvironmentSpec};
use shared::ids::EnvironmentUid;
use shared::ports::{Placement, RuntimeError, Warm};

use super::fault::unavailable;
use super::files;
use super::ground::Ground;
use super::host::{Host, is_of_another_start};
use super::layout::{Entry, Ready};
use super::life::Life;
use super::limits::Limits;
use super::lock::Lock;
use super::record::{LifeImage, Owner, Record};
use super::remove::remove_tree;
use super::socket;
use super::spec::Container;
use super::stage::STAGE;
use super::tree::Tree;
use crate::failpoint::failpoint;

/// Environments that one round makes at most, of each shape.
const MADE_AT_ONCE: usize = 10;

/// How long PID 1 of one that shall be taken may take to say anything. It has nothing else to do.
const ANSWER_TIME: Duration = Duration::from_secs(2);

/// How long it may take where there may be others: it takes less than a millisecond on a machine that is not busy.
const MOMENT: Duration = Duration::from_millis(20);

/// How many are given a moment in turn before all that are left are asked at once,
const ASKED_IN_TURN: usize = 4;

/// so many of them at most.
const ASKED_AT_ONCE: usize = 32;

/// What shall be ready of one shape.
struct Wanted<'a> {
    spec: &'a EnvironmentSpec,
    count: usize,
}

/// What became of an attempt to take one.
enum Attempt {
    /// It is the life's.
    Taken,
    /// It is alive and has said nothing yet.
    Silent,
    /// It is somebody else's, or not alive.
    Unfit,
}

/// What a round finds of one.
#[derive(Debug, PartialEq, Eq)]
enum Fate {
    /// It is ready, or somebody works on it.
    Stays,
    /// It is not there any more.
    Went,
    /// Nor is this one, which had been started and did not stay, or did not answer.
    Fell,
}

/// How a round went.
#[derive(Debug, Default)]
pub(super) struct Kept {
    /// Images that must be fetched before more can be made.
    pub(super) missing: Vec<String>,
    /// What could not be done, and why.
    pub(super) failures: Vec<String>,
}

impl Kept {
    /// What was done about something; what was not is noted.
    fn done<T>(&mut self, about: &str, done: Result<T, RuntimeError>) -> Option<T> {
        done.map_err(|error| self.failures.push(format!("{about}: {error}")))
            .ok()
    }
}

impl Host {
    /// Makes what is missing of what shall be ready, and removes what is too much or has ended. What cannot be done for one
    /// keeps nothing of the others from being done.
    pub(super) fn keep_ready(&self, wanted: &[Warm]) -> Result<Kept, RuntimeError> {
        let mut ready = self.all_ready()?;
        self.doubted()
            .retain(|name| ready.values().flatten().any(|ready| ready.name == *name));
        failpoint("warm_listed");
        let mut kept = Kept::default();
        let mut short = Vec::new();
        for (shape, Wanted { spec, count }) in self.by_shape(wanted, &mut kept) {
            let (mut here, mut fell) = (0, false);
            for found in ready.remove(&shape).unwrap_or_default() {
                let fate = kept.done(&spec.image, self.fate(&found, here < count));
                here += usize::from(fate == Some(Fate::Stays));
                fell |= fate == Some(Fate::Fell);
            }
            if fell {
                self.pause(&shape);
            }
            short.push((spec, shape, count.saturating_sub(here)));
        }
        for found in ready.values().flatten() {
            kept.done("what is not wanted", self.fate(found, false));
        }
        for (spec, shape, count) in short {
            if count > 0 && !self.is_paused(&shape) {
                let made =
                    (0..count.min(MADE_AT_ONCE)).try_for_each(|_| self.make_ready(spec, &shape));
                if made.is_err() {
                    self.pause(&shape);
                }
                kept.done(&spec.image, made);
            }
        }
        Ok(kept)
    }

    /// Lets nothing be made for a while of what has failed.
    fn pause(&self, what: &str) {
        self.pauses.failed(what, self.clock.monotonic());
    }

    fn is_paused(&self, what: &str) -> bool {
        self.pauses.is_paused(what, self.clock.monotonic())
    }

    /// One that is ready and of the placement's shape, now its life; none where none fits or can be had.
    pub(super) fn take(&self, placement: &Placement) -> Result<Option<Life>, RuntimeError> {
        let taken = self.take_any(placement).unwrap_or_else(|error| {
            tracing::warn!(%error, "what is held ready cannot be looked at");
            false
        });
        if !taken {
            return Ok(None);
        }
        failpoint("warm_taken");
        let life = self.own(&placement.uid)?;
        life.map(|life| self.settle(life, placement)).transpose()
    }

    /// Takes the first one that can be taken. Those that say nothing cost a moment each, and all of them together what one
    /// may take.
    fn take_any(&self, placement: &Placement) -> Result<bool, RuntimeError> {
        let mut ready = self.all_ready()?;
        if ready.is_empty() {
            return Ok(false);
        }
        let shape = self.with_image(&placement.spec.image, |image| {
            self.shape(&placement.spec, image)
        })?;
        let of_shape = shape.and_then(|shape| ready.remove(&shape));
        let mut silent = Vec::new();
        for found in of_shape.unwrap_or_default() {
            if silent.len() == ASKED_IN_TURN {
                silent.push(found);
                continue;
            }
            match self.attempt(&found, placement, Some(MOMENT)) {
                Attempt::Taken => return Ok(true),
                Attempt::Silent => silent.push(found),
                Attempt::Unfit => {}
            }
        }
        silent.truncate(ASKED_AT_ONCE);
        Ok(self.take_slow(&silent, placement))
    }

    /// Takes the first one that answers of some that have said nothing yet. Those that do not answer in time are removed.
    fn take_slow(&self, silent: &[Ready], placement: &Placement) -> bool {
        let names = silent.iter().map(|ready| ready.name.clone());
        self.doubted().extend(names);
        let homes = silent.iter().map(|ready| self.layout.ready(ready));
        let asked = socket::ask_all(homes.map(|home| home.sockets()), ANSWER_TIME);
        let mut hung = Vec::new();
        for (number, answers) in asked {
            let Some(ready) = silent.get(number) else {
                continue;
            };
            if !answers {
                hung.push(ready);
            } else if matches!(self.attempt(ready, placement, None), Attempt::Taken) {
                return true;
            }
        }
        for ready in hung {
            self.throw_away(ready, "it does not answer");
        }
        false
    }

    /// The same as [`Host::take_one`], but for one with which something is wrong: that is thrown away.
    fn attempt(&self, ready: &Ready, placement: &Placement, ask: Option<Duration>) -> Attempt {
        self.take_one(ready, placement, ask)
            .unwrap_or_else(|error| {
                // It may have gone wrong when it had its new name already.
                if matches!(self.own(&placement.uid), Ok(Some(_))) {
                    return Attempt::Taken;
                }
                self.throw_away(ready, &error.to_string());
                Attempt::Unfit
            })
    }

    /// Does what is still to be done for a life that was taken from what was ready. Nothing, where all is done.
    pub(super) fn settle(&self, life: Life, placement: &Placement) -> Result<Life, RuntimeError> {
        let Life { home, record } = life;
        if record.uid == placement.uid {
            return Ok(Life { home, record });
        }
        let settled = (|| {
            self.let_go_of_name(&record, &placement.uid)?;
            failpoint("warm_settling");
            let record = Record {
                owner: Some(Owner::of(placement)),
                born: Some(record.name().clone()),
                uid: placement.uid.clone(),
                ..record
            };
            record.write(&home)?;
            Ok(record)
        })();
        let record =
            settled.map_err(unavailable::<io::Error>("the environment cannot be taken"))?;
        Ok(Life { home, record })
    }

    /// Makes the range of a life that was taken its own, and forgets the lock that it had before. Done already, or never
    /// anything else than this life, is success.
    pub(super) fn let_go_of_name(&self, record: &Record, uid: &EnvironmentUid) -> io::Result<()> {
        let name = record.name();
        if name == uid {
            return Ok(());
        }
        self.ranges.pass_on(name, uid)?;
        match Lock::try_take(&self.layout.locks(), name.as_str())? {
            Some(lock) => lock.retire(),
            // Somebody looks for it in vain; he retires the lock himself.
            None => Ok(()),
        }
    }

    /// Gives one the name of a life, if it is whole and alive, says something in this time, if it is to be asked, and nobody
    /// else was faster.
    fn take_one(
        &self,
        ready: &Ready,
        placement: &Placement,
        ask: Option<Duration>,
    ) -> Result<Attempt, RuntimeError> {
        let taken = self.if_unlocked(ready, |life, _| {
            let Some(life) = life else {
                return Ok(Attempt::Unfit);
            };
            if !self.is_up(&life)? {
                return Ok(Attempt::Unfit);
            }
            if let Some(limit) = ask
                && !self.answers(&life, limit)?
            {
                return Ok(Attempt::Silent);
            }
            let renamed = self.rename(&life, placement)?;
            Ok(if renamed {
                Attempt::Taken
            } else {
                Attempt::Unfit
            })
        })?;
        Ok(taken.unwrap_or(Attempt::Unfit))
    }

    fn answers(&self, life: &Life, limit: Duration) -> Result<bool, RuntimeError> {
        socket::answers(&life.home.sockets(), limit)
            .map_err(unavailable("what is held ready cannot be spoken to"))
    }

    /// Removes one that nobody can use, unless somebody works on it. What is not removed now the next round finds.
    fn throw_away(&self, ready: &Ready, why: &str) {
        tracing::warn!(name = %ready.name, why, "what was held ready is removed");
        self.pause(&ready.shape);
        let removed = self.with_lock(ready, |_| {
            if !self.is_there(ready)? {
                return Ok(());
            }
            let life = self.life_at(self.layout.ready(ready)).ok().flatten();
            let life = life.unwrap_or_else(|| self.by_name(ready));
            self.remove_ready(ready, Some(&life))
        });
        if let Err(error) = removed {
            tracing::warn!(name = %ready.name, %error, "it is not removed yet");
        }
    }

    /// One of which nothing can be read: all that is to be ended is named after it.
    fn by_name(&self, ready: &Ready) -> Life {
        Life {
            home: self.layout.ready(ready),
            record: self.nobodys(ready.name.clone()),
        }
    }

    /// Those that were silent when a life was in need of them. The next round asks them once more.
    fn doubted(&self) -> MutexGuard<'_, HashSet<EnvironmentUid>> {
        self.doubted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn rename(&self, life: &Life, placement: &Placement) -> Result<bool, RuntimeError> {
        let to = self.layout.home(&placement.uid);
        // The image cannot go while the folder that names it is renamed.
        let renamed = self.with_image(&placement.spec.image, |_| {
            fs::rename(life.home.folder(), to.folder())
                .map(|()| true)
                .or_else(|error| match error.kind() {
                    // Somebody else's, or the life's name is: what comes next finds that out.
                    io::ErrorKind::NotFound | io::ErrorKind::DirectoryNotEmpty => Ok(false),
                    _ => Err(error),
                })
                .map_err(unavailable("what is held ready cannot be taken"))
        })?;
        Ok(renamed.unwrap_or_default())
    }

    /// What becomes of one: it is removed if it is not ready, or not wanted. One that somebody works on stays.
    fn fate(&self, ready: &Ready, wanted: bool) -> Result<Fate, RuntimeError> {
        let fate = self.with_lock(ready, |_| {
            // Taken or removed since it was listed. Its range may be a life's now, which is to pass it on to itself.
            if !self.is_there(ready)? {
                return Ok(Fate::Went);
            }
            let Ok(life) = self.life_at(self.layout.ready(ready)) else {
                self.remove_ready(ready, Some(&self.by_name(ready)))?;
                return Ok(Fate::Fell);
            };
            if !wanted {
                self.remove_ready(ready, life.as_ref())?;
                return Ok(Fate::Went);
            }
            let mut fell = false;
            if let Some(life) = &life {
                let is_doubted = self.doubted().remove(&ready.name);
                if self.is_up(life)? && (!is_doubted || self.answers(life, ANSWER_TIME)?) {
                    return Ok(Fate::Stays);
                }
                fell = life.home.pid_file().exists()
                    && !life.home.ending().exists()
                    && !is_of_another_start(&life.home);
            }
            self.remove_ready(ready, life.as_ref())?;
            Ok(if fell { Fate::Fell } else { Fate::Went })
        })?;
        Ok(fate.unwrap_or(Fate::Stays))
    }

    /// Whether anything is held ready under this name. It stays so while the name's lock is held.
    fn is_there(&self, ready: &Ready) -> Result<bool, RuntimeError> {
        let there = self.layout.ready(ready).folder().try_exists();
        there.map_err(unavailable("what is held ready cannot be looked at"))
    }

    fn make_ready(&self, spec: &EnvironmentSpec, shape: &str) -> Result<(), RuntimeError> {
        let ready = Ready {
            shape: shape.to_owned(),
            name: EnvironmentUid::from_random(rand::random()),
        };
        self.if_unlocked(&ready, |_, lock| {
            let home = self.layout.ready(&ready);
            let record = self.with_image(&spec.image, |image| {
                // Before it has a range, so that whoever finds the folder gives that back.
                files::folder(home.folder(), 0o700)
                    .and_then(|()| self.fill(&home, &ready.name, None, image))
                    .map_err(unavailable("an environment cannot be held ready"))
            });
            failpoint("warm_filled");
            let made = record.and_then(|record| match record {
                Some(record) => self.run(&Life { home, record }, spec, lock).map(drop),
                // It went since it was looked for.
                None => Ok(()),
            });
            if made.is_err() {
                let life = self.life_at(self.layout.ready(&ready))?;
                self.remove_ready(&ready, life.as_ref())?;
            }
            made
        })?;
        Ok(())
    }

    fn remove_ready(&self, ready: &Ready, life: Option<&Life>) -> Result<(), RuntimeError> {
        if let Some(life) = life {
            self.clear(life)?;
        }
        failpoint("warm_removing");
        let home = self.layout.ready(ready);
        // The folder goes last: it tells that there is a range to give back, and that once nothing of it is on the disk.
        [home.volume(), home.layer(), home.runner_state()]
            .iter()
            .try_for_each(|part| remove_tree(part))
            .and_then(|()| self.ranges.give_back(&ready.name))
            .and_then(|()| remove_tree(home.folder()))
            .map_err(unavailable("what is held ready cannot be removed"))
    }

    /// Does something to what is in the folder, unless somebody else does; nothing then.
    fn if_unlocked<T>(
        &self,
        ready: &Ready,
        work: impl FnOnce(Option<Life>, &Lock) -> Result<T, RuntimeError>,
    ) -> Result<Option<T>, RuntimeError> {
        self.with_lock(ready, |lock| {
            work(self.life_at(self.layout.ready(ready))?, lock)
        })
    }

    fn with_lock<T>(
        &self,
        ready: &Ready,
        work: impl FnOnce(&Lock) -> Result<T, RuntimeError>,
    ) -> Result<Option<T>, RuntimeError> {
        let cannot = "what is held ready cannot be locked";
        let lock = Lock::try_take(&self.layout.locks(), ready.name.as_str());
        let Some(lock) = lock.map_err(unavailable(cannot))? else {
            return Ok(None);
        };
        let done = work(&lock);
        if !self.layout.ready(ready).folder().exists() {
            lock.retire().map_err(unavailable(cannot))?;
        }
        done.map(Some)
    }

    /// Removes the locks that workers left who were killed: those of names that nothing has any more.
    pub(super) fn remove_old_locks(&self) -> Result<(), RuntimeError> {
        let ready: HashSet<_> = self
            .all_ready()?
            .into_values()
            .flatten()
            .map(|ready| ready.name)
            .collect();
        let removed = (|| {
            for entry in fs::read_dir(self.layout.locks())? {
                let name = entry?.file_name().to_string_lossy().into_owned();
                let Ok(uid) = EnvironmentUid::new(name.as_str()) else {
                    continue;
                };
                // Whoever makes something of that name holds its lock, and is not disturbed.
                if !self.layout.home(&uid).folder().exists()
                    && !ready.contains(&uid)
                    && let Some(lock) = Lock::try_take(&self.layout.locks(), &name)?
                {
                    lock.retire()?;
                }
            }
            Ok(())
        })();
        removed.map_err(unavailable::<io::Error>("old locks cannot be removed"))
    }

    /// All that is held ready, by shape, whole or not.
    fn all_ready(&self) -> Result<BTreeMap<String, Vec<Ready>>, RuntimeError> {
        let mut found: BTreeMap<String, Vec<Ready>> = BTreeMap::new();
        for entry in self.entries()? {
            if let Entry::Ready(ready) = entry {
                found.entry(ready.shape.clone()).or_default().push(ready);
            }
        }
        Ok(found)
    }

    /// What shall be ready of each shape. Images without which there is no shape yet are noted as missing.
    fn by_shape<'a>(&self, wanted: &'a [Warm], kept: &mut Kept) -> BTreeMap<String, Wanted<'a>> {
        let mut shapes = BTreeMap::new();
        for Warm { spec, count } in wanted {
            let image = &spec.image;
            match self.with_image(image, |image| self.shape(spec, image)) {
                Ok(Some(shape)) => {
                    let sum = shapes.entry(shape).or_insert(Wanted { spec, count: 0 });
                    sum.count += count;
                }
                Ok(None) => kept.missing.push(image.clone()),
                Err(_) if self.is_paused(image) => {}
                Err(error) => {
                    self.pause(image);
                    kept.done::<()>(image, Err(error));
                }
            }
        }
        shapes
    }

    /// Everything in which two environments can differ: what the OCI runtime is told without names and numbers of their
    /// own, and what is made beside it.
    fn shape(
        &self,
        spec: &EnvironmentSpec,
        image: Option<&LifeImage>,
    ) -> Result<String, RuntimeError> {
        let (tree, ground) = self
            .shared_ground(image)
            .map_err(unavailable("the image cannot be read"))?;
        let nameless = self.nobodys(EnvironmentUid::from_random([0; 16]));
        let nowhere = Path::new("");
        let config = Container {
            record: &nameless,
            resources: &spec.resources,
            limits: Limits::of_commands(&spec.resources).with_allowance(),
            ground: &ground,
            root: STAGE.as_ref(),
            runner: &self.runner,
            volume: nowhere,
            state: nowhere,
            is_isolated: spec.egress == Egress::None,
            own_kernel: self.program.has_its_own_kernel(),
            cgroup: (!self.standing.is_namespace()).then_some(""),
            cgroup_flags: Vec::new(),
        };
        let network = &self.network;
        let beside = json!([
            tree,
            spec.resources,
            spec.egress,
            network,
            self.program.binary()
        ]);
        let hash = Sha256::digest(json!([config.config(), beside]).to_string());
        let mut shape = data_encoding::BASE32_NOPAD.encode(&hash);
        shape.make_ascii_lowercase();
        shape.truncate(26);
        Ok(shape)
    }

    /// What is known of one by its name alone.
    fn nobodys(&self, name: EnvironmentUid) -> Record {
        Record {
            instance: self.layout.instance().clone(),
            owner: None,
            uid: name,
            born: None,
            first_host_id: 0,
            created_at: jiff::Timestamp::UNIX_EPOCH,
        }
    }

    /// What all environments of an image share, and its tree.
    fn shared_ground(&self, image: Option<&LifeImage>) -> io::Result<(String, Ground)> {
        let Some(life) = image else {
            let ground = self.bare()?;
            let tree = self.skeletons.get()?.root.display().to_string();
            return Ok((tree, ground));
        };
        let image = self.images.image(&life.id)?;
        let image = image.ok_or_else(|| io::Error::other(format!("{} is gone", life.id)))?;
        let ground = Ground {
            tree: Tree::Plain(self.images.root(&life.id)),
            binds: Vec::new(),
            env: image.env,
            user: life.user,
            is_bare: false,
        };
        Ok((life.id.to_string(), ground))
    }
}
