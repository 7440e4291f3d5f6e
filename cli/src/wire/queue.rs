//! Where hints wait.

use std::sync::Arc;

use shared::config::{QueueKind, QueueSettings};
use shared::embedded_queue::EmbeddedQueue;
use shared::ports::{Queue, Store};
use shared::rabbitmq_queue::RabbitmqQueue;

use crate::failure::Failure;

/// Hints kept in memory per lane. More jobs than that wait in the store and are read from there.
const HINTS: usize = 10_000;

/// Makes the queue that `queue.kind` names.
pub(crate) fn open(
    settings: &QueueSettings,
    store: &Arc<dyn Store>,
) -> Result<Arc<dyn Queue>, Failure> {
    Ok(match settings.kind {
        QueueKind::Embedded => Arc::new(EmbeddedQueue::new(Arc::clone(store), HINTS)),
        QueueKind::Rabbitmq => {
            let queue =
                RabbitmqQueue::new(settings.url.reveal(), &settings.topic, settings.declare)
                    .map_err(|error| Failure::new("the queue cannot be used", error))?;
            Arc::new(queue)
        }
    })
}
