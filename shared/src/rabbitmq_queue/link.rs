//! The way to the broker: the session of now, made anew after a loss, for ever, at growing intervals.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::{BoxFuture, Shared};
use lapin::uri::AMQPUri;
use tokio::task::JoinError;
use tokio::time::{Instant, sleep_until, timeout};

use super::session::Session;
use super::topology::Topology;
use crate::ports::QueueError;

/// How long a connection may take to be made.
const CONNECT: Duration = Duration::from_secs(10);

/// How long one publish may take, a new connection included: a request waits for it.
const PUBLISH: Duration = Duration::from_secs(5);

/// How long one attempt of it may take on a session that is there.
const ATTEMPT: Duration = Duration::from_millis(2500);

/// How long a check may take.
const CHECK: Duration = Duration::from_secs(5);

/// The pause after the first failure to connect; it doubles up to [`PAUSE_MOST`].
const PAUSE: Duration = Duration::from_millis(100);

/// The longest pause between two attempts.
const PAUSE_MOST: Duration = Duration::from_secs(10);

/// What keeps the session.
pub(super) struct Link(Arc<Ends>);

/// Both ends: where the broker is, and what this process knows of the way to it.
struct Ends {
    uri: AMQPUri,
    topology: Topology,
    state: Mutex<State>,
}

/// An attempt to connect, which many wait for, or why it failed.
type Attempt = Shared<BoxFuture<'static, Result<Arc<Session>, QueueError>>>;

#[derive(Default)]
struct State {
    session: Option<Arc<Session>>,
    /// The attempt of now.
    attempt: Option<Attempt>,
    /// Attempts that failed one after another.
    failures: u32,
    /// Why the last one failed. Not before then is another made.
    failed: Option<(QueueError, Instant)>,
}

impl Link {
    pub(super) fn new(uri: AMQPUri, topology: Topology) -> Self {
        Self(Arc::new(Ends {
            uri,
            topology,
            state: Mutex::default(),
        }))
    }

    pub(super) fn topology(&self) -> &Topology {
        &self.0.topology
    }

    /// The session of now. Where there is none, one attempt is made if the last failure is long enough ago. It goes on by
    /// itself, whether or not those who wait for it are polled: one who is not must hold up nobody.
    pub(super) async fn session(&self) -> Result<Arc<Session>, QueueError> {
        let attempt = {
            let mut state = self.0.state();
            state.session.take_if(|session| !session.is_open());
            if let Some(session) = &state.session {
                return Ok(Arc::clone(session));
            }
            match (&state.attempt, &state.failed) {
                (Some(attempt), _) => attempt.clone(),
                (None, Some((error, again))) if Instant::now() < *again => {
                    return Err(error.clone());
                }
                _ => state.attempt.insert(Ends::attempt(&self.0)).clone(),
            }
        };
        attempt.await
    }

    /// Forgets a session that failed, unless another has already taken its place.
    pub(super) fn lost(&self, session: &Arc<Session>) {
        self.0
            .state()
            .session
            .take_if(|current| Arc::ptr_eq(current, session));
    }

    /// Waits until another attempt may be made.
    pub(super) async fn pause(&self) {
        let again = self.0.state().failed.as_ref().map(|(_, again)| *again);
        sleep_until(again.unwrap_or_else(|| Instant::now() + PAUSE)).await;
    }

    /// Publishes; where the session turns out to be lost, once more on a new one.
    pub(super) async fn publish(&self, queue: &str, body: &[u8]) -> Result<(), QueueError> {
        let attempts = async {
            let Err(error) = self.attempt(queue, body).await else {
                return Ok(());
            };
            tracing::debug!(%error, "publishing once more");
            self.attempt(queue, body).await
        };
        timeout(PUBLISH, attempts)
            .await
            .unwrap_or_else(|_| Err(late("publishing")))
    }

    /// Publishes once. A session that fails or is late is not used again: if it has stalled, each publish would wait until
    /// its heartbeat is missed.
    async fn attempt(&self, queue: &str, body: &[u8]) -> Result<(), QueueError> {
        let session = self.session().await?;
        let published = timeout(ATTEMPT, session.publish(queue, body)).await;
        let published = published.unwrap_or_else(|_| Err(late("publishing")));
        if published.is_err() {
            self.lost(&session);
        }
        published
    }

    /// Whether the broker answers and has the queues.
    pub(super) async fn check(&self) -> Result<(), QueueError> {
        let checked = async {
            let channel = self.session().await?.channel().await?;
            self.topology().check(&channel).await
        };
        timeout(CHECK, checked)
            .await
            .unwrap_or_else(|_| Err(late("checking")))
    }
}

impl Ends {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn attempt(ends: &Arc<Self>) -> Attempt {
        let (connects, ends) = (Arc::clone(ends), Arc::clone(ends));
        let connecting = tokio::spawn(async move { connects.connect().await });
        let ended = move |joined: Result<_, JoinError>| {
            joined.unwrap_or_else(|error| {
                ends.state().attempt = None;
                Err(QueueError::Unavailable(error.to_string()))
            })
        };
        connecting.map(ended).boxed().shared()
    }

    /// Connects once, and takes down what came of it.
    async fn connect(&self) -> Result<Arc<Session>, QueueError> {
        let opened = timeout(CONNECT, Session::open(self.uri.clone(), &self.topology));
        let opened = opened.await.unwrap_or_else(|_| Err(late("connecting")));
        let mut state = self.state();
        match opened {
            Ok(session) => {
                let session = Arc::new(session);
                *state = State {
                    session: Some(Arc::clone(&session)),
                    ..State::default()
                };
                Ok(session)
            }
            Err(error) => {
                state.attempt = None;
                let again = Instant::now() + pause_after(state.failures);
                state.failures = state.failures.saturating_add(1);
                state.failed = Some((error.clone(), again));
                Err(error)
            }
        }
    }
}

/// Half of it is left to chance, so that many do not come back at once.
fn pause_after(failures: u32) -> Duration {
    let longest = PAUSE.saturating_mul(1 << failures.min(10)).min(PAUSE_MOST);
    longest.mul_f64(rand::random_range(0.5..=1.0))
}

fn late(doing: &str) -> QueueError {
    QueueError::Unavailable(format!("{doing} took too long"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_bound_and_never_end() {
        for failures in [0, 1, 5, 10, 100, u32::MAX] {
            let pause = pause_after(failures);
            assert!(pause >= PAUSE / 2 && pause <= PAUSE_MOST, "{pause:?}");
        }
        assert!(pause_after(u32::MAX) >= PAUSE_MOST / 2);
    }
}
