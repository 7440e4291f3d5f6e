//! What settles a delivery of the broker.

use async_trait::async_trait;
use lapin::Acker;
use lapin::options::{BasicAckOptions, BasicNackOptions};

use super::session::answered;
use crate::ports::{QueueError, Receipt};

/// A hint that a receiver holds.
pub(super) struct InFlight {
    /// Taken by the ack.
    acker: Option<Acker>,
}

impl InFlight {
    pub(super) fn new(acker: Acker) -> Self {
        Self { acker: Some(acker) }
    }
}

#[async_trait]
impl Receipt for InFlight {
    async fn ack(mut self: Box<Self>) -> Result<(), QueueError> {
        let Some(acker) = self.acker.take() else {
            return Ok(());
        };
        if !answered(acker.ack(BasicAckOptions::default())).await? {
            tracing::debug!("the connection that delivered a hint is lost; the hint comes again");
        }
        Ok(())
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let Some(acker) = self.acker.take() else {
            return;
        };
        // Without a runtime the connection ends too, and with it all that it delivered goes back.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move { give_back(&acker).await });
        }
    }
}

/// Gives a message back to the broker. Where that fails the connection is lost, and the broker takes it back itself.
pub(super) async fn give_back(acker: &Acker) {
    let options = BasicNackOptions {
        requeue: true,
        ..BasicNackOptions::default()
    };
    if let Err(error) = answered(acker.nack(options)).await {
        tracing::debug!(%error, "a hint goes back with its connection");
    }
}
