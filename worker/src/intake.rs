//! Takes jobs from one lane of the queue while there is a free slot.

use std::sync::Arc;
use std::time::Duration;

use shared::job::QueueLane;
use shared::ports::{Delivery, LeaseAttempt, StoreError};
use tokio::sync::OwnedSemaphorePermit;

use crate::context::Context;
use crate::execute;

/// Pause after the queue or the store failed.
const PAUSE: Duration = Duration::from_millis(500);

/// Takes jobs until the soft token is cancelled.
pub(crate) async fn keep(context: Arc<Context>, lane: QueueLane) {
    loop {
        let next = tokio::select! {
            biased;
            () = context.soft.cancelled() => return,
            next = next(&context, lane) => next,
        };
        let Some((slot, delivery)) = next else {
            continue;
        };
        let job = take(Arc::clone(&context), slot, delivery);
        context.jobs.spawn(job);
    }
}

/// A slot first, then a hint to fill it: that order is the flow control.
async fn next(context: &Context, lane: QueueLane) -> Option<(OwnedSemaphorePermit, Delivery)> {
    let slot = context.slots(lane).acquire_owned().await.ok()?;
    match context.queue.receive(lane).await {
        Ok(delivery) => Some((slot, delivery)),
        Err(error) => {
            tracing::warn!(%error, "the queue failed");
            tokio::time::sleep(PAUSE).await;
            None
        }
    }
}

/// Leases the job of a hint and runs it. The hint is settled once the lease is durable or needless.
async fn take(context: Arc<Context>, slot: OwnedSemaphorePermit, delivery: Delivery) {
    let Some(active) = context.mark_active(delivery.at.job) else {
        settle(delivery).await;
        return;
    };
    let attempt = context
        .store
        .lease(&delivery.at, &context.me, None, context.clock.now())
        .await;
    match attempt {
        Ok(LeaseAttempt::Leased(leased)) => {
            settle(delivery).await;
            execute::execute(&context, active, *leased, Some(slot)).await;
        }
        Ok(LeaseAttempt::Ended | LeaseAttempt::NotRunnable | LeaseAttempt::Held) => {
            settle(delivery).await
        }
        Err(error) => {
            if !matches!(error, StoreError::Fenced) {
                tracing::warn!(job = %delivery.at.job, %error, "could not lease a job");
            }
            // Dropped unsettled, the hint comes again; not at once, or a store that is down would be hammered.
            tokio::time::sleep(PAUSE).await;
        }
    }
}

async fn settle(delivery: Delivery) {
    if let Err(error) = delivery.ack().await {
        tracing::debug!(%error, "a hint could not be settled; it comes again and is found settled then");
    }
}
