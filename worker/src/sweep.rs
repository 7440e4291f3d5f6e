//! What nobody else looks after: one worker at a time goes round.
//!
//! Each round: jobs that nobody picked up are told to the queue again; environments whose PID 1 went are marked failed;
//! those whose lifetime or idle time is over are deleted or stopped ([`Lifetimes`]);
//! containers and volumes without an environment are removed after a while; ended jobs past their time are removed with
//! what they staged. Only what carries this instance is ever seen here ([`Runtime::list`](shared::ports::Runtime::list)).

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::SignedDuration;
use shared::environment::{Environment, EnvironmentEvent, Phase, Reason};
use shared::ids::{EnvironmentUid, JobRef};
use shared::job::QueueLane;
use shared::lease::Observer;
use shared::ports::{Cutoffs, Holding, Lane, RoleHolder, RuntimeError, Sight, StoreError};
use shared::staging::{self, STAGING_BUCKET};
use tokio_util::task::TaskTracker;

use crate::context::Context;
use crate::lifetimes::Lifetimes;
use crate::links::LinkError;
use crate::orphans::Orphans;
use crate::republish::Republisher;
use crate::restart;

const ROLE: &str = "sweeper";
const PERIOD: Duration = Duration::from_secs(5);
const PAGE: u32 = 500;
const REPUBLISH_LIMIT: usize = 500;

/// Between two thorough rounds, which look for orphans and remove what is past its time.
const THOROUGH_PERIOD: Duration = Duration::from_mins(1);

/// Restarts of a PID 1 that was never seen to run since, after which it is not waited for any longer.
const RESTARTS_MOST: u32 = 3;

const STAGING_SECONDS: u64 = 24 * 3600;
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
    /// Restarts of PID 1 that are noted in the environment.
    restarts: HashMap<EnvironmentUid, u32>,
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
        restarts: HashMap::new(),
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
    sweep.holding.close();
    sweep.holding.wait().await;
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
            told(self.clean_staging().await);
            told(self.context.runtime.tidy().await.map_err(SweepError::from));
        }
        Ok(())
    }

    /// Begins to make ready what is missing, unless it still goes on from a round before: a start may take long, or hang, and
    /// nothing else of a sweep waits for it.
    fn hold_ready(&self) {
        if !self.holding.is_empty() {
            return;
        }
        let context = Arc::clone(&self.context);
        self.holding.spawn(async move {
            tokio::select! {
                kept = context.runtime.keep_warm(&context.warm) => told(kept.map_err(SweepError::from)),
                // As a crash would: whoever comes next goes on from what is there.
                () = context.soft.cancelled() => {}
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
        self.restarts.retain(|uid, _| alive.contains_key(uid));
        self.look_after_running(&alive).await?;
        if thorough {
            let owned = self.owned().await?;
            self.orphans.look(&self.context, &holdings, &owned).await?;
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
                    told(self.mark_fault(environment).await);
                    continue;
                };
                if held.restarts > 0 {
                    self.mark_restart(environment, held.restarts).await;
                }
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
        let event = match (&held.unreachable, &environment.reason) {
            (Some(why), told) if told.as_ref() != Some(why) => EnvironmentEvent::Note(why.clone()),
            (None, Some(told)) if told.code == Reason::NODE_LOST => EnvironmentEvent::Passed {
                code: told.code.clone(),
            },
            _ => return Ok(()),
        };
        self.happened(environment, event).await
    }

    async fn happened(
        &self,
        environment: &Environment,
        event: EnvironmentEvent,
    ) -> Result<(), SweepError> {
        let context = &self.context;
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

    async fn mark_fault(&self, environment: &Environment) -> Result<(), SweepError> {
        let context = &self.context;
        let reason = match context.runtime.inspect(&environment.uid).await? {
            Sight::Alive => return Ok(()),
            Sight::Starting { reason, restarts } => {
                if restarts < environment.restarts.saturating_add(RESTARTS_MOST) {
                    return match held_up(reason, environment.reason.as_ref()) {
                        Some(event) => self.happened(environment, event).await,
                        None => Ok(()),
                    };
                }
                // Nothing of it goes on by itself.
                let container = environment.container.as_deref();
                context.runtime.kill(&environment.uid, container).await?;
                reason.unwrap_or_else(|| {
                    Reason::new("exited", "the environment's PID 1 does not stay")
                })
            }
            Sight::Stopped { reason } => {
                reason.unwrap_or_else(|| Reason::new("exited", "the environment's PID 1 has ended"))
            }
            Sight::Absent => Reason::new("absent", "the environment's container is gone"),
        };
        let Some(incarnation) = environment.incarnation.clone() else {
            return Ok(());
        };
        tracing::warn!(environment = %environment.id, reason = reason.code, "an environment went away");
        let fault = EnvironmentEvent::Fault {
            incarnation,
            reason,
        };
        self.happened(environment, fault).await
    }

    async fn mark_restart(&mut self, environment: &Environment, restarts: u32) {
        let uid = &environment.uid;
        let Some(incarnation) = &environment.incarnation else {
            return;
        };
        if self.restarts.get(uid) == Some(&restarts) {
            return;
        }
        let context = &self.context;
        // A link that is kept is one to the start that is gone, and nobody may have noticed yet.
        context.links.forget_all(uid);
        let noted = match context.links.to(uid, incarnation, Lane::Control).await {
            Ok(_) => Ok(()),
            Err(LinkError::OtherIncarnation(link)) => {
                let generation = environment.generation;
                restart::noted(context, environment, generation, incarnation, &link)
                    .await
                    .and_then(|noted| noted.map(drop).ok_or("it is not running".to_owned()))
            }
            Err(error) => Err(error.to_string()),
        };
        match noted {
            Ok(()) => {
                self.restarts.insert(uid.clone(), restarts);
            }
            Err(why) => {
                tracing::debug!(%uid, why, "a restart is not noted yet");
            }
        }
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

    /// Removes staged content by its age, unless its job still waits for it.
    async fn clean_staging(&self) -> Result<(), SweepError> {
        let context = &self.context;
        for entry in context.blobs.list(STAGING_BUCKET, "").await? {
            if entry.age_seconds < STAGING_SECONDS {
                continue;
            }
            let job = match staging::job_of(&entry.name) {
                Some(at) => context.store.job(&at).await?,
                None => None,
            };
            if job.is_none_or(|job| job.state.is_terminal()) {
                context.blobs.delete(&entry.name).await?;
            }
        }
        Ok(())
    }
}

/// What is to be noted of a running environment whose PID 1 does not run now, and of which that is told already. It is
/// replaced when PID 1 is started again.
fn held_up(reason: Option<Reason>, told: Option<&Reason>) -> Option<EnvironmentEvent> {
    let news = reason.filter(|reason| told != Some(reason));
    news.map(EnvironmentEvent::Note)
}

/// Says what went wrong; the next round tries it again.
fn told(step: Result<(), SweepError>) {
    if let Err(error) = step {
        tracing::warn!(%error, "a part of the sweep was not done");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_holds_up_a_running_environment_is_noted_once() {
        let no_image = Reason::new("image_pull_failed", "no such host");
        let noted = held_up(Some(no_image.clone()), None);
        assert_eq!(noted, Some(EnvironmentEvent::Note(no_image.clone())));
        let crashed = Reason::new("exited", "PID 1 ended with exit code 1");
        assert!(held_up(Some(no_image.clone()), Some(&crashed)).is_some());
        assert_eq!(held_up(Some(no_image.clone()), Some(&no_image)), None);
        assert_eq!(held_up(None, Some(&no_image)), None);
    }
}
