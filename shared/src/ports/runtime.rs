//! The port to whatever holds environments: an OCI runtime on this machine, or a Kubernetes cluster.
//!
//! A runtime makes containers and volumes and hands out byte streams to the runner inside. It knows nothing of jobs.
//! All of its operations can be repeated: a worker that died in the middle is followed by one that asks again.

use async_trait::async_trait;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::environment::{Egress, EnvironmentSpec, Place, Reason};
use crate::ids::{EnvironmentId, EnvironmentUid, Generation, TenantId};

/// Which environment, and what it shall be.
#[derive(Debug, Clone)]
pub struct Placement {
    /// The owner, kept as an annotation.
    pub tenant: TenantId,
    /// The caller's name, kept as an annotation.
    pub environment: EnvironmentId,
    /// The life: all names come from it.
    pub uid: EnvironmentUid,
    /// The lifecycle job's generation: part of a pod's name.
    pub generation: Generation,
    /// What was asked for. Its `env` is not for the runtime: it comes with each command.
    pub spec: EnvironmentSpec,
}

/// A container that was started, or found started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Started {
    /// The runtime's name for it.
    pub container: String,
    /// How often the runtime has started PID 1 again by itself in it.
    pub restarts: u32,
    /// The runtime's own id of this very container, where a name is given out again.
    pub object: Option<String>,
    /// Where container and volume are found, on a runtime that others look into as well.
    pub place: Option<Place>,
    /// Limits of the spec that cannot be enforced here, such as `storage`, as far as that is known at once.
    pub limits_not_enforced: Vec<String>,
}

/// What is held ready, so that a create of the same waits for nothing.
#[derive(Debug, Clone)]
pub struct Warm {
    /// What it is. Only image, resources and network count.
    pub spec: EnvironmentSpec,
    /// How many.
    pub count: usize,
}

/// What a runtime sees of one life.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sight {
    /// Its PID 1 is alive.
    Alive,
    /// Its PID 1 is not alive yet, or not again yet, and the runtime is about to start it.
    Starting {
        /// What holds it up, if anything does.
        reason: Option<Reason>,
        /// How often the runtime has started it again by itself.
        restarts: u32,
    },
    /// The volume is there, the container is not, or its PID 1 has ended.
    Stopped {
        /// Why PID 1 ended, where the runtime knows: `oom_killed`, `exited`, `evicted`…
        reason: Option<Reason>,
    },
    /// Neither container nor volume.
    Absent,
}

/// What a runtime knows of a start of PID 1 when another one answers in its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Restart {
    /// The runtime started PID 1 again by itself in the same container: what the runner kept is still there.
    Same {
        /// Why the start before the one that runs ended.
        reason: Reason,
        /// How often it did so in that container.
        restarts: u32,
    },
    /// The container is another: nothing of the one before is kept.
    Another,
    /// That it was started again is not known to the runtime yet; it soon will be.
    Unknown,
}

/// One life that the runtime holds something of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holding {
    /// The life.
    pub uid: EnvironmentUid,
    /// Whether its PID 1 is alive.
    pub alive: bool,
    /// Whether there is a container, alive or not.
    pub container: bool,
    /// How often the runtime has started PID 1 again by itself, in the same container.
    pub restarts: u32,
    /// Why it cannot be reached just now, though it may be alive.
    pub unreachable: Option<Reason>,
    /// Seconds since it was made, by the runtime's own record.
    pub age_seconds: u64,
}

/// The two ways to a runner, so that a large file delays no command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Lane {
    /// Commands and their output.
    Control,
    /// File content.
    Bulk,
}

/// A connection to a runner.
pub trait RunnerIo: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> RunnerIo for T {}

/// What a runtime cannot do, in the caller's words.
#[derive(Debug, Clone, thiserror::Error)]
pub enum RuntimeError {
    /// The image cannot be had.
    #[error("image {image} cannot be had: {why}")]
    ImageNotFound {
        /// As the caller wrote it.
        image: String,
        /// What was tried.
        why: String,
    },
    /// The environment has no volume any more.
    #[error("the volume of the environment is gone")]
    VolumeMissing,
    /// Nothing to connect to.
    #[error("the environment's PID 1 does not run")]
    NotRunning,
    /// What was asked for cannot be had on this runtime.
    #[error("{0}")]
    Unsupported(String),
    /// It failed, and would fail again.
    #[error("{code}: {message}", code = .0.code, message = .0.message)]
    Failed(Reason),
    /// It failed for now: the runtime is down, busy or out of room.
    #[error("the runtime is unavailable: {0}")]
    Unavailable(String),
}

