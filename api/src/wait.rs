//! Waiting for a job: watch, read, wait for a change, read again.
//!
//! Invariant: the watch is made before the read, so a change in between wakes the waiter. A wait ends early when the
//! service stops, and the caller is answered with what is known.

use std::time::Duration;

use shared::job::Job;
use shared::ports::{StoreError, Watch};
use tokio::time::Instant;

use crate::service::Service;

/// When a wait ends at the latest.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience {
    until: Instant,
}

impl Patience {
    /// From now on.
    pub(crate) fn of(wait: Duration) -> Self {
        Self {
            until: Instant::now() + wait,
        }
    }

    /// What is left of it.
    pub(crate) fn left(self) -> Duration {
        self.until.saturating_duration_since(Instant::now())
    }
}

impl Service {
    /// Waits for a change; false where the time is over or the service stops.
    pub(crate) async fn changed(&self, watch: &mut Watch, patience: Patience) -> bool {
        tokio::select! {
            biased;
            () = watch.changed() => true,
            () = tokio::time::sleep_until(patience.until) => false,
            () = self.stopping.cancelled() => false,
        }
    }

    /// Waits for the end of a job that was read after `watch` was made.
    pub(crate) async fn until_ended(
        &self,
        mut job: Job,
        mut watch: Watch,
        wait: Duration,
    ) -> Result<Job, StoreError> {
        let patience = Patience::of(wait);
        let at = job.at();
        while !job.state.is_terminal() && self.changed(&mut watch, patience).await {
            match self.deps.store.job(&at).await? {
                Some(now) => job = now,
                None => break,
            }
        }
        Ok(job)
    }

    /// Waits for the end of a job that was read at some time before.
    pub(crate) async fn follow(&self, job: Job, wait: Duration) -> Result<Job, StoreError> {
        if job.state.is_terminal() {
            return Ok(job);
        }
        let watch = self.deps.store.watch(&job.at());
        let job = self.deps.store.job(&job.at()).await?.unwrap_or(job);
        self.until_ended(job, watch, wait).await
    }
}
