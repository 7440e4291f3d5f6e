//! Jobs whose owner is gone: they are leased again, with a higher fence, and go on where they are.

use std::sync::Arc;
use std::time::Duration;

use shared::ids::JobId;
use shared::lease::Observer;
use shared::ports::{HeldJob, LeaseAttempt, StoreError};
use tokio::sync::OwnedSemaphorePermit;

use crate::context::Context;
use crate::execute;

/// Looks per lease.
const LOOKS_PER_LEASE: u32 = 6;
const PAGE: u32 = 500;

/// Looks for such jobs until the soft token is cancelled; the first time at once.
pub(crate) async fn keep(context: Arc<Context>) {
    let mut observer = Observer::default();
    let period = (context.lease / LOOKS_PER_LEASE).max(Duration::from_millis(500));
    loop {
        if let Err(error) = look(&context, &mut observer).await {
            tracing::warn!(%error, "could not look for jobs whose worker is gone");
        }
        tokio::select! {
            () = context.soft.cancelled() => return,
            () = tokio::time::sleep(period) => {}
        }
    }
}

async fn look(context: &Arc<Context>, observer: &mut Observer) -> Result<(), StoreError> {
    let beats = context.store.beats().await?;
    observer.observe(&beats, context.clock.monotonic());
    let mut after: Option<JobId> = None;
    loop {
        let held = context.store.held(after, PAGE).await?;
        let Some(last) = held.last() else {
            return Ok(());
        };
        after = Some(last.at.job);
        for job in held {
            if context.soft.is_cancelled() {
                return Ok(());
            }
            if is_orphan(context, observer, &job) {
                // What runs already costs the same with or without a slot, so a takeover waits for none: behind a
                // backlog of new jobs it might wait for ever. It takes one that is free, so that fewer are begun.
                let slot = context.slots(job.lane).try_acquire_owned().ok();
                context
                    .jobs
                    .spawn(take_over(Arc::clone(context), slot, job));
            }
        }
    }
}

/// Mine, but nobody here works on it; or another's who is gone.
fn is_orphan(context: &Context, observer: &Observer, job: &HeldJob) -> bool {
    if job.owner == context.me {
        return !context.is_active(job.at.job);
    }
    context.store.exclusive()
        || observer.is_gone(&job.owner, context.lease, context.clock.monotonic())
}

async fn take_over(context: Arc<Context>, slot: Option<OwnedSemaphorePermit>, held: HeldJob) {
    let Some(active) = context.mark_active(held.at.job) else {
        return;
    };
    match context
        .store
        .lease(&held.at, &context.me, Some(held.fence), context.clock.now())
        .await
    {
        Ok(LeaseAttempt::Leased(leased)) => {
            tracing::info!(job = %held.at.job, from = %held.owner, "took over a job");
            metrics::counter!("environment_manager_takeovers_total").increment(1);
            execute::execute(&context, active, *leased, slot).await;
        }
        Ok(_) => {}
        Err(error) => tracing::warn!(job = %held.at.job, %error, "could not take over a job"),
    }
}
