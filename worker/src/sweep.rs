//! What nobody else looks after: one worker at a time goes round.
//!
//! Each round: jobs that nobody picked up are told to the queue again; environments whose PID 1 went are marked failed;
//! those whose lifetime or idle time is over are deleted or stopped ([`Lifetimes`]);
//! containers and volumes without an environment are removed after a while; ended jobs past their time are removed with
//! what they staged. Only what carries this instance is ever seen here ([`Runtime::list`](shared::ports::Runtime::list)).
//!
//! A round waits for the store alone, and for a look at what the runtime has. What the runtime may take long for goes on
//! beside the rounds: work on single environments ([`Tending`]), what is held ready, and the runtime's own tidying.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::SignedDuration;
use shared::environment::{Environment, EnvironmentEvent, Phase, Reason};
use shared::ids::{EnvironmentUid, JobRef};
use shared::job::QueueLane;
use shared::lease::Observer;
use shared::ports::{Cutoffs, Holding, RoleHolder, RuntimeError, StoreError};
use shared::staging::{self, STAGING_BUCKET};
use tokio_util::task::TaskTracker;

use self::faults::Faults;
use self::staged::Staged;
use crate::context::Context;
use crate::lifetimes::Lifetimes;
use crate::orphans::Orphans;
use crate::republish::Republisher;

mod faults;
mod staged;
mod tending;
pub(crate) use self::tending::Tending;

const ROLE: &str = "sweeper";
const PERIOD: Duration = Duration::from_secs(5);
const PAGE: u32 = 500;
const REPUBLISH_LIMIT: usize = 500;

/// Between two thorough rounds, which look for orphans and remove what is past its time.
const THOROUGH_PERIOD: Duration = Duration::from_mins(1);

/// How long jobs that only read are kept.
pub(crate) const READS_KEPT: SignedDuration = SignedDuration::from_mins(10);
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
    lifetimes: Lifetimes,
    orphans: Orphans,
    /// What makes ready what shall be: one at most.
    holding: TaskTracker,
    /// The runtime's tidying: one at most.
    tidying: TaskTracker,
    faults: Faults,
    tending: Tending,
    staged: Staged,
    /// When the latest thorough round began.
    thorough: Option<Instant>,
}

/// Goes round until the soft token is cancelled, while this worker has the role.
pub(crate) async fn keep(context: Arc<Context>) {
    let mut sweep = Sweep {
        context: Arc::clone(&context),
        observer: Observer::default(),
        work: Republisher::default(),
        lifecycle: Republisher::default(),
        lifetimes: Lifetimes::default(),
        orphans: Orphans::default(),
        holding: TaskTracker::new(),
        tidying: TaskTracker::new(),
        faults: Faults::new(Arc::clone(&context)),
        tending: Tending::until(context.soft.clone()),
        staged: Staged::default(),
        thorough: None,
    };
    loop {
        if let Err(error) = sweep.round().await {
            tracing::warn!(%error, "a sweep ended early");
        }
        tokio::select! {
            () = context.soft.cancelled() => break,
            () = tokio::time::sleep(PERIOD) => {}
        }
    }
    for begun in [&sweep.holding, &sweep.tidying] {
        begun.close();
        begun.wait().await;
    }
    sweep.tending.ended().await;
}

impl Sweep {
    /// One step that fails must not keep the others from being done.
    async fn round(&mut self) -> Result<(), SweepError> {
        if !self.has_role().await? {
            return Ok(());
        }
        let thorough = self.is_thorough();
        for lane in [QueueLane::Lifecycle, QueueLane::Work] {
            told(self.republish(lane).await.map_err(SweepError::from));
        }
        told(self.expire().await);
        told(self.look_after_holdings(thorough).await);
        self.hold_ready();
        if thorough {
            told(self.prune().await);
            told(self.staged.clean(&self.context).await);
            self.tidy();
        }
        Ok(())
    }

    /// Begins to make ready what is missing, unless it still goes on from a round before: a start may take long, or hang.
    fn hold_ready(&self) {
        let context = Arc::clone(&self.context);
        self.beside(&self.holding, async move {
            context.runtime.keep_warm(&context.warm).await
        });
    }

    /// Begins to tidy the runtime, unless it still goes on from a round before: programs that it starts may hang.
    fn tidy(&self) {
        let context = Arc::clone(&self.context);
        self.beside(&self.tidying, async move { context.runtime.tidy().await });
    }

