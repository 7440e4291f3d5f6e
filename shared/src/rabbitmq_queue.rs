//! The queue on a RabbitMQ broker: one quorum queue per lane, and one for what was no hint.
//!
//! ```text
//!   publish ──confirmed──▶ TOPIC.lifecycle, TOPIC.work ──▶ receive ──▶ in flight ──ack──▶ gone
//!                                    ▲     │ no hint                      │ dropped
//!                                    │     ▼                              ▼
//!                                    │   TOPIC.dead                     nack
//!                                    └────────────────────────────────────┘
//! ```
//!
//! Invariants: a publish is done once a quorum queue has the hint, by the broker's own word; hints that nobody here asks
//! for go back to the broker; a lost connection is made anew for as long as somebody asks; what a lost connection had
//! delivered comes again, and its old ack does nothing. A message in `TOPIC.dead` changes no job.

use std::sync::Arc;

use async_trait::async_trait;

use crate::ids::JobRef;
use crate::job::QueueLane;
use crate::ports::{Delivery, Queue, QueueError};

mod address;
mod inbox;
mod link;
mod message;
mod receipt;
mod session;
mod topology;

pub use address::{InvalidAddress, check_topic, check_url};

use inbox::Inbox;
use link::Link;
use topology::Topology;

/// Hints on a broker.
pub struct RabbitmqQueue {
    link: Link,
    lifecycle: Arc<Inbox>,
    work: Arc<Inbox>,
}

impl RabbitmqQueue {
    /// A queue on the broker at `url`, whose queues have names that begin with `topic`. It connects when it is first
    /// used; with `declare` it makes the queues that are missing then.
    pub fn new(url: &str, topic: &str, declare: bool) -> Result<Self, InvalidAddress> {
        check_topic(topic)?;
        let topology = Topology::new(topic, declare);
        let inbox = |lane| Arc::new(Inbox::new(topology.queue(lane).to_owned()));
        Ok(Self {
            lifecycle: inbox(QueueLane::Lifecycle),
            work: inbox(QueueLane::Work),
            link: Link::new(address::parse(url)?, topology),
        })
    }

    fn inbox(&self, lane: QueueLane) -> &Arc<Inbox> {
        match lane {
            QueueLane::Lifecycle => &self.lifecycle,
            QueueLane::Work => &self.work,
        }
    }
}

#[async_trait]
impl Queue for RabbitmqQueue {
    async fn publish(&self, at: &JobRef, lane: QueueLane) -> Result<(), QueueError> {
        let body = message::encode(at)?;
        self.link
            .publish(self.link.topology().queue(lane), &body)
            .await
    }

    async fn receive(&self, lane: QueueLane) -> Result<Delivery, QueueError> {
        let inbox = self.inbox(lane);
        let _asking = inbox.ask();
        loop {
            match inbox.next(&self.link).await {
                Ok(delivery) => return Ok(delivery),
                Err(error) => {
                    tracing::warn!(%error, "waiting for the queue");
                    self.link.pause().await;
                }
            }
        }
    }

    async fn check(&self) -> Result<(), QueueError> {
        self.link.check().await
    }
}
