//! What nobody else looks after: one worker at a time goes round.
//!
//! Each round: jobs that nobody picked up are told to the queue again; environments whose PID 1 went are marked failed;
//! containers and volumes without an environment are removed after a while; ended jobs past their time are removed with
//! what they staged. Only what carries this instance is ever seen here ([`Runtime::list`](shared::ports::Runtime::list)).

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use jiff::SignedDuration;
use shared::environment::{EnvironmentEvent, Phase, Reason};
use shared::ids::{EnvironmentUid, JobRef};
use shared::job::QueueLane;
use shared::lease::Observer;
use shared::ports::{Cutoffs, RoleHolder, RuntimeError, Sight, StoreError};
use shared::staging::{self, STAGING_BUCKET};

use crate::context::Context;
use crate::republish::Republisher;

const ROLE: &str = "sweeper";
const PERIOD: Duration = Duration::from_secs(5);
const PAGE: u32 = 500;
const REPUBLISH_LIMIT: usize = 500;

/// Rounds between two removals of what is past its time.
const ROUNDS_PER_PRUNE: u64 = 12;

const ORPHAN_CONTAINER_SECONDS: u64 = 10 * 60;
const ORPHAN_VOLUME_SECONDS: u64 = 7 * 24 * 3600;
const STAGING_SECONDS: u64 = 24 * 3600;
const READS_KEPT: SignedDuration = SignedDuration::from_mins(10);
const KEYS_KEPT: SignedDuration = SignedDuration::from_hours(24);

/// Why a round ended early.
#[derive(Debug, thiserror::Error)]
enum SweepError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    #[error(transparent)]
    Blobs(#[from] shared::ports::BlobError),
}

struct Sweep {
    context: Arc<Context>,
    observer: Observer,
    work: Republisher,
    lifecycle: Republisher,
    round: u64,
}

/// Goes round until the soft token is cancelled, while this worker has the role.
pub(crate) async fn keep(context: Arc<Context>) {
    let mut sweep = Sweep {
        context: Arc::clone(&context),
        observer: Observer::default(),
        work: Republisher::default(),
        lifecycle: Republisher::default(),
        round: 0,
    };
    loop {
        if let Err(error) = sweep.round().await {
            tracing::warn!(%error, "a sweep ended early");
        }
        tokio::select! {
            () = context.soft.cancelled() => return,
            () = tokio::time::sleep(PERIOD) => {}
        }
    }
}

impl Sweep {
    async fn round(&mut self) -> Result<(), SweepError> {
        if !self.has_role().await? {
            return Ok(());
        }
        self.republish(QueueLane::Lifecycle).await?;
        self.republish(QueueLane::Work).await?;
        let holdings = self.context.runtime.list().await?;
        let alive: HashSet<_> = holdings
            .iter()
            .filter(|held| held.alive)
            .map(|held| held.uid.clone())
            .collect();
        self.mark_faults(&alive).await?;
        if self.round.is_multiple_of(ROUNDS_PER_PRUNE) {
            self.remove_orphans(&holdings).await?;
            self.prune().await?;
            self.clean_staging().await?;
        }
        self.round += 1;
        Ok(())
    }

    /// Keeps the role, or takes it from a worker that is gone.
    async fn has_role(&mut self) -> Result<bool, StoreError> {
        let context = &self.context;
        let holder = context.store.role(ROLE).await?;
        self.observer
            .observe(&context.store.beats().await?, context.clock.monotonic());
        match &holder {
            Some(RoleHolder { owner, .. }) if *owner == context.me => Ok(true),
            Some(RoleHolder { owner, .. })
                if !context.store.exclusive()
                    && !self
                        .observer
                        .is_gone(owner, context.lease, context.clock.monotonic()) =>
            {
                Ok(false)
            }
            _ => {
                context
                    .store
                    .take_role(ROLE, &context.me, holder.as_ref())
                    .await
            }
        }
    }

    async fn republish(&mut self, lane: QueueLane) -> Result<(), StoreError> {
        let context = &self.context;
        let mut waiting: Vec<JobRef> = Vec::new();
        // The oldest wait longest: what does not fit is seen when those are gone.
        waiting.extend(context.store.runnable(lane, None, PAGE).await?);
        let ids: Vec<_> = waiting.iter().map(|at| at.job).collect();
        let republisher = match lane {
            QueueLane::Work => &mut self.work,
            QueueLane::Lifecycle => &mut self.lifecycle,
        };
        let due: HashSet<_> = republisher
            .due(&ids, REPUBLISH_LIMIT, context.clock.monotonic())
            .into_iter()
            .collect();
        for at in waiting.iter().filter(|at| due.contains(&at.job)) {
            if let Err(error) = context.queue.publish(at, lane).await {
                tracing::warn!(%error, "could not publish a waiting job again");
                break;
            }
        }
        Ok(())
    }

