//! Containers and volumes that no record stands for: listed, and removed when their time is over.
//!
//! ```text
//!  seen without a record ──▶ in the store's list ──(10 min)──▶ container ended ──(7 days)──▶ volume removed
//!           │                        │
//!           └── a record is there ───┴──▶ forgotten
//! ```
//!
//! The time counts from when it was first seen so, not from when it was made: a store that was restored from a backup
//! knows nothing of young lives. The list keeps it over restarts. As wall clocks are set, a process also must have seen
//! it itself, for as long as a container has, before it removes anything.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use shared::ids::EnvironmentUid;
use shared::orphan::{Orphan, OrphanKind};
use shared::ports::{Holding, RuntimeError, StoreError};

use crate::context::Context;
use crate::sweep::Tending;

/// How long a container goes on without a record.
const CONTAINER_TIME: SignedDuration = SignedDuration::from_mins(10);

/// How long a volume stays without a record.
const VOLUME_TIME: SignedDuration = SignedDuration::from_hours(7 * 24);

/// Between TERM and KILL of a container without a record.
const GRACE: Duration = Duration::from_secs(5);

/// What this process has seen without a record, and since when.
#[derive(Debug, Default)]
pub(crate) struct Orphans(HashMap<EnvironmentUid, Instant>);

impl Orphans {
    /// Brings the list up to date and begins to remove what is due. One that cannot be removed holds up no other: it stays
    /// in the list and is tried again at the next look.
    pub(crate) async fn look(
        &mut self,
        context: &Arc<Context>,
        tending: &Tending,
        holdings: &[Holding],
        owned: &HashSet<EnvironmentUid>,
    ) -> Result<(), StoreError> {
        let known = context.store.orphans().await?;
        let (now, tick) = (context.clock.now(), context.clock.monotonic());
        let before = std::mem::take(&mut self.0);
        let mut found = Vec::new();
        for held in holdings.iter().filter(|held| !owned.contains(&held.uid)) {
            let seen = before.get(&held.uid).copied().unwrap_or(tick);
            self.0.insert(held.uid.clone(), seen);
            found.extend(parts(
                held,
                &known,
                now,
                tick.saturating_duration_since(seen),
            ));
        }
        found.sort();
        if found != known {
            context.store.note_orphans(found.clone()).await?;
        }
        let due: Vec<_> = found
            .into_iter()
            .filter(|orphan| orphan.goes_at <= now)
            .collect();
        for of_life in due.chunk_by(|one, next| one.uid == next.uid) {
            let Some(first) = of_life.first() else {
                continue;
            };
            let (context, parts) = (Arc::clone(context), of_life.to_vec());
            tending.begin(&first.uid, async move {
                for orphan in &parts {
                    if let Err(error) = remove(&context, orphan).await {
                        tracing::warn!(uid = %orphan.uid, %error, "could not remove what has no environment");
                    }
                }
            });
        }
        Ok(())
    }
}

/// What is listed of a life that this process has seen without a record for some time.
fn parts(
    held: &Holding,
    known: &[Orphan],
    now: Timestamp,
    seen_for: Duration,
) -> impl Iterator<Item = Orphan> {
    let listed = known.iter().filter(|orphan| orphan.uid == held.uid);
    let since = listed.map(|orphan| orphan.since).min().unwrap_or(now);
    let seen_for = SignedDuration::try_from(seen_for).unwrap_or(SignedDuration::MAX);
    // Zero where this process has seen it for long enough.
    let unseen = CONTAINER_TIME
        .saturating_sub(seen_for)
        .max(SignedDuration::ZERO);
    let container = held
        .container
        .then_some((OrphanKind::Container, CONTAINER_TIME));
    let uid = held.uid.clone();
    let parts = container
        .into_iter()
        .chain([(OrphanKind::Volume, VOLUME_TIME)]);
    parts.map(move |(kind, time)| Orphan {
        uid: uid.clone(),
        kind,
        since,
        goes_at: after(since, time).max(after(now, unseen)),
    })
}

fn after(time: Timestamp, more: SignedDuration) -> Timestamp {
    time.saturating_add(more).unwrap_or(Timestamp::MAX)
}

async fn remove(context: &Context, orphan: &Orphan) -> Result<(), RuntimeError> {
    match orphan.kind {
        OrphanKind::Container => {
            tracing::warn!(uid = %orphan.uid, "ending a container without an environment");
            context.runtime.stop(&orphan.uid, GRACE).await
        }
        OrphanKind::Volume => {
            tracing::warn!(uid = %orphan.uid, "removing a volume without an environment");
            context.runtime.delete(&orphan.uid).await
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(container: bool) -> Holding {
        Holding {
            uid: EnvironmentUid::new("aaaaaaaaaa").expect("a uid"),
            // One that waits for a node, or was evicted, goes like any other.
            alive: false,
            container,
            restarts: 0,
            unreachable: None,
            age_seconds: 1 << 30,
        }
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).expect("a time")
    }

    fn times(
        held: &Holding,
        known: &[Orphan],
        now: i64,
        seen_for: u64,
    ) -> Vec<(&'static str, i64, i64)> {
        parts(held, known, at(now), Duration::from_secs(seen_for))
            .map(|orphan| {
                let (since, goes) = (orphan.since.as_second(), orphan.goes_at.as_second());
                (orphan.kind.as_str(), since, goes)
            })
            .collect()
    }

    #[test]
    fn the_time_counts_from_the_first_look_and_over_restarts() {
        let first: Vec<Orphan> = parts(&held(true), &[], at(1000), Duration::ZERO).collect();
        assert_eq!(
            times(&held(true), &[], 1000, 0),
            [("container", 1000, 1600), ("volume", 1000, 605_800)]
        );
        // A new process knows since when, but must have seen it itself.
        assert_eq!(
            times(&held(true), &first, 2000, 0),
            [("container", 1000, 2600), ("volume", 1000, 605_800)]
        );
        assert_eq!(
            times(&held(true), &first, 2600, 600),
            [("container", 1000, 2600), ("volume", 1000, 605_800)]
        );
        // A clock that was set forward by years removes nothing at once.
        assert_eq!(
            times(&held(false), &first, 1_000_000_000, 60),
            [("volume", 1000, 1_000_000_540)]
        );
    }
}
