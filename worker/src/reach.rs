//! Reaching an environment's PID 1, or proving that it is gone.
//!
//! A connection that breaks proves nothing. An incarnation is gone only when the runtime says that no PID 1 is alive, or
//! when another incarnation answers.

use std::error::Error as _;
use std::time::{Duration, Instant};

use rand::RngExt as _;
use shared::environment::Reason;
use shared::ids::Incarnation;
use shared::ports::{Lane, RuntimeError, Sight};

use crate::execute::Task;
use crate::links::{Link, LinkError};

/// Growing pauses with jitter.
pub(crate) struct Backoff {
    next: Duration,
    most: Duration,
}

impl Backoff {
    pub(crate) fn new(first: Duration, most: Duration) -> Self {
        Self { next: first, most }
    }

    /// Pauses, and doubles the next pause.
    pub(crate) async fn wait(&mut self) {
        let jitter = rand::rng().random_range(0.75..1.25);
        tokio::time::sleep(self.next.mul_f64(jitter)).await;
        self.next = (self.next * 2).min(self.most);
    }
}

/// Why an incarnation is not reached.
pub(crate) enum Unreached {
    /// It is proven gone.
    Gone(Reason),
    /// It is proven gone, since another one answers, over this link.
    Replaced(Box<Link>),
    /// There was no contact until the time was up.
    TooLong(String),
}

/// Connects to an incarnation, trying until `until`.
pub(crate) async fn reach(
    task: &Task,
    incarnation: &Incarnation,
    lane: Lane,
    until: Instant,
) -> Result<Link, Unreached> {
    let mut backoff = Backoff::new(Duration::from_millis(20), Duration::from_secs(2));
    loop {
        let why = match task
            .context
            .links
            .to(&task.job.uid, incarnation, lane)
            .await
        {
            Ok(link) => return Ok(link),
            Err(LinkError::OtherIncarnation(link)) => return Err(Unreached::Replaced(link)),
            Err(error) => error.to_string(),
        };
        if let Some(reason) = gone(task).await {
            return Err(Unreached::Gone(reason));
        }
        if task.context.clock.monotonic() >= until {
            return Err(Unreached::TooLong(why));
        }
        tracing::debug!(job = %task.at.job, why, "no link to the environment yet");
        backoff.wait().await;
    }
}

/// The reason if the runtime proves that no PID 1 of the life is alive.
async fn gone(task: &Task) -> Option<Reason> {
    match task.context.runtime.inspect(&task.job.uid).await {
        Ok(Sight::Alive | Sight::Starting { .. }) | Err(RuntimeError::Unavailable(_)) => None,
        Ok(Sight::Stopped { reason }) => Some(
            reason.unwrap_or_else(|| Reason::new("exited", "the environment's PID 1 has ended")),
        ),
        Ok(Sight::Absent) => Some(Reason::new("absent", "the environment's container is gone")),
        Err(error) => {
            tracing::warn!(job = %task.at.job, %error, "could not inspect an environment");
            None
        }
    }
}

/// Whether a status came from the runner itself, rather than from a connection that broke. Errors of the transport borrow
/// the codes of answers, yet have what broke as their source.
pub(crate) fn is_answer(status: &tonic::Status) -> bool {
    use tonic::Code;
    if status.source().is_some() {
        return false;
    }
    matches!(
        status.code(),
        Code::InvalidArgument
            | Code::NotFound
            | Code::AlreadyExists
            | Code::PermissionDenied
            | Code::FailedPrecondition
            | Code::Aborted
            | Code::OutOfRange
            | Code::ResourceExhausted
            | Code::DataLoss
            | Code::Unimplemented
    )
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tonic::{Code, Status};

    use super::is_answer;

    #[test]
    fn what_the_transport_says_is_no_answer() {
        for code in [Code::PermissionDenied, Code::ResourceExhausted] {
            let mut status = Status::new(code, "said by the runner");
            assert!(is_answer(&status));
            status.set_source(Arc::new(std::io::Error::other("the connection broke")));
            assert!(!is_answer(&status), "{status:?}");
        }
        assert!(!is_answer(&Status::new(Code::Unavailable, "")));
    }
}
