//! One worker from its start to its end.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use shared::clock::Clock;
use shared::config::{Settings, WarmImage};
use shared::environment::{Egress, EnvironmentSpec};
use shared::job::QueueLane;
use shared::ports::{Blobs, Queue, Runtime, Store, StoreError, Warm};
use shared::resources::Resources;
use shared::secret::EnvVars;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::context::{Context, ContextSettings};
use crate::{heartbeat, intake, links, sweep, takeover};

/// The ports that a worker works with.
#[derive(Clone)]
pub struct WorkerDeps {
    /// The truth.
    pub store: Arc<dyn Store>,
    /// Hints that jobs wait.
    pub queue: Arc<dyn Queue>,
    /// Large bytes.
    pub blobs: Arc<dyn Blobs>,
    /// Environments.
    pub runtime: Arc<dyn Runtime>,
    /// Time and randomness.
    pub clock: Arc<dyn Clock>,
}

/// What is held ready: images as an environment gets them that asks for nothing else.
fn warm(settings: &Settings, egress: Egress) -> Vec<Warm> {
    let limits = &settings.limits;
    let of_image = |warm: &WarmImage| Warm {
        spec: EnvironmentSpec {
            image: warm.image.clone(),
            env: EnvVars::default(),
            labels: BTreeMap::new(),
            resources: Resources {
                cpu: limits.cpu,
                memory: limits.memory,
                storage: limits.storage,
                pids: limits.pids,
            },
            egress,
            workdir: None,
            ttl_seconds: None,
            idle_timeout_seconds: None,
        },
        count: warm.count,
    };
    settings.worker.warm.0.iter().map(of_image).collect()
}

/// Works until `soft` is cancelled, then finishes or hands back what it holds within `shutdown.grace_seconds`, or drops
/// it when `hard` is cancelled. Nothing is lost either way.
///
/// With `worker.concurrency` 0 no job is taken.
pub async fn run(
    deps: WorkerDeps,
    settings: &Settings,
    soft: CancellationToken,
    hard: CancellationToken,
) -> Result<(), StoreError> {
    let limits = ContextSettings {
        concurrency: settings.worker.concurrency,
        lease: Duration::from_secs(settings.worker.lease_seconds),
        shutdown_grace: Duration::from_secs(settings.shutdown.grace_seconds),
        retention: Duration::from_secs(u64::from(settings.store.retention_days) * 24 * 3600),
        agent_name: settings.registry.agent_name.clone(),
        warm: warm(settings, deps.runtime.offer().default_egress),
    };
    let context = Context::new(deps, limits, soft.clone(), hard.clone());
    heartbeat::begin(&context).await?;
    // Background tasks end with `upkeep`, which outlives the soft token: a draining worker still holds leases.
    let upkeep = CancellationToken::new();
    let tasks = TaskTracker::new();
    tasks.spawn(heartbeat::keep(Arc::clone(&context), upkeep.clone()));
    tasks.spawn(links::keep(Arc::clone(&context), upkeep.clone()));
    if settings.worker.concurrency > 0 {
        tasks.spawn(takeover::keep(Arc::clone(&context)));
        tasks.spawn(sweep::keep(Arc::clone(&context)));
        for lane in [QueueLane::Lifecycle, QueueLane::Work] {
            tasks.spawn(intake::keep(Arc::clone(&context), lane));
        }
    }
    tracing::info!(worker = %context.me, "worker started");
    soft.cancelled().await;
    drain(&context).await;
    upkeep.cancel();
    tasks.close();
    tasks.wait().await;
    if let Err(error) = context.store.retire(&context.me).await {
        tracing::warn!(%error, "could not sign off; the jobs are taken over when the lease has run out");
    }
    tracing::info!(worker = %context.me, "worker stopped");
    Ok(())
}

async fn drain(context: &Context) {
    context.jobs.close();
    let grace = context.shutdown_grace;
    tokio::select! {
        () = context.jobs.wait() => return,
        () = context.hard.cancelled() => {}
        () = tokio::time::sleep(grace) => {
            tracing::warn!(jobs = context.jobs.len(), "jobs did not end or go back in time; they will be taken over");
        }
    }
    context.hard.cancel();
    context.jobs.wait().await;
}
