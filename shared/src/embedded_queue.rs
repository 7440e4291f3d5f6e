//! The queue inside the process: a bounded buffer of hints per lane, fed from the store.
//!
//! ```text
//!   publish ──▶ buffer ──▶ receive ──▶ in flight ──ack──▶ gone
//!     │ full      ▲                        │ dropped
//!     ▼           │ page by page           ▼
//!   behind ──▶ store.runnable           returned, comes again after a pause
//! ```
//!
//! Invariants: a published job is in the buffer, in flight, returned, or the lane is behind; a lane that is behind reads
//! the store before it waits; a job is in the lane at most once. A lane that is behind takes no hints until it has caught
//! up, so that a steady stream of new jobs cannot starve the older ones that only the store knows.

use std::sync::Arc;

use async_trait::async_trait;

use crate::ids::JobRef;
use crate::job::QueueLane;
use crate::ports::{Delivery, Queue, QueueError, Receipt, Store};

mod lane;
use lane::{Lane, Next};

/// Hints in the memory of this process. It begins behind, so that what waited before the start is found.
pub struct EmbeddedQueue {
    store: Arc<dyn Store>,
    lifecycle: Arc<Lane>,
    work: Arc<Lane>,
}

impl EmbeddedQueue {
    /// A queue over a store, with at most `capacity` hints (at least 1) buffered in each lane.
    pub fn new(store: Arc<dyn Store>, capacity: usize) -> Self {
        Self {
            store,
            lifecycle: Arc::new(Lane::new(capacity)),
            work: Arc::new(Lane::new(capacity)),
        }
    }

    fn lane(&self, lane: QueueLane) -> &Arc<Lane> {
        match lane {
            QueueLane::Lifecycle => &self.lifecycle,
            QueueLane::Work => &self.work,
        }
    }

    /// Reads one page of the store into a lane. Only one receiver does it at a time; the others wait for its page.
    async fn catch_up(&self, lane: &Lane, name: QueueLane) -> Result<(), QueueError> {
        let _one_at_a_time = lane.reading.lock().await;
        let Some(page) = lane.begin_page() else {
            return Ok(());
        };
        let found = self
            .store
            .runnable(name, page.after, page.limit)
            .await
            .map_err(|error| QueueError::Unavailable(error.to_string()))?;
        lane.end_page(&page, found);
        Ok(())
    }
}

#[async_trait]
impl Queue for EmbeddedQueue {
    async fn publish(&self, at: &JobRef, lane: QueueLane) -> Result<(), QueueError> {
        self.lane(lane).publish(at);
        Ok(())
    }

    async fn receive(&self, name: QueueLane) -> Result<Delivery, QueueError> {
        let lane = self.lane(name);
        loop {
            // Enrolled before the look at the lane: what happens between the two wakes it.
            let mut changed = std::pin::pin!(lane.changed.notified());
            changed.as_mut().enable();
            match lane.next() {
                Next::Hint(at) => {
                    let receipt = InFlight {
                        lane: Arc::clone(lane),
                        at: Some(at.clone()),
                    };
                    return Ok(Delivery::new(at, Box::new(receipt)));
                }
                Next::Behind => self.catch_up(lane, name).await?,
                Next::Wait { until: None } => changed.await,
                Next::Wait { until: Some(until) } => {
                    tokio::select! {
                        () = changed => {}
                        () = tokio::time::sleep_until(until) => {}
                    }
                }
            }
        }
    }

    async fn check(&self) -> Result<(), QueueError> {
        Ok(())
    }
}

/// A hint that a receiver holds.
struct InFlight {
    lane: Arc<Lane>,
    /// Taken by the ack.
    at: Option<JobRef>,
}

#[async_trait]
impl Receipt for InFlight {
    async fn ack(mut self: Box<Self>) -> Result<(), QueueError> {
        if let Some(at) = self.at.take() {
            self.lane.settle(&at);
        }
        Ok(())
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        if let Some(at) = self.at.take() {
            self.lane.give_back(at);
        }
    }
}
