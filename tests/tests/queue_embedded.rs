//! The embedded queue over the SQLite store: the suite of the port, and what its bounded buffer does.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use shared::clock::SystemClock;
use shared::embedded_queue::EmbeddedQueue;
use shared::job::QueueLane;
use shared::ports::Store;
use shared::sqlite::SqliteStore;
use tempfile::TempDir;
use tests::conformance::queue::{Fixture, suite};

/// Fixtures over new stores in one folder.
struct Fixtures {
    folder: TempDir,
    made: AtomicU32,
}

impl Fixtures {
    fn new() -> Self {
        Self {
            folder: TempDir::new().expect("a folder"),
            made: AtomicU32::new(0),
        }
    }

    fn make(&self, capacity: usize) -> Fixture {
        let number = self.made.fetch_add(1, Ordering::Relaxed);
        let path = self.folder.path().join(format!("{number}.db"));
        let store: Arc<dyn Store> =
            Arc::new(SqliteStore::open(&path, &SystemClock).expect("a store"));
        Fixture {
            queue: Arc::new(EmbeddedQueue::new(Arc::clone(&store), capacity)),
            store,
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn it_passes_the_suite_with_room_to_spare() {
    let fixtures = Fixtures::new();
    suite(async || fixtures.make(1024)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn it_passes_the_suite_with_almost_no_room() {
    let fixtures = Fixtures::new();
    for capacity in [1, 2, 7] {
        suite(async || fixtures.make(capacity)).await;
    }
}

#[tokio::test]
async fn what_waited_before_the_start_is_found_in_order_without_a_hint() {
    let fixtures = Fixtures::new();
    let before = fixtures.make(1);
    let mut waiting = Vec::new();
    for number in 0..25 {
        waiting.push(before.create(&format!("env-{number}")).await);
    }
    // Two of one millisecond have no order.
    waiting.sort_by_key(|at| at.job);
    let after = Fixture {
        queue: Arc::new(EmbeddedQueue::new(Arc::clone(&before.store), 4)),
        store: Arc::clone(&before.store),
    };
    for expected in waiting {
        let delivery = after.receive(QueueLane::Lifecycle).await;
        assert_eq!(after.take(delivery).await, expected);
    }
}

#[tokio::test]
async fn a_full_buffer_drops_hints_and_no_job() {
    let fixtures = Fixtures::new();
    let fixture = fixtures.make(3);
    let mut expected = HashSet::new();
    for number in 0..40 {
        let at = fixture.create(&format!("env-{number}")).await;
        fixture
            .queue
            .publish(&at, QueueLane::Lifecycle)
            .await
            .expect("never blocks");
        expected.insert(at);
    }
    // All are held at once, more than the buffer has room for, before the first is settled.
    let mut held = Vec::new();
    for _ in 0..40 {
        held.push(fixture.receive(QueueLane::Lifecycle).await);
    }
    let found: HashSet<_> = held.iter().map(|delivery| delivery.at.clone()).collect();
    assert_eq!(found, expected);
    for delivery in held {
        fixture.take(delivery).await;
    }
}
