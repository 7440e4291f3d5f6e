//! The embedded queue over the SQLite store: the suite of the port, and what its bounded buffer does.

use std::collections::HashSet;
use std::sync::Arc;

use shared::embedded_queue::EmbeddedQueue;
use shared::job::QueueLane;
use tests::conformance::queue::{Fixture, Fixtures, suite};

fn fixture(fixtures: &Fixtures, capacity: usize) -> Fixture {
    fixtures.make(|store, _| EmbeddedQueue::new(store, capacity))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn it_passes_the_suite_with_room_to_spare() {
    let fixtures = Fixtures::default();
    suite(async || fixture(&fixtures, 1024)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn it_passes_the_suite_with_almost_no_room() {
    let fixtures = Fixtures::default();
    for capacity in [1, 2, 7] {
        suite(async || fixture(&fixtures, capacity)).await;
    }
}

#[tokio::test]
async fn what_waited_before_the_start_is_found_in_order_without_a_hint() {
    let fixtures = Fixtures::default();
    let before = fixture(&fixtures, 1);
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
    let fixtures = Fixtures::default();
    let fixture = fixture(&fixtures, 3);
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
