//! Where hints wait.

use std::sync::Arc;

use shared::config::{QueueKind, QueueSettings};
use shared::embedded_queue::EmbeddedQueue;
use shared::ports::{Queue, Store};

/// Hints kept in memory per lane. More jobs than that wait in the store and are read from there.
const HINTS: usize = 10_000;

/// Makes the queue that `queue.kind` names.
pub(crate) fn open(settings: &QueueSettings, store: &Arc<dyn Store>) -> Arc<dyn Queue> {
    match settings.kind {
        QueueKind::Embedded => Arc::new(EmbeddedQueue::new(Arc::clone(store), HINTS)),
    }
}
