//! Environments as containers of an OCI runtime on this machine, run by root or, in a user namespace, by anybody.
//!
//! ```text
//!  OciRuntime (async, the port)
//!    └─ Host (blocking)          create, start, stop, delete, kill, inspect: see host.rs
//!         ├─ standing, namespace, subordinate,
//!         │  parent                           what this process may do here, and how an ordinary user comes to it
//!         ├─ checks, trial                    what the machine must have
//!         ├─ life, container                  the folder and the container of one life
//!         ├─ warm                             lives that are held ready, and taken
//!         ├─ layout, record, lock, ranges     what is where, whose it is, one at a time, which host uids
//!         ├─ ground, skeleton, image          what an environment stands on: this machine's programs, or an image
//!         ├─ tree, stage, idmap, userns       how that is mounted, and with whose ids
//!         ├─ network                          what an environment reaches, and what carries it there
//!         ├─ spec, seccomp                    config.json, the system calls
//!         ├─ cgroup, limits, launch, program  limits, the start of a container, the OCI runtime's program
//!         └─ process, socket, remove          PID 1 from outside, the way to it, hostile trees
//! ```
//!
//! Invariants:
//! - Everything is named from the uid and lies below the settings' folder, so any worker that opens the folder finds
//!   what another has started. Containers outlive the worker.
//! - Only what carries this instance is listed or touched.
//! - Root inside is nobody outside, and nobody in any other environment: each has host uids of its own. It has three
//!   capabilities (SETUID, SETGID, KILL), commands have none, and what the kernel offers them is a short list
//!   (`spec.rs`, `seccomp.rs`, explained in `docs/security.md`).

mod accounts;
mod cgroup;
mod checks;
mod container;
mod fault;
mod fetch;
mod files;
mod ground;
mod host;
mod idmap;
mod image;
mod launch;
mod layout;
mod life;
mod limits;
mod list;
mod lock;
mod namespace;
mod network;
mod parent;
mod process;
mod program;
mod ranges;
mod record;
mod remove;
mod seccomp;
mod settings;
mod skeleton;
mod socket;
mod spec;
mod stage;
mod standing;
mod subordinate;
mod tree;
mod trial;
mod userns;
mod warm;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use shared::clock::Clock;
use shared::environment::Egress;
use shared::ids::{EnvironmentUid, InstanceId};
use shared::ports::{
    Heard, Holding, Lane, Placement, RunnerIo, Runtime, RuntimeError, RuntimeOffer, Sight, Started,
    Warm,
};

use fault::unavailable;
use fetch::Fetches;
use host::Host;

pub use checks::{Check, Verdict, of_the_user, of_this_machine};
pub use image::{ImageId, Images, Listed, Progress, PullError};
pub use namespace::{NamespaceError, enter as enter_namespace};
pub use settings::{OciSettings, RunnerProgram};
pub use standing::Standing;
pub use trial::trial;

/// Holds environments as containers of this machine.
pub struct OciRuntime {
    host: Arc<Host>,
    fetches: Fetches,
    warned: AtomicBool,
}

impl OciRuntime {
    /// Opens the folder of the settings for an instance, and makes what every environment needs: the runner's file and
    /// the image. It fails only where the folder cannot be used; whether containers can be started [`Runtime::check`]
    /// tells. It blocks for some milliseconds, at the first time on a folder for up to a tenth of a second.
    pub fn open(
        settings: &OciSettings,
        instance: InstanceId,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, RuntimeError> {
        let folder = settings.folder.display();
        let host = Host::open(settings, instance, clock).map_err(unavailable(format!(
            "the folder of environments {folder} cannot be used"
        )))?;
        Ok(Self {
            host: Arc::new(host),
            fetches: Fetches::default(),
            warned: AtomicBool::new(false),
        })
    }

    /// Does something on the host without holding up the other tasks. Once begun it is done, even if nobody waits.
    async fn on_host<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Host) -> Result<T, RuntimeError> + Send + 'static,
    ) -> Result<T, RuntimeError> {
        let host = Arc::clone(&self.host);
        tokio::task::spawn_blocking(move || work(&host))
            .await
            .map_err(unavailable("the operation was cut off"))?
    }
}

