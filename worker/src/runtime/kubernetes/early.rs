//! A runner that answers before the cluster says that it runs.
//!
//! ```text
//!   installer ends ──▶ PID 1 starts ──▶ ······ up to a second ······ ──▶ the node tells that it runs
//!         └── told by then ──────▶ asked, a few times, by a stream of its own
//! ```
//!
//! A node looks at its containers once a second. What answers runs, whatever the node has told; what does not answer
//! proves nothing, and the node's word is waited for as ever.

use std::time::Duration;

use shared::ports::{RunnerIo, RuntimeError};

use super::channel::{self, Target};
use super::cluster::Cluster;
use super::cut::Cut;
use super::{names, pod};
use crate::reach::Backoff;

/// The pauses before the attempts, and how many there are: in the second within which the node tells by itself if
/// nothing is amiss. An image that is still being fetched is not worth more.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_millis(200);
const ATTEMPTS: usize = 8;

impl Cluster {
    /// Returns when the runner in a pod was heard; never, if it was not in those few attempts.
    pub(super) async fn heard_early(&self, pod: &str) {
        let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
        for _ in 0..ATTEMPTS {
            backoff.wait().await;
            match self.channel_to(pod).await {
                Ok(_heard) => return,
                Err(error) => tracing::debug!(pod, %error, "the runner does not answer yet"),
            }
        }
        std::future::pending().await
    }

    /// A stream to the runner in a pod, which ends with it.
    pub(super) async fn channel_to(&self, pod: &str) -> Result<Box<dyn RunnerIo>, RuntimeError> {
        let target = Target {
            namespace: &self.settings.namespace,
            pod,
            container: names::CONTAINER,
            command: &[pod::PROGRAM, "connect", pod::SOCKET],
        };
        let stream = channel::open(&self.exec, target).await?;
        Ok(Box::new(Cut::new(stream, &self.watched, pod)))
    }
}
