//! The port to the queue: a hint that a job waits. Losing all of it loses no job, since the store is the truth.

use async_trait::async_trait;

use crate::ids::JobRef;
use crate::job::QueueLane;

/// Why the queue did not do it.
#[derive(Clone, Debug, thiserror::Error)]
pub enum QueueError {
    /// It cannot work now. The sweeper publishes again what was not picked up.
    #[error("the queue is unavailable: {0}")]
    Unavailable(String),
}

/// A hint on its way. Dropped without [`Delivery::ack`] it comes again.
pub struct Delivery {
    /// The job that waits.
    pub at: JobRef,
    receipt: Box<dyn Receipt>,
}

impl Delivery {
    /// A hint with what settles it.
    pub fn new(at: JobRef, receipt: Box<dyn Receipt>) -> Self {
        Self { at, receipt }
    }

    /// Settles it: the job's lease is durable, or the job is not runnable now.
    pub async fn ack(self) -> Result<(), QueueError> {
        self.receipt.ack().await
    }
}

/// What settles a delivery in an adapter. Dropping it gives the hint back.
#[async_trait]
pub trait Receipt: Send {
    /// The hint is not needed any more.
    async fn ack(self: Box<Self>) -> Result<(), QueueError>;
}

/// Hints that jobs wait.
#[async_trait]
pub trait Queue: Send + Sync {
    /// Tells that a job waits. At least once: a hint may come twice, late or out of order.
    async fn publish(&self, at: &JobRef, lane: QueueLane) -> Result<(), QueueError>;

    /// Waits for the next hint of a lane. The caller asks only while it has a free slot: that is the flow control.
    /// Dropping the future loses nothing.
    async fn receive(&self, lane: QueueLane) -> Result<Delivery, QueueError>;

    /// Whether the queue can work now.
    async fn check(&self) -> Result<(), QueueError>;
}
