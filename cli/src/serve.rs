//! `serve`: API and worker in one process, from the settings to the last answer.
//!
//! ```text
//!   settings ▶ log ▶ lock of the data folder ▶ namespace ▶ socket ▶ ports ▶ key ▶ worker + API ▶ ready
//!                                                                        │
//!   1st signal: soft token ─▶ both finish or hand back ─▶ exit 0         │ either fails: soft token, exit 1
//!   2nd signal: exit at once, 128 + signal
//! ```
//!
//! Invariants: nothing is touched before the settings are checked; nothing of the data folder before its lock is held. How
//! many clients can be connected is bounded by what the user may have open, not by what his shell set for him.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::Signal;
use shared::config::{AuthMode, Loaded, RuntimeKind};
use shared::data_dir::data_lock;
use shared::ports::{Runtime, RuntimeError};
use shared::telemetry;
use tokio::net::TcpListener;

use crate::args::SettingsArgs;
use crate::failure::Failure;
use crate::keys;
use crate::roles::Roles;
use crate::rootless;
use crate::signals::{Signals, exit_code};
use crate::wire::Ports;

/// What tasks get to end after the grace has run out and they were told to drop everything.
const LAST_MOMENTS: Duration = Duration::from_secs(3);

/// Descriptors that are enough, so that nobody who inherits the limit has to close a thousand million of them.
const OPEN_FILES: u64 = 1 << 16;

/// Serves until a signal ends it.
pub(crate) fn serve(args: &SettingsArgs) -> Result<ExitCode, Failure> {
    let loaded = args.load()?;
    telemetry::begin(&loaded.settings.telemetry)
        .map_err(|error| Failure::new("the log cannot begin", error))?;
    open_many_files();
    let _owned = data_lock(&loaded.data_dir).map_err(|error| Failure::told(&error))?;
    if loaded.settings.worker.concurrency > 0 {
        // Before the first thread: the kernel lets none of many into another namespace.
        rootless::settle(&loaded.settings, &loaded.data_dir)?;
    }
    let executor = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads())
        .enable_all()
        .build()
        .map_err(|error| Failure::new("no threads can be started", error))?;
    let ended = executor.block_on(run(&loaded));
    executor.shutdown_timeout(LAST_MOMENTS);
    ended.map(|()| ExitCode::SUCCESS)
}

/// Threads that run tasks: as many as processors, but two at least, so that one busy task holds up nobody, and eight at
/// most, since the work is waiting, not computing.
fn threads() -> usize {
    std::thread::available_parallelism().map_or(2, |processors| processors.get().clamp(2, 8))
}

/// Takes all descriptors that this user may have: a shell gives 1024 of them, and each client needs one.
fn open_many_files() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE).and_then(|(now, most)| {
        let wanted = most.min(OPEN_FILES);
        if now >= wanted {
            return Ok(());
        }
        setrlimit(Resource::RLIMIT_NOFILE, wanted, most)
    });
    if let Err(error) = raised {
        tracing::warn!(%error, "the limit of open files stays as it is");
    }
}

async fn run(loaded: &Loaded) -> Result<(), Failure> {
    let mut signals =
        Signals::take().map_err(|error| Failure::new("signals cannot be taken", error))?;
    let (listener, address) = bind(loaded.settings.server.listen).await?;
    let ports = Ports::open(&loaded.settings, &loaded.data_dir).await?;
    if loaded.settings.worker.concurrency > 0 {
        look_at_runtime(loaded, ports.runtime.as_ref()).await?;
    }
    accept_keys(loaded, &ports).await?;
    let mut roles = Roles::start(&loaded.settings, ports, listener)?;
    tracing::info!(
        url = %format!("http://{address}"),
        data_dir = %loaded.data_dir.display(),
        "ready"
    );
    let ended_early = tokio::select! {
        signal = signals.next() => {
            tracing::info!(%signal, "stopping; commands in environments go on");
            None
        }
        failure = roles.failed() => Some(failure),
    };
    roles.stop();
    let grace = Duration::from_secs(loaded.settings.shutdown.grace_seconds);
    tokio::select! {
        () = drained(&mut roles, grace) => {}
        signal = signals.next() => exit_now(signal),
    }
    tracing::info!("stopped");
    ended_early.map_or(Ok(()), Err)
}

/// A machine that cannot run environments will not be able to later; a cluster that does not answer now may.
async fn look_at_runtime(loaded: &Loaded, runtime: &dyn Runtime) -> Result<(), Failure> {
    match (runtime.check().await, loaded.settings.runtime.kind) {
        (Err(RuntimeError::Unavailable(why)), RuntimeKind::Kubernetes) => {
            tracing::warn!(
                why,
                "the cluster cannot be used yet; it is tried again, and /ready tells"
            );
            Ok(())
        }
        (checked, _) => checked.map_err(|error| Failure::told(&error)),
    }
}

/// Waits for the roles; when the grace has run out they drop what they hold, which loses nothing.
async fn drained(roles: &mut Roles, grace: Duration) {
    if tokio::time::timeout(grace, roles.ended()).await.is_ok() {
        return;
    }
    roles.drop_all();
    if tokio::time::timeout(LAST_MOMENTS, roles.ended())
        .await
        .is_err()
    {
        tracing::warn!("not everything ended in time; the next start takes it over");
    }
}

#[allow(
    clippy::exit,
    reason = "the second signal asks for just this; the store is durable at every moment"
)]
fn exit_now(signal: Signal) -> ! {
    tracing::warn!(%signal, "exiting at once");
    std::process::exit(exit_code(signal).into())
}

async fn bind(listen: SocketAddr) -> Result<(TcpListener, SocketAddr), Failure> {
    let bound = async {
        let listener = TcpListener::bind(listen).await?;
        let address = listener.local_addr()?;
        Ok((listener, address))
    };
    bound.await.map_err(|error: std::io::Error| {
        Failure::new(format!("cannot listen on {listen}"), error)
            .advise("choose another address with --listen, for example 127.0.0.1:0 for a free port")
    })
}

/// Makes the keys of the key file accepted, by every API of the store.
async fn accept_keys(loaded: &Loaded, ports: &Ports) -> Result<(), Failure> {
    match (loaded.settings.auth.mode, &loaded.settings.auth.keys_file) {
        (AuthMode::Keys, Some(path)) => {
            let source = keys::Source::of(path, &loaded.data_dir);
            keys::accept(path, &source, ports.store.as_ref(), ports.clock.as_ref()).await
        }
        (AuthMode::Keys | AuthMode::None, _) => Ok(()),
    }
}