/// What a runtime offers, so that a request is refused before it is accepted.
#[derive(Debug, Clone)]
pub struct RuntimeOffer {
    /// The network classes that can be had.
    pub egress: Vec<Egress>,
    /// The class of an environment that asks for none.
    pub default_egress: Egress,
    /// Whether a command may ask for a user.
    pub users: bool,
}

/// Where somebody hears how far a long operation is: the last that was said.
pub type Heard = tokio::sync::watch::Sender<Option<Reason>>;

/// Holds environments.
#[async_trait]
pub trait Runtime: Send + Sync {
    /// What can be asked for.
    fn offer(&self) -> RuntimeOffer;

    /// Gets what the next create or start of the environment takes long to get: its image. It may be dropped at any
    /// point, and leaves nothing half-done. A runtime that fetches images by itself has nothing to do.
    async fn fetch(&self, _placement: &Placement, _heard: &Heard) -> Result<(), RuntimeError> {
        Ok(())
    }

    /// Removes what no environment has needed for a long time. Called now and then, by one worker.
    async fn tidy(&self) -> Result<(), RuntimeError> {
        Ok(())
    }

    /// Makes the volume, if it is not there yet, and starts the container on it. Repeatable: what is there of the same
    /// life is kept. Returns once PID 1 was started, or will be without anything more being asked: [`Runtime::started`]
    /// waits for that. It may not answer yet.
    async fn create(&self, placement: &Placement) -> Result<Started, RuntimeError>;

    /// Starts a container on the volume that is there: [`RuntimeError::VolumeMissing`] if it is not. A container of the
    /// same life that is alive is kept; one whose PID 1 has ended is replaced.
    async fn start(&self, placement: &Placement) -> Result<Started, RuntimeError>;

    /// Waits until the PID 1 of a container that was made has been started, and says what holds it up. An error says why
    /// it will not be started; nothing of it starts later by itself then. It may be dropped at any point.
    async fn started(
        &self,
        _placement: &Placement,
        _made: &Started,
        _heard: &Heard,
    ) -> Result<(), RuntimeError> {
        Ok(())
    }

    /// Limits of the spec that a container which was started is not held to.
    async fn not_enforced(&self, made: &Started) -> Vec<String> {
        made.limits_not_enforced.clone()
    }

    /// Holds this ready and nothing else: makes what is missing and removes what is too much. Asked again and again, by one
    /// worker. A create takes what fits.
    async fn keep_warm(&self, _wanted: &[Warm]) -> Result<(), RuntimeError> {
        Ok(())
    }

    /// Ends the container: TERM to PID 1, KILL after the grace. Returns when it is gone. The volume stays. Nothing to stop
    /// is success.
    async fn stop(
        &self,
        uid: &EnvironmentUid,
        grace: std::time::Duration,
    ) -> Result<(), RuntimeError>;

    /// Removes container, volume and records at once. Returns when they are gone. Nothing to delete is success.
    async fn delete(&self, uid: &EnvironmentUid) -> Result<(), RuntimeError>;

    /// Kills PID 1 and all with it, at once, and returns when that is confirmed. The volume stays. Where a container is
    /// named, another one that the life has by now is left alone.
    async fn kill(&self, uid: &EnvironmentUid, container: Option<&str>)
    -> Result<(), RuntimeError>;

    /// What is there of a life.
    async fn inspect(&self, uid: &EnvironmentUid) -> Result<Sight, RuntimeError>;

    /// How the start of PID 1 that ran in a container went when it had been started again there so often: another one
    /// has answered since.
    async fn restarted(
        &self,
        _uid: &EnvironmentUid,
        _container: &str,
        _restarts: u32,
    ) -> Result<Restart, RuntimeError> {
        Ok(Restart::Another)
    }

    /// Everything of this instance, alive or not. What carries another instance is not listed and never touched.
    async fn list(&self) -> Result<Vec<Holding>, RuntimeError>;

    /// A new connection to the runner. Connections are independent: each may be cut at any time.
    async fn dial(
        &self,
        uid: &EnvironmentUid,
        lane: Lane,
    ) -> Result<Box<dyn RunnerIo>, RuntimeError>;

    /// Whether the runtime can work now; the error says what is missing and what mends it.
    async fn check(&self) -> Result<(), RuntimeError>;
}