    /// A running environment without a living PID 1 has failed, also where no job notices.
    async fn mark_faults(&self, alive: &HashSet<EnvironmentUid>) -> Result<(), SweepError> {
        let context = &self.context;
        let mut after = None;
        loop {
            let page = context
                .store
                .environments_in(Phase::Running, after.as_ref(), PAGE)
                .await?;
            let Some(last) = page.last() else {
                return Ok(());
            };
            after = Some(last.at());
            for environment in page
                .iter()
                .filter(|environment| !alive.contains(&environment.uid))
            {
                let reason = match context.runtime.inspect(&environment.uid).await? {
                    Sight::Alive => continue,
                    Sight::Stopped { reason } => reason.unwrap_or_else(|| {
                        Reason::new("exited", "the environment's PID 1 has ended")
                    }),
                    Sight::Absent => Reason::new("absent", "the environment's container is gone"),
                };
                let Some(incarnation) = environment.incarnation.clone() else {
                    continue;
                };
                tracing::warn!(environment = %environment.id, reason = reason.code, "an environment went away");
                let fault = EnvironmentEvent::Fault {
                    incarnation,
                    reason,
                };
                let now = context.clock.now();
                let effects = context
                    .store
                    .environment_event(&environment.at(), environment.generation, fault, now)
                    .await?;
                context.publish(effects).await;
            }
        }
    }

    async fn remove_orphans(&self, holdings: &[shared::ports::Holding]) -> Result<(), SweepError> {
        let context = &self.context;
        let old: Vec<_> = holdings
            .iter()
            .filter(|held| held.age_seconds >= ORPHAN_CONTAINER_SECONDS)
            .collect();
        if old.is_empty() {
            return Ok(());
        }
        let owned = self.owned().await?;
        for held in old.into_iter().filter(|held| !owned.contains(&held.uid)) {
            if held.age_seconds >= ORPHAN_VOLUME_SECONDS {
                tracing::warn!(uid = %held.uid, "removing a volume without an environment");
                context.runtime.delete(&held.uid).await?;
            } else if held.alive {
                tracing::warn!(uid = %held.uid, "ending a container without an environment");
                context
                    .runtime
                    .stop(&held.uid, Duration::from_secs(5))
                    .await?;
            }
        }
        Ok(())
    }

    /// The lives that some record stands for.
    async fn owned(&self) -> Result<HashSet<EnvironmentUid>, StoreError> {
        use Phase::{Creating, Deleting, Failed, Pending, Running, Stopped, Stopping};
        let mut owned = HashSet::new();
        for phase in [
            Pending, Creating, Running, Stopping, Stopped, Failed, Deleting,
        ] {
            let mut after = None;
            loop {
                let page = self
                    .context
                    .store
                    .environments_in(phase, after.as_ref(), PAGE)
                    .await?;
                let Some(last) = page.last() else { break };
                after = Some(last.at());
                owned.extend(page.into_iter().map(|environment| environment.uid));
            }
        }
        Ok(owned)
    }

    async fn prune(&self) -> Result<(), SweepError> {
        let context = &self.context;
        let now = context.clock.now();
        let retention = SignedDuration::try_from(context.retention).unwrap_or(SignedDuration::MAX);
        let before = |age: SignedDuration| now.saturating_sub(age).unwrap_or(now);
        let cutoffs = Cutoffs {
            jobs_before: before(retention),
            reads_before: before(READS_KEPT),
            keys_before: before(KEYS_KEPT),
        };
        for at in context.store.prune(cutoffs, PAGE).await? {
            for entry in context
                .blobs
                .list(STAGING_BUCKET, &staging::prefix(&at))
                .await?
            {
                context.blobs.delete(&entry.name).await?;
            }
        }
        Ok(())
    }

    async fn clean_staging(&self) -> Result<(), SweepError> {
        for entry in self.context.blobs.list(STAGING_BUCKET, "").await? {
            if entry.age_seconds >= STAGING_SECONDS {
                self.context.blobs.delete(&entry.name).await?;
            }
        }
        Ok(())
    }
}
