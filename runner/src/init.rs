//! PID 1: sets the process up, serves, and ends in order.

use std::io;
use std::os::fd::RawFd;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use rustix::thread::CapabilitySet;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::spawn_blocking;

use crate::args::{CgroupFds, Listen, Settings};
use crate::files::{Files, Identity, IdentityPool};
use crate::ids::Incarnation;
use crate::jobs::{Cgroups, Delegated, Jobs, Launcher, Spare, tree};
use crate::{reap, service, socket, sys};

/// Between TERM and KILL for all jobs when PID 1 itself is told to end.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(2);

/// How long open calls may take to deliver the last records.
const FAREWELL: Duration = Duration::from_millis(500);

/// Why PID 1 could not serve.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InitError {
    #[error("{0}: {1}")]
    Step(&'static str, #[source] io::Error),
    #[error("the server ended: {0}")]
    Server(#[from] tonic::transport::Error),
}

fn step<T>(what: &'static str, outcome: io::Result<T>) -> Result<T, InitError> {
    outcome.map_err(|error| InitError::Step(what, error))
}

/// Serves until TERM or INT; then ends all jobs, writes their records, and returns.
pub(crate) fn run(settings: &Settings) -> Result<(), InitError> {
    // First of all, so that nothing that this process starts is left outside its own part.
    step("own cgroup", join_own(&settings.cgroups.own))?;
    let listener = step("listening socket", listener(&settings.listen))?;
    let cgroups = step("cgroup descriptor", cgroups(&settings.cgroups))?;
    step("inherited descriptors", sys::close_all_on_exec())?;
    sys::ignore_write_signals();
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o022));
    step(
        "child subreaper",
        nix::sys::prctl::set_child_subreaper(true).map_err(Into::into),
    )?;
    // Without the right to it (or in a user namespace that forbids it) the groups stay as the runtime chose them.
    let _ = nix::unistd::setgroups(&[]);
    let (open_files, max_fds) = raise_open_files();
    if let Some(most) = settings.processes {
        step("limit of processes", limit_processes(most))?;
    }
    step(
        "state folder",
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&settings.state),
    )?;
    let can_switch = can_switch_users();
    let own = own_ids();
    let (uid, gid) = (settings.uid.unwrap_or(own.0), settings.gid.unwrap_or(own.1));
    let launcher = Launcher {
        uid,
        gid,
        can_switch,
        volume: settings.volume.clone(),
        image_env: settings.image_env.clone(),
        open_files,
        cgroups,
        spare: Spare::default(),
    };
    let incarnation = step("random bytes", Incarnation::random())?;
    let jobs = Arc::new(step(
        "state folder",
        Jobs::open(&settings.state, incarnation, launcher, max_fds),
    )?);
    let identity = match can_switch && (uid, gid) != own {
        true => Identity::User { uid, gid },
        false => Identity::Own,
    };
    let pool = step("file threads", IdentityPool::start(identity))?;
    let (volume, state) = (settings.volume.clone(), &settings.state);
    let (files, left) = Files::open(pool, volume, Arc::clone(&jobs), state);
    // Last, since changes of this process' rights reset it.
    step(
        "dumpable flag",
        nix::sys::prctl::set_dumpable(false).map_err(Into::into),
    )?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    step("threads", runtime)?.block_on(async {
        files.clear(left);
        serve(listener, jobs, files).await
    })
}

async fn serve(listener: UnixListener, jobs: Arc<Jobs>, files: Files) -> Result<(), InitError> {
    let listener = step(
        "listening socket",
        tokio::net::UnixListener::from_std(listener),
    )?;
    let mut term = step("signals", signal(SignalKind::terminate()))?;
    let mut interrupt = step("signals", signal(SignalKind::interrupt()))?;
    let reaping = tokio::spawn(reap::reap_children());
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let mut serving = tokio::spawn(service::serve(listener, Arc::clone(&jobs), files, async {
        // A dropped sender means the same.
        let _ = stopped.await;
    }));
    tokio::select! {
        ended = &mut serving => return ended.map_err(io::Error::other).map_or_else(
            |error| Err(InitError::Step("server", error)),
            |served| served.map_err(InitError::Server),
        ),
        _ = term.recv() => {}
        _ = interrupt.recv() => {}
    }
    jobs.shut_down(SHUTDOWN_GRACE).await;
    // Whoever is still there was left behind by a job, and its environment ends now, whatever comes of this.
    let own = tree::Pid::try_from(std::process::id()).unwrap_or(1);
    let _ = spawn_blocking(move || tree::kill_rounds(own, SHUTDOWN_GRACE)).await;
    drop(stop);
    // Open calls get the last records; a caller that does not read them holds up nobody.
    let _ = tokio::time::timeout(FAREWELL, serving).await;
    reaping.abort();
    Ok(())
}

fn listener(listen: &Listen) -> io::Result<UnixListener> {
    let listener = match listen {
        Listen::Fd(number) => UnixListener::from(sys::adopt_fd(*number)?),
        Listen::Path(path) => socket::listen(path)?,
    };
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Moves this process out of the cgroup that bounds the whole environment, into the one that no command uses up.
fn join_own(procs: &[RawFd]) -> io::Result<()> {
    for number in procs {
        rustix::io::write(sys::adopt_fd(*number)?, b"0")?;
    }
    Ok(())
}

fn cgroups(fds: &CgroupFds) -> io::Result<Cgroups> {
    let adopt = |number: Option<RawFd>| number.map(sys::adopt_fd).transpose();
    let commands: io::Result<Vec<_>> = fds.commands.iter().copied().map(sys::adopt_fd).collect();
    Ok(Cgroups::new(Delegated {
        trees: adopt(fds.trees)?,
        memory: adopt(fds.memory)?,
        cpu: adopt(fds.cpu)?,
        commands: commands?,
    }))
}

/// Raises the soft limit of open files to the hard one; answers what it was and what it is.
fn raise_open_files() -> (u64, u64) {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else {
        return (1024, 1024);
    };
    match setrlimit(Resource::RLIMIT_NOFILE, hard, hard) {
        Ok(()) => (soft, hard),
        Err(_) => (soft, soft),
    }
}

/// For this process and all that it starts. The kernel counts by user and user namespace, so PID 1 apart from the commands.
fn limit_processes(most: u64) -> io::Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NPROC)?;
    let most = most.min(hard);
    Ok(setrlimit(Resource::RLIMIT_NPROC, most, most)?)
}

fn own_ids() -> (u32, u32) {
    (
        nix::unistd::geteuid().as_raw(),
        nix::unistd::getegid().as_raw(),
    )
}

fn can_switch_users() -> bool {
    let needed = CapabilitySet::SETUID | CapabilitySet::SETGID;
    rustix::thread::capabilities(None).is_ok_and(|sets| sets.effective.contains(needed))
}
