//! The queue on a real RabbitMQ broker: the suite of the port, and what it does when the broker or the way to it fails.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use lapin::BasicProperties;
use lapin::options::{BasicPublishOptions, QueuePurgeOptions};
use shared::ids::JobRef;
use shared::job::QueueLane;
use shared::ports::Queue;
use shared::rabbitmq_queue::RabbitmqQueue;
use tests::broker::{Broker, url};
use tests::conformance::queue::{Fixture, Fixtures, suite};
use tests::proxy::{Fault, Proxy};

/// Pause before what failed is tried again.
const PAUSE: Duration = Duration::from_millis(100);

fn queue(url: &str, topic: &str) -> RabbitmqQueue {
    RabbitmqQueue::new(url, topic, true).expect("an address")
}

fn fixture(fixtures: &Fixtures, url: &str) -> Fixture {
    fixtures.make(|_, topic| queue(url, topic))
}

/// Publishes as the sweeper does: until the queue has it.
async fn publish(queue: &dyn Queue, at: &JobRef) {
    while queue.publish(at, QueueLane::Lifecycle).await.is_err() {
        tokio::time::sleep(PAUSE).await;
    }
}

/// Receives and settles until all of them came.
async fn receive_all(fixture: &Fixture, mut expected: HashSet<JobRef>) {
    while !expected.is_empty() {
        let delivery = fixture.receive(QueueLane::Lifecycle).await;
        expected.remove(&delivery.at);
        // One of a lost connection cannot be settled, and comes again.
        let _ = delivery.ack().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn it_passes_the_suite() {
    let (broker, fixtures) = (Broker::start().await, Fixtures::default());
    suite(async || fixture(&fixtures, &broker.url())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_was_confirmed_outlives_a_killed_broker() {
    let (mut broker, fixtures) = (Broker::start().await, Fixtures::default());
    let fixture = fixture(&fixtures, &broker.url());
    let mut expected = HashSet::new();
    for round in 0..3 {
        for number in 0..10 {
            let at = fixture.create(&format!("env-{round}-{number}")).await;
            publish(fixture.queue.as_ref(), &at).await;
            expected.insert(at);
        }
        let held = fixture.receive(QueueLane::Lifecycle).await;
        broker.kill();
        assert!(fixture.queue.check().await.is_err());
        // What a lost connection had delivered is settled in vain, and harms nothing.
        let _ = held.ack().await;
        broker.start_again().await;
    }
    receive_all(&fixture, expected).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_connection_that_breaks_in_any_way_is_made_anew() {
    let (broker, fixtures) = (Broker::start().await, Fixtures::default());
    let proxy = Proxy::start(broker.address()).await;
    // A stalled connection is known by its missing heartbeat only, on both sides.
    let fixture = fixture(&fixtures, &format!("{}?heartbeat=2", url(proxy.address())));
    for fault in Fault::ALL {
        let mut expected = HashSet::new();
        for number in 0..5 {
            let at = fixture.create(&format!("env-{fault:?}-{number}")).await;
            publish(fixture.queue.as_ref(), &at).await;
            expected.insert(at);
        }
        let held = fixture.receive(QueueLane::Lifecycle).await;
        proxy.strike(fault);
        drop(held);
        receive_all(&fixture, expected).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn hints_that_nobody_here_asks_for_go_to_who_does() {
    let (broker, fixtures) = (Broker::start().await, Fixtures::default());
    let full = fixture(&fixtures, &broker.url());
    let free = Fixture {
        queue: Arc::new(queue(&broker.url(), "topic-0")),
        store: Arc::clone(&full.store),
    };
    let mut expected = HashSet::new();
    for number in 0..10 {
        let at = full.create(&format!("env-{number}")).await;
        publish(full.queue.as_ref(), &at).await;
        expected.insert(at);
    }
    let held = full.receive(QueueLane::Lifecycle).await;
    expected.remove(&held.at);
    receive_all(&free, expected).await;
    held.ack().await.expect("it is still held");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_message_that_is_no_hint_blocks_nothing_and_a_hint_may_come_twice() {
    let (broker, fixtures) = (Broker::start().await, Fixtures::default());
    let fixture = fixture(&fixtures, &broker.url());
    fixture.queue.check().await.expect("it can work");
    let (_connection, channel) = broker.somebody().await;
    for body in [&b""[..], b"{}", b"\xff\xfe", &[b'x'; 100_000]] {
        let options = BasicPublishOptions::default();
        let name = "topic-0.lifecycle".into();
        let sent =
            channel.basic_publish("".into(), name, options, body, BasicProperties::default());
        sent.await.expect("it is sent").await.expect("it is taken");
    }
    let at = fixture.create("env").await;
    publish(fixture.queue.as_ref(), &at).await;
    publish(fixture.queue.as_ref(), &at).await;
    for _ in 0..2 {
        let delivery = fixture.receive(QueueLane::Lifecycle).await;
        assert_eq!(fixture.take(delivery).await, at);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_a_purge_took_arrives_when_it_is_published_again() {
    let (broker, fixtures) = (Broker::start().await, Fixtures::default());
    let fixture = fixture(&fixtures, &broker.url());
    let at = fixture.create("env").await;
    publish(fixture.queue.as_ref(), &at).await;
    let (_connection, channel) = broker.somebody().await;
    let purged = channel.queue_purge("topic-0.lifecycle".into(), QueuePurgeOptions::default());
    purged.await.expect("it is purged");
    let mut waiting = fixture.receive(QueueLane::Lifecycle).boxed();
    assert!(futures::poll!(&mut waiting).is_pending());
    publish(fixture.queue.as_ref(), &at).await;
    assert_eq!(fixture.take(waiting.await).await, at);
}

#[tokio::test]
async fn queues_that_are_missing_and_may_not_be_made_are_told_of() {
    let broker = Broker::start().await;
    let checked = RabbitmqQueue::new(&broker.url(), "absent", false).expect("an address");
    let error = checked.check().await.expect_err("nothing is there");
    let error = error.to_string();
    assert!(
        error.contains("absent.lifecycle") && error.contains("queue.declare"),
        "{error}"
    );
    let made = queue(&broker.url(), "absent");
    made.check().await.expect("it makes them");
    let checked = RabbitmqQueue::new(&broker.url(), "absent", false).expect("an address");
    checked.check().await.expect("they are there");
}
