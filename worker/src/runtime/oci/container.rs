//! The container of a life: made, started, ended, cleared away.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use shared::environment::Egress;
use shared::ids::EnvironmentUid;
use shared::ports::{Placement, RuntimeError, Started};

use super::cgroup::Delegated;
use super::fault::unavailable;
use super::host::Host;
use super::launch::{Connection, Launch, launch};
use super::layout::{Home, Layout};
use super::limits::Limits;
use super::lock::Lock;
use super::network::{self, Helper, NAME_SERVER, Network};
use super::process::FirstProcess;
use super::record::Record;
use super::remove::remove_tree;
use super::spec::{Container, LISTEN_FD};
use super::stage::STAGE;
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
            restarts: 0,
            limits_not_enforced: self.not_enforced(),
        };
        let ending = self.layout.home(&placement.uid).ending().exists();
        if !ending && self.first(&placement.uid)?.is_some() {
            self.enforce_limits(placement)?;
            return Ok(started);
        }
        self.clear(&placement.uid)?;
        let prepared = self
            .prepare(placement, record, lock)
            .map_err(unavailable("the container cannot be prepared"))?;
        let launched =
            launch(&self.program, prepared).and_then(|()| self.enforce_limits(placement));
        if let Err(error) = launched {
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

    /// Sets the limits that could not be set before PID 1 was there.
    fn enforce_limits(&self, placement: &Placement) -> Result<(), RuntimeError> {
        let limits = Limits::of_commands(&placement.spec.resources);
        self.cgroups
            .enforce(&self.layout.cgroup(&placement.uid), limits)
            .map_err(unavailable("the limits cannot be set"))
    }

    /// Makes all that the OCI runtime needs to start the container.
    fn prepare(&self, placement: &Placement, record: &Record, lock: &Lock) -> io::Result<Launch> {
        let home = self.layout.home(&placement.uid);
        let cgroup = self.layout.cgroup(&placement.uid);
        let limits = Limits::of_commands(&placement.spec.resources);
        let delegated = self
            .cgroups
            .delegate(&cgroup, record.first_host_id, limits)?;
        let mut inherited = vec![socket::listen(home.folder())?];
        let cgroup_flags = inherit(delegated, &mut inherited);
        let network = self.connection(placement, &home)?;
        // PID 1 needs no number for it: it only has to hold it.
        let network = network.map(|(connection, held)| {
            inherited.push(held);
            connection
        });
        let mut ground = self.ground(&home, record)?;
        if network.is_some() {
            ground.binds.push(name_server(&home)?);
        }
        let config = Container {
            record,
            resources: &placement.spec.resources,
            limits: limits.with_allowance(),
            ground: &ground,
            root: STAGE.as_ref(),
            runner: &self.runner,
            volume: &home.volume(),
            state: &home.runner_state(),
            is_isolated: network.is_none(),
            cgroup: (!self.standing.is_namespace()).then_some(cgroup.as_str()),
            cgroup_flags,
        };
        let config = serde_json::to_vec(&config.config())?;
        fs::write(home.bundle().join("config.json"), config)?;
        fs::write(home.boot(), boot()?)?;
        Ok(Launch {
            container: Layout::container(&placement.uid),
            bundle: home.bundle(),
            pid_file: home.pid_file(),
            log: home.log(),
            root: ground.tree,
            inherited,
            network,
            lock: lock.share()?,
        })
    }

    /// The network that was asked for, and what PID 1 must hold of it.
    fn connection(
        &self,
        placement: &Placement,
        home: &Home,
    ) -> io::Result<Option<(Connection, OwnedFd)>> {
        if placement.spec.egress != Egress::Internet {
            return Ok(None);
        }
        let network = Network::make(&self.network, &home.known_addresses())?;
        let (helper, held) = Helper::new()?;
        let connection = Connection {
            network,
            helper,
            log: home.bundle().join("network.log"),
            cgroup: self.layout.network_cgroup(&placement.uid),
            cgroups: self.cgroups.clone(),
        };
        Ok(Some((connection, held)))
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

    /// Tells the networks of running environments the machine's addresses of now. One that cannot be told is tried at
    /// the next round.
    pub(super) fn refresh_networks(&self) -> Result<(), RuntimeError> {
        for holding in self.list()?.iter().filter(|holding| holding.alive) {
            let known = self.layout.home(&holding.uid).known_addresses();
            let refreshed = match self.first(&holding.uid)? {
                Some(first) if known.exists() => first.network().and_then(|namespace| {
                    namespace.map_or(Ok(()), |namespace| network::refresh(namespace, &known))
                }),
                _ => continue,
            };
            if let Err(error) = refreshed {
                tracing::warn!(uid = %holding.uid, %error, "a network does not know the machine's addresses");
            }
        }
        Ok(())
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
            .and_then(|()| self.cgroups.remove(&self.layout.network_cgroup(uid)))
            .and_then(|()| files::absent(fs::remove_file(home.known_addresses())))
            .and_then(|()| files::absent(fs::remove_file(home.pid_file())))
            .and_then(|()| files::absent(fs::remove_file(home.ending())))
            .and_then(|()| files::absent(fs::remove_file(home.boot())))
            .and_then(|()| socket::remove(home.folder()))
            .and_then(|()| remove_tree(&home.layer()))
            .map_err(unavailable("the container cannot be removed"))
    }
}

/// Names this start of the machine.
pub(super) fn boot() -> io::Result<String> {
    fs::read_to_string("/proc/sys/kernel/random/boot_id")
}

/// The file that tells where names are answered, and its place.
fn name_server(home: &Home) -> io::Result<(PathBuf, PathBuf)> {
    let file = home.bundle().join("resolv.conf");
    let text = format!("nameserver {NAME_SERVER}\n");
    files::write_whole(&file, text.as_bytes(), 0o644)?;
    Ok((file, PathBuf::from("/etc/resolv.conf")))
}

/// Puts what PID 1 gets of its cgroups behind what it inherits already; answers the flags that tell it.
fn inherit(delegated: Delegated, inherited: &mut Vec<OwnedFd>) -> Vec<(&'static str, i32)> {
    let Delegated {
        unified,
        memory,
        cpu,
        own,
        commands,
    } = delegated;
    let folders = [
        ("--cgroup-fd", unified),
        ("--memory-cgroup-fd", memory),
        ("--cpu-cgroup-fd", cpu),
    ];
    let folders = folders
        .into_iter()
        .filter_map(|(flag, folder)| Some((flag, folder?)));
    let own = own.into_iter().map(|procs| ("--own-procs-fd", procs));
    let commands = commands
        .into_iter()
        .map(|procs| ("--command-procs-fd", procs));
    let flags = (LISTEN_FD..)
        .skip(inherited.len())
        .zip(folders.chain(own).chain(commands));
    let flags = flags.map(|(number, (flag, descriptor))| {
        inherited.push(descriptor);
        (flag, number)
    });
    flags.collect()
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
