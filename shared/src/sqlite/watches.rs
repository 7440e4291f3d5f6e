//! Who waits for which job, in this process.
//!
//! Invariants: a counter is raised only after the commit that changed its job, so that a read after the wake sees the
//! change; a counter with a watcher is never dropped; those without one are at most as many as those with one, and a
//! few.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use crate::ids::JobRef;
use crate::ports::Watch;

/// Entries below which nothing is swept.
const FEW: usize = 64;

/// The counters of watched jobs.
#[derive(Debug, Default)]
pub(super) struct Watches {
    registry: Mutex<Registry>,
}

#[derive(Debug, Default)]
struct Registry {
    counters: HashMap<JobRef, watch::Sender<u64>>,
    /// Size at which entries without a watcher are swept out; at least twice what the last sweep left.
    sweep_at: usize,
}

impl Watches {
    /// A watch on a job.
    pub(super) fn watch(&self, at: &JobRef) -> Watch {
        let mut registry = self.lock();
        if registry.counters.len() >= registry.sweep_at.max(FEW) {
            registry
                .counters
                .retain(|_, counter| counter.receiver_count() > 0);
            registry.sweep_at = registry.counters.len() * 2;
        }
        let counter = registry
            .counters
            .entry(at.clone())
            .or_insert_with(|| watch::channel(0).0);
        Watch::new(counter.subscribe())
    }

    /// Wakes those who watch one of these jobs.
    pub(super) fn raise(&self, jobs: &[JobRef]) {
        if jobs.is_empty() {
            return;
        }
        let mut registry = self.lock();
        if registry.counters.is_empty() {
            return;
        }
        for job in jobs {
            match registry.counters.get(job) {
                Some(counter) if counter.receiver_count() == 0 => {
                    registry.counters.remove(job);
                }
                Some(counter) => counter.send_modify(|count| *count = count.wrapping_add(1)),
                None => {}
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Registry> {
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{JobId, TenantId};

    fn job(number: u128) -> JobRef {
        JobRef {
            tenant: TenantId::default_tenant(),
            job: JobId::from_uuid(uuid::Uuid::from_u128(number)),
        }
    }

    #[test]
    fn entries_go_when_nobody_watches() {
        let watches = Watches::default();
        let kept = watches.watch(&job(0));
        for number in 1..10_000 {
            drop(watches.watch(&job(number)));
        }
        assert!(watches.lock().counters.len() <= FEW);
        assert!(watches.lock().counters.contains_key(&job(0)));
        drop(kept);
        watches.raise(&[job(0)]);
        assert!(!watches.lock().counters.contains_key(&job(0)));
    }

    #[tokio::test]
    async fn a_raise_between_making_and_waiting_is_not_missed() {
        let watches = Watches::default();
        let mut watch = watches.watch(&job(1));
        watches.raise(&[job(1)]);
        watch.changed().await;
    }
}
