//! What the routes work with: the ports, the settings, and the signal to stop.

use std::sync::Arc;

use futures::future::BoxFuture;
use metrics_exporter_prometheus::PrometheusHandle;
use shared::clock::Clock;
use shared::config::Settings;
use shared::ports::{Blobs, Queue, RuntimeOffer, Store};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::auth::KeyRing;

/// Asks whether something that this service needs can work now; the error says what is missing.
pub type Check = Arc<dyn Fn() -> BoxFuture<'static, Result<(), String>> + Send + Sync>;

/// A named check that `GET /ready` asks beside those of store, queue and blobs.
#[derive(Clone)]
pub struct ReadyCheck {
    /// Its name in the answer.
    pub name: &'static str,
    /// What is asked.
    pub check: Check,
}

/// Everything that the API stands on.
pub struct ApiDeps {
    /// The truth.
    pub store: Arc<dyn Store>,
    /// Where a hint goes for each accepted job.
    pub queue: Arc<dyn Queue>,
    /// Staged content and artifacts.
    pub blobs: Arc<dyn Blobs>,
    /// What environments may ask for, so that a request is refused before it is accepted.
    pub offer: RuntimeOffer,
    /// Further checks of `GET /ready`, such as the runtime's.
    pub checks: Vec<ReadyCheck>,
    /// Time and randomness.
    pub clock: Arc<dyn Clock>,
    /// The settings.
    pub settings: Arc<Settings>,
    /// The recorder whose numbers `GET /metrics` shows.
    pub metrics: PrometheusHandle,
}

/// The state of every route.
pub(crate) struct Service {
    pub(crate) deps: ApiDeps,
    /// Who is let in.
    pub(crate) keys: KeyRing,
    /// Cancelled when waiting requests shall answer.
    pub(crate) stopping: CancellationToken,
    /// Held by the streams of output that read more of the store than they send at once.
    pub(crate) ahead: Arc<Semaphore>,
}

/// A shared [`Service`].
pub(crate) type App = Arc<Service>;
