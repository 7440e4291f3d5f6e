//! When a lease's owner counts as gone, and when an owner must stop acting.
//!
//! Each worker changes its heartbeat; nobody compares clocks. An observer notes, on its own monotonic clock, when it
//! last saw a heartbeat change. After `lease_seconds` without a change the owner counts as gone; the owner itself stops
//! acting after two thirds of that without a renewal of its own, so the two never overlap.
//!
//! ```text
//!   owner     beat ─────── beat ───────── (frozen) ──── 2/3: may not act any more
//!   observer       saw 7 ─────── saw 8 ─────────────────────────────── 3/3: gone
//! ```

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::ids::WorkerId;

/// A worker's heartbeat as the store holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Beat {
    /// The worker.
    pub worker: WorkerId,
    /// Changes with every heartbeat.
    pub count: u64,
}

/// What one process has seen of the others' heartbeats.
#[derive(Debug, Default)]
pub struct Observer {
    seen: HashMap<WorkerId, (u64, Instant)>,
}

impl Observer {
    /// Takes in the heartbeats as they stand now. Workers without one are forgotten.
    pub fn observe(&mut self, beats: &[Beat], now: Instant) {
        let before = std::mem::take(&mut self.seen);
        for beat in beats {
            let since = match before.get(&beat.worker) {
                Some((count, since)) if *count == beat.count => *since,
                _ => now,
            };
            self.seen.insert(beat.worker.clone(), (beat.count, since));
        }
    }

    /// Whether an owner is gone: it has no heartbeat at all, or the same one for the whole lease.
    pub fn is_gone(&self, owner: &WorkerId, lease: Duration, now: Instant) -> bool {
        match self.seen.get(owner) {
            None => true,
            Some((_, since)) => now.saturating_duration_since(*since) >= lease,
        }
    }
}

/// How long an owner may act after its last renewal.
pub fn acting_time(lease: Duration) -> Duration {
    lease * 2 / 3
}

#[cfg(test)]
mod tests {
    use super::*;

    fn worker(name: &str) -> WorkerId {
        WorkerId::new(name).expect("a worker id")
    }

    #[test]
    fn an_owner_is_gone_only_after_a_whole_lease_without_a_change() {
        let (lease, start) = (Duration::from_secs(30), Instant::now());
        let mut observer = Observer::default();
        let beat = |count| {
            vec![Beat {
                worker: worker("a"),
                count,
            }]
        };
        observer.observe(&beat(1), start);
        observer.observe(&beat(1), start + Duration::from_secs(29));
        assert!(!observer.is_gone(&worker("a"), lease, start + Duration::from_secs(29)));
        assert!(observer.is_gone(&worker("a"), lease, start + Duration::from_secs(30)));
        observer.observe(&beat(2), start + Duration::from_secs(31));
        assert!(!observer.is_gone(&worker("a"), lease, start + Duration::from_secs(60)));
        assert!(observer.is_gone(&worker("never-seen"), lease, start));
    }

    #[test]
    fn an_owner_stops_before_it_counts_as_gone() {
        let lease = Duration::from_secs(30);
        assert!(acting_time(lease) < lease);
    }
}