#[async_trait]
impl Runtime for OciRuntime {
    fn offer(&self) -> RuntimeOffer {
        RuntimeOffer {
            egress: match network::lacking().is_none() {
                true => vec![Egress::None, Egress::Internet],
                false => vec![Egress::None],
            },
            default_egress: Egress::None,
            users: true,
        }
    }

    async fn fetch(&self, placement: &Placement, heard: &Heard) -> Result<(), RuntimeError> {
        let Placement { uid, spec, .. } = placement;
        let (host, image) = (&self.host, &spec.image);
        self.fetches.fetch(host, Some(uid), image, heard).await
    }

    async fn tidy(&self) -> Result<(), RuntimeError> {
        self.on_host(|host| {
            // First what keeps environments from this machine's own addresses.
            host.refresh_networks()?;
            host.remove_old_locks()?;
            let removed = host.images.prune(false);
            for gone in removed.map_err(unavailable("images cannot be removed"))? {
                tracing::info!(image = %gone.id, bytes = gone.bytes, "removed an image that nothing used");
            }
            Ok(())
        })
        .await
    }

    async fn create(&self, placement: &Placement) -> Result<Started, RuntimeError> {
        let placement = placement.clone();
        self.on_host(move |host| host.create(&placement)).await
    }

    async fn start(&self, placement: &Placement) -> Result<Started, RuntimeError> {
        let placement = placement.clone();
        self.on_host(move |host| host.start(&placement)).await
    }

    async fn keep_warm(&self, wanted: &[Warm]) -> Result<(), RuntimeError> {
        let wanted = wanted.to_vec();
        let kept = self.on_host(move |host| host.keep_ready(&wanted)).await?;
        for image in kept.missing {
            self.fetches.begin_ahead(&self.host, &image);
        }
        if kept.failures.is_empty() {
            return Ok(());
        }
        Err(RuntimeError::Unavailable(kept.failures.join("; ")))
    }

    async fn stop(&self, uid: &EnvironmentUid, grace: Duration) -> Result<(), RuntimeError> {
        let uid = uid.clone();
        self.on_host(move |host| host.stop(&uid, grace)).await
    }

    async fn delete(&self, uid: &EnvironmentUid) -> Result<(), RuntimeError> {
        let uid = uid.clone();
        self.on_host(move |host| host.delete(&uid)).await
    }

    async fn kill(
        &self,
        uid: &EnvironmentUid,
        container: Option<&str>,
    ) -> Result<(), RuntimeError> {
        let (uid, container) = (uid.clone(), container.map(str::to_owned));
        self.on_host(move |host| host.kill(&uid, container.as_deref()))
            .await
    }

    async fn inspect(&self, uid: &EnvironmentUid) -> Result<Sight, RuntimeError> {
        let uid = uid.clone();
        self.on_host(move |host| host.inspect(&uid)).await
    }

    async fn list(&self) -> Result<Vec<Holding>, RuntimeError> {
        self.on_host(Host::list).await
    }

    async fn dial(
        &self,
        uid: &EnvironmentUid,
        _lane: Lane,
    ) -> Result<Box<dyn RunnerIo>, RuntimeError> {
        let own = uid.clone();
        let sockets = self
            .on_host(move |host| {
                let life = host.own(&own)?.ok_or(RuntimeError::NotRunning)?;
                Ok(life.home.sockets())
            })
            .await?;
        match sockets.connect().await {
            Ok(stream) => Ok(Box::new(stream)),
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
                ) =>
            {
                Err(RuntimeError::NotRunning)
            }
            Err(error) => Err(RuntimeError::Unavailable(format!(
                "the runner cannot be reached: {error}"
            ))),
        }
    }

    async fn check(&self) -> Result<(), RuntimeError> {
        let checks = self.on_host(|host| Ok(host.checks())).await?;
        let first_time = !self.warned.swap(true, Ordering::Relaxed);
        for check in checks {
            if first_time && check.verdict == Verdict::Lacking {
                tracing::warn!(mend = check.mend, "{}: {}", check.about, check.says);
            }
            if let Some(failure) = check.failure() {
                return Err(RuntimeError::Unavailable(failure));
            }
        }
        Ok(())
    }
}
