//! The container of a life: made, started, ended, cleared away.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use shared::environment::{Egress, EnvironmentSpec};
use shared::ids::EnvironmentUid;
use shared::ports::{RuntimeError, Started};

use super::cgroup::Delegated;
use super::fault::unavailable;
use super::host::Host;
use super::launch::{Connection, Launch, launch};
use super::layout::Home;
use super::life::Life;
use super::limits::Limits;
use super::lock::Lock;
use super::network::{self, Helper, Hold, NAME_SERVER, Network};
use super::process::FirstProcess;
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
        life: &Life,
        spec: &EnvironmentSpec,
        lock: &Lock,
    ) -> Result<Started, RuntimeError> {
        let started = Started {
            place: None,
            container: life.record.container(),
            restarts: 0,
            object: None,
            limits_not_enforced: self.not_enforced(),
        };
        if self.is_up(life)? {
            self.enforce_limits(life, spec)?;
            return Ok(started);
        }
        self.clear(life)?;
        let prepared = self
            .prepare(life, spec, lock)
            .map_err(unavailable("the container cannot be prepared"))?;
        let launched =
            launch(&self.program, prepared).and_then(|()| self.enforce_limits(life, spec));
        if let Err(error) = launched {
            self.clear(life)?;
            return Err(error);
        }
        Ok(started)
    }

    /// Whether PID 1 is alive and nobody has asked it to end.
    pub(super) fn is_up(&self, life: &Life) -> Result<bool, RuntimeError> {
        Ok(!life.home.ending().exists() && self.first(life)?.is_some())
    }

    /// What of a spec nothing holds an environment to. Without cgroups its processes are still counted, by an rlimit, but
    /// gVisor counts none.
    fn not_enforced(&self) -> Vec<String> {
        let has_cgroups = !self.standing.is_namespace();
        let limits: &[&str] = match (has_cgroups, self.program.has_its_own_kernel()) {
            (true, false) => &["storage"],
            (true, true) => &["pids", "storage"],
            (false, false) => &["cpu", "memory", "storage"],
            (false, true) => &["cpu", "memory", "pids", "storage"],
        };
        limits.iter().map(|limit| (*limit).to_owned()).collect()
    }

    /// Sets the limits that could not be set before PID 1 was there.
    fn enforce_limits(&self, life: &Life, spec: &EnvironmentSpec) -> Result<(), RuntimeError> {
        if self.program.has_its_own_kernel() {
            return Ok(());
        }
        let limits = Limits::of_commands(&spec.resources);
        self.cgroups
            .enforce(&life.record.cgroup(), limits)
            .map_err(unavailable("the limits cannot be set"))
    }

    /// Makes all that the OCI runtime needs to start the container.
    fn prepare(&self, life: &Life, spec: &EnvironmentSpec, lock: &Lock) -> io::Result<Launch> {
        let Life { home, record } = life;
        let cgroup = record.cgroup();
        let limits = Limits::of_commands(&spec.resources);
        let own_kernel = self.program.has_its_own_kernel();
        let (mut inherited, mut cgroup_flags) = (Vec::new(), Vec::new());
        if own_kernel {
            // Descriptors of the machine mean nothing there: PID 1 makes its socket itself.
            home.sockets().remove()?;
        } else {
            let delegated = self
                .cgroups
                .delegate(&cgroup, record.first_host_id, limits)?;
            inherited.push(socket::listen(home.folder())?);
            cgroup_flags = inherit(delegated, &mut inherited);
        }
        let network = self.connection(life, spec.egress)?;
        let network = match network {
            Some((connection, held)) => {
                // PID 1 does nothing with it: it only has to hold it.
                Hold::of(&held)?.write(&home.network_hold())?;
                inherited.push(held);
                Some(connection)
            }
            None => None,
        };
        let mut ground = self.ground(home, record)?;
        if network.is_some() {
            ground.binds.push(name_server(home)?);
        }
        let config = Container {
            record,
            resources: &spec.resources,
            limits: limits.with_allowance(),
            ground: &ground,
            root: STAGE.as_ref(),
            runner: &self.runner,
            volume: &home.volume(),
            state: &home.runner_state(),
            is_isolated: network.is_none(),
            own_kernel,
            cgroup: (!self.standing.is_namespace()).then_some(cgroup.as_str()),
            cgroup_flags,
        };
        let config = serde_json::to_vec(&config.config())?;
        fs::write(home.bundle().join("config.json"), config)?;
        fs::write(home.boot(), boot()?)?;
        Ok(Launch {
            container: record.container(),
            bundle: home.bundle(),
            pid_file: home.pid_file(),
            log: home.log(),
            root: ground.tree,
            inherited,
            is_connected: network.is_some(),
            network,
            lock: lock.share()?,
        })
    }

    /// The network that was asked for, and what PID 1 must hold of it.
    fn connection(&self, life: &Life, egress: Egress) -> io::Result<Option<(Connection, OwnedFd)>> {
        if egress != Egress::Internet {
            return Ok(None);
        }
        let network = Network::make(&self.network, &life.home.known_addresses())?;
        let (helper, held) = Helper::new()?;
        let connection = Connection {
            network,
            helper,
            log: life.home.network_log(),
            cgroup: life.record.network_cgroup(),
            cgroups: self.cgroups.clone(),
        };
        Ok(Some((connection, held)))
    }

    /// Kills PID 1, and returns when it is gone with all its processes.
    pub(super) fn end(&self, life: &Life) -> Result<(), RuntimeError> {
        let Some(first) = self.first(life)? else {
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

    /// Tells the networks of running environments the machine's addresses of now, and starts helpers anew that have
    /// ended. What cannot be done is tried at the next round.
    pub(super) fn refresh_networks(&self) -> Result<(), RuntimeError> {
        for life in self.all()? {
            if !life.home.known_addresses().exists() {
                continue;
            }
            let refreshed = match self.first(&life) {
                Ok(Some(first)) => self
                    .refresh_network(&life, &first)
                    .map_err(|error| error.to_string()),
                Ok(None) => Ok(()),
                Err(error) => Err(error.to_string()),
            };
            if let Err(error) = refreshed {
                tracing::warn!(uid = %life.record.uid, %error, "a network cannot be looked after");
            }
        }
        Ok(())
    }

    fn refresh_network(&self, life: &Life, first: &FirstProcess) -> io::Result<()> {
        let Some(namespace) = first.network()? else {
            return Ok(());
        };
        network::refresh(namespace.try_clone()?, &life.home.known_addresses())?;
        // Where somebody stops it or starts it anew nothing is revived beside him.
        let uid = life.record.uid.as_str();
        let Some(lock) = Lock::try_take(&self.layout.locks(), uid)? else {
            return Ok(());
        };
        let revived = self.revive_helper(life, first, namespace);
        if !life.home.folder().exists() {
            lock.retire()?;
        }
        revived
    }

    fn revive_helper(
        &self,
        life: &Life,
        first: &FirstProcess,
        namespace: OwnedFd,
    ) -> io::Result<()> {
        let Some(hold) = Hold::read(&life.home.network_hold())? else {
            return Ok(());
        };
        let Some(held) = first.held(hold.file())? else {
            return Ok(());
        };
        let (cgroups, cgroup) = (self.cgroups.clone(), life.record.network_cgroup());
        let adopt = move |pid| cgroups.join(&cgroup, pid);
        if network::revive(namespace, hold, &held, &life.home.network_log(), adopt)? {
            tracing::warn!(uid = %life.record.uid, "the helper of a network had ended: it was started anew");
        }
        Ok(())
    }

    pub(super) fn clear_own(&self, uid: &EnvironmentUid) -> Result<(), RuntimeError> {
        match self.own(uid)? {
            Some(life) => self.clear(&life),
            None => Ok(()),
        }
    }

    /// Ends the container and removes all of it but the life's folder.
    pub(super) fn clear(&self, life: &Life) -> Result<(), RuntimeError> {
        self.end(life)?;
        let Life { home, record } = life;
        self.program
            .delete(&record.container())
            .and_then(|()| self.cgroups.remove(&record.cgroup()))
            .and_then(|()| self.cgroups.remove(&record.network_cgroup()))
            .and_then(|()| files::absent(fs::remove_file(home.known_addresses())))
            .and_then(|()| files::absent(fs::remove_file(home.network_hold())))
            .and_then(|()| files::absent(fs::remove_file(home.pid_file())))
            .and_then(|()| files::absent(fs::remove_file(home.ending())))
            .and_then(|()| files::absent(fs::remove_file(home.boot())))
            .and_then(|()| home.sockets().remove())
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
