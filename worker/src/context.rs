//! What every part of a worker needs, passed as one value: no globals.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use shared::clock::Clock;
use shared::ids::{JobId, WorkerId};
use shared::job::QueueLane;
use shared::lease::acting_time;
use shared::ports::{Blobs, Effects, Queue, Runtime, Store, Warm};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::links::Links;

/// Lifecycle jobs at a time, beside those that wait for the runtime. They have slots of their own, so that a stop never waits behind commands.
const LIFECYCLE_SLOTS: usize = 32;

/// One worker process.
pub(crate) struct Context {
    pub(crate) me: WorkerId,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) queue: Arc<dyn Queue>,
    pub(crate) blobs: Arc<dyn Blobs>,
    pub(crate) runtime: Arc<dyn Runtime>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) links: Links,
    pub(crate) lease: Duration,
    pub(crate) shutdown_grace: Duration,
    pub(crate) retention: Duration,
    pub(crate) agent_name: String,
    /// What is held ready.
    pub(crate) warm: Vec<Warm>,
    /// Stop taking work; finish or hand back.
    pub(crate) soft: CancellationToken,
    /// Drop everything now.
    pub(crate) hard: CancellationToken,
    /// Every job that runs, so that a drain can wait for them.
    pub(crate) jobs: TaskTracker,
    slots: Slots,
    active: Mutex<HashSet<JobId>>,
    renewed: Mutex<Instant>,
}

struct Slots {
    lifecycle: Arc<Semaphore>,
    work: Arc<Semaphore>,
}

/// What [`Context::new`] takes beside the ports.
pub(crate) struct ContextSettings {
    pub(crate) concurrency: u32,
    pub(crate) lease: Duration,
    pub(crate) shutdown_grace: Duration,
    pub(crate) retention: Duration,
    pub(crate) agent_name: String,
    /// What is held ready.
    pub(crate) warm: Vec<Warm>,
}

impl Context {
    pub(crate) fn new(
        deps: crate::WorkerDeps,
        settings: ContextSettings,
        soft: CancellationToken,
        hard: CancellationToken,
    ) -> Arc<Self> {
        Arc::new(Self {
            me: shared::clock::new_worker_id(deps.clock.as_ref()),
            links: Links::new(Arc::clone(&deps.runtime), Arc::clone(&deps.clock)),
            renewed: Mutex::new(deps.clock.monotonic()),
            store: deps.store,
            queue: deps.queue,
            blobs: deps.blobs,
            runtime: deps.runtime,
            clock: deps.clock,
            lease: settings.lease,
            shutdown_grace: settings.shutdown_grace,
            retention: settings.retention,
            agent_name: settings.agent_name,
            warm: settings.warm,
            soft,
            hard,
            jobs: TaskTracker::new(),
            slots: Slots {
                lifecycle: Arc::new(Semaphore::new(LIFECYCLE_SLOTS)),
                work: Arc::new(Semaphore::new(settings.concurrency as usize)),
            },
            active: Mutex::default(),
        })
    }

    /// The slots of a lane.
    pub(crate) fn slots(&self, lane: QueueLane) -> Arc<Semaphore> {
        Arc::clone(match lane {
            QueueLane::Lifecycle => &self.slots.lifecycle,
            QueueLane::Work => &self.slots.work,
        })
    }

    /// Marks a job as worked on here until the mark is dropped; none if it is already.
    pub(crate) fn mark_active(self: &Arc<Self>, job: JobId) -> Option<Active> {
        let fresh = self.active_jobs().insert(job);
        fresh.then(|| Active {
            context: Arc::clone(self),
            job,
        })
    }

    /// Whether a job is worked on here.
    pub(crate) fn is_active(&self, job: JobId) -> bool {
        self.active_jobs().contains(&job)
    }

    /// Notes that the heartbeat was renewed by a write that began at `began`.
    pub(crate) fn renewed(&self, began: Instant) {
        *self.renewed.lock().unwrap_or_else(PoisonError::into_inner) = began;
    }

    /// Whether the heartbeat is young enough for this worker to act. Where nobody else can use the store, it always is.
    pub(crate) fn may_act(&self) -> bool {
        let renewed = *self.renewed.lock().unwrap_or_else(PoisonError::into_inner);
        self.store.exclusive()
            || self.clock.monotonic().saturating_duration_since(renewed) < acting_time(self.lease)
    }

    /// Tells the queue of jobs that a commit made runnable. A failure is no loss: the sweep publishes them again.
    pub(crate) async fn publish(&self, effects: Effects) {
        for (at, lane) in effects.runnable {
            if let Err(error) = self.queue.publish(&at, lane).await {
                tracing::warn!(job = %at.job, %error, "could not publish a job; the sweep will");
            }
        }
    }

    fn active_jobs(&self) -> std::sync::MutexGuard<'_, HashSet<JobId>> {
        self.active.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The mark of a job that is worked on here.
pub(crate) struct Active {
    context: Arc<Context>,
    job: JobId,
}

impl Drop for Active {
    fn drop(&mut self) {
        self.context.active_jobs().remove(&self.job);
    }
}
