//! Standard input from the store into a running command.
//!
//! ```text
//!   watch ─▶ store.stdin(next) ─▶ WriteStdin at its offset ─▶ store.stdin_taken(next) ─▶ watch
//! ```
//!
//! Every byte has its offset, so that one which is sent again, over a new connection or by another worker, is a no-op in
//! the environment. The runner takes in a bounded amount and then waits for the command; so does this.

use std::time::Duration;

use runner::MAX_FRAME_BYTES;
use runner::proto::WriteStdinRequest;
use shared::ports::StoreError;
use tonic::Code;

use crate::execute::Task;
use crate::links::Link;
use crate::reach::{Backoff, is_answer};

/// Why nothing more is fed over this connection.
pub(super) enum Fed {
    /// The input has ended, or nobody reads it any more.
    Done,
    /// The lease is another's.
    Dropped,
    /// The connection broke.
    Broke(String),
}

/// Feeds the command until there is nothing more to feed.
pub(super) async fn feed(task: &Task, link: Link) -> Fed {
    let store = &task.context.store;
    let mut watch = store.watch(&task.at);
    let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(2));
    let mut next = 0;
    loop {
        let waiting = match store.stdin(&task.at, next, MAX_FRAME_BYTES as u64).await {
            Ok(waiting) => waiting,
            Err(error) => {
                tracing::debug!(job = %task.at.job, %error, "the input of a command cannot be read yet");
                backoff.wait().await;
                continue;
            }
        };
        if waiting.data.is_empty() && !waiting.closed {
            watch.changed().await;
            continue;
        }
        let end = waiting.start + waiting.data.len() as u64;
        let request = WriteStdinRequest {
            job_id: task.at.job.to_string(),
            offset: waiting.start,
            data: waiting.data,
            eof: waiting.closed,
        };
        let broken = match link.client.clone().write_stdin(request).await {
            Ok(_) => false,
            // The command closed its end or has ended.
            Err(status) if matches!(status.code(), Code::FailedPrecondition | Code::NotFound) => {
                true
            }
            Err(status) if is_answer(&status) => {
                tracing::warn!(job = %task.at.job, error = status.message(), "the runner refuses input");
                true
            }
            Err(status) => return Fed::Broke(status.message().to_owned()),
        };
        match store.stdin_taken(&task.at, task.fence(), end, broken).await {
            Ok(()) if broken || waiting.closed => return Fed::Done,
            Ok(()) => next = end,
            Err(StoreError::Fenced) => return Fed::Dropped,
            // Sent once more, which changes nothing there.
            Err(error) => {
                tracing::debug!(job = %task.at.job, %error, "taken input cannot be noted yet");
                backoff.wait().await;
            }
        }
    }
}