    /// Begins something of which nothing may be going on, and which no round waits for.
    fn beside(
        &self,
        tracker: &TaskTracker,
        work: impl Future<Output = Result<(), RuntimeError>> + Send + 'static,
    ) {
        if !tracker.is_empty() {
            return;
        }
        let soft = self.context.soft.clone();
        tracker.spawn(async move {
            tokio::select! {
                done = work => told(done.map_err(SweepError::from)),
                // As a crash would: whoever comes next goes on from what is there.
                () = soft.cancelled() => {}
            }
        });
    }

    /// Whether this round is to be a thorough one.
    fn is_thorough(&mut self) -> bool {
        let now = self.context.clock.monotonic();
        let due = self
            .thorough
            .is_none_or(|began| now.saturating_duration_since(began) >= THOROUGH_PERIOD);
        if due {
            self.thorough = Some(now);
        }
        due
    }

    async fn look_after_holdings(&mut self, thorough: bool) -> Result<(), SweepError> {
        let holdings = self.context.runtime.list().await?;
        let alive: HashMap<_, _> = holdings
            .iter()
            .filter(|held| held.alive)
            .map(|held| (held.uid.clone(), held))
            .collect();
        self.faults.retain(|uid| alive.contains_key(uid));
        self.look_after_running(&alive).await?;
        if thorough {
            let owned = self.owned().await?;
            self.orphans
                .look(&self.context, &self.tending, &holdings, &owned)
                .await?;
        }
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
        let now = context.clock.monotonic();
        let due = republisher.due(&ids, REPUBLISH_LIMIT, now);
        let due: HashSet<_> = due.into_iter().collect();
        for at in waiting.iter().filter(|at| due.contains(&at.job)) {
            if let Err(error) = context.queue.publish(at, lane).await {
                tracing::warn!(%error, "could not publish a waiting job again");
                break;
            }
            republisher.published(&at.job, now);
        }
        Ok(())
    }

    async fn expire(&self) -> Result<(), SweepError> {
        let context = &self.context;
        let effects = Lifetimes::expire(&*context.store, &*context.clock).await?;
        context.publish(effects).await;
        Ok(())
    }

    /// A running environment without a living PID 1 has failed, also where no job notices; one whose PID 1 was started
    /// again goes on as another incarnation; one that nobody uses is stopped when its idle time is over.
    async fn look_after_running(
        &mut self,
        alive: &HashMap<EnvironmentUid, &Holding>,
    ) -> Result<(), SweepError> {
        let mut after = None;
        loop {
            let store = &self.context.store;
            let page = store
                .environments_in(Phase::Running, after.as_ref(), PAGE)
                .await?;
            let Some(last) = page.last() else {
                self.lifetimes.turn();
                return Ok(());
            };
            after = Some(last.at());
            for environment in &page {
                let Some(held) = alive.get(&environment.uid) else {
                    self.faults.look_at_missing(&self.tending, environment);
                    continue;
                };
                self.faults
                    .look_at_restarts(&self.tending, environment, held);
                told(self.note_reach(environment, held).await);
                told(self.look_for_idleness(environment).await);
            }
        }
    }

    async fn look_for_idleness(&mut self, environment: &Environment) -> Result<(), SweepError> {
        let context = &self.context;
        let effects = self
            .lifetimes
            .look(&*context.store, &*context.clock, environment)
            .await?;
        context.publish(effects).await;
        Ok(())
    }

    /// Lets the status of an environment say for how long there is no word of its node.
    async fn note_reach(
        &self,
        environment: &Environment,
        held: &Holding,
    ) -> Result<(), SweepError> {
        if environment.is_being_killed() {
            return Ok(());
        }
        let event = match (&held.unreachable, &environment.reason) {
            (Some(why), told) if told.as_ref() != Some(why) => EnvironmentEvent::Note(why.clone()),
            (None, Some(told)) if told.code == Reason::NODE_LOST => EnvironmentEvent::Passed {
                code: told.code.clone(),
            },
            _ => return Ok(()),
        };
        happened(&self.context, environment, event).await
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
}

/// Lets an environment know what was seen of it.
async fn happened(
    context: &Context,
    environment: &Environment,
    event: EnvironmentEvent,
) -> Result<(), SweepError> {
    let effects = context
        .store
        .environment_event(
            &environment.at(),
            environment.generation,
            event,
            context.clock.now(),
        )
        .await?;
    context.publish(effects).await;
    Ok(())
}

/// Says what went wrong; the next round tries it again.
fn told(step: Result<(), SweepError>) {
    if let Err(error) = step {
        tracing::warn!(%error, "a part of the sweep was not done");
    }
}
