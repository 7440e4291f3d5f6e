//! The API and the worker as tasks of this process, and how they are told to stop.

use std::future::pending;
use std::sync::Arc;

use api::{ApiDeps, ReadyCheck};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use shared::config::Settings;
use shared::ports::Runtime;
use tokio::net::TcpListener;
use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;
use worker::WorkerDeps;

use crate::failure::Failure;
use crate::wire::Ports;

/// What runs until it is stopped. Dropping it drops the tasks.
pub(crate) struct Roles {
    tasks: JoinSet<Result<(), Failure>>,
    /// Stop taking work; finish or hand back.
    soft: CancellationToken,
    /// Drop everything now.
    hard: CancellationToken,
}

impl Roles {
    /// Starts both roles over the same ports.
    pub(crate) fn start(
        settings: &Settings,
        ports: Ports,
        listener: TcpListener,
    ) -> Result<Self, Failure> {
        let mut roles = Self {
            tasks: JoinSet::new(),
            soft: CancellationToken::new(),
            hard: CancellationToken::new(),
        };
        let settings = Arc::new(settings.clone());
        let api = api_deps(&settings, ports.clone(), metrics()?);
        roles.spawn_api(api, listener);
        roles.spawn_worker(settings, ports);
        Ok(roles)
    }

    fn spawn_api(&mut self, deps: ApiDeps, listener: TcpListener) {
        let (soft, hard) = self.tokens();
        self.tasks.spawn(async move {
            let ended = api::serve(deps, listener, soft, hard).await;
            ended.map_err(|error| Failure::new("the API failed", error))
        });
    }

    fn spawn_worker(&mut self, settings: Arc<Settings>, ports: Ports) {
        let (soft, hard) = self.tokens();
        let deps = WorkerDeps {
            store: ports.store,
            queue: ports.queue,
            blobs: ports.blobs,
            runtime: ports.runtime,
            clock: ports.clock,
        };
        self.tasks.spawn(async move {
            let ended = worker::run(deps, &settings, soft, hard).await;
            ended.map_err(|error| Failure::new("the worker failed", error))
        });
    }

    /// Tokens for one role, which may cancel its own without stopping the other.
    fn tokens(&self) -> (CancellationToken, CancellationToken) {
        (self.soft.child_token(), self.hard.child_token())
    }

    /// Asks both to stop.
    pub(crate) fn stop(&self) {
        self.soft.cancel();
    }

    /// Tells both to drop what they hold.
    pub(crate) fn drop_all(&self) {
        self.hard.cancel();
    }

    /// The failure of a role that ended although nobody asked it to.
    pub(crate) async fn failed(&mut self) -> Failure {
        match self.tasks.join_next().await {
            Some(ended) => failure_of(ended)
                .unwrap_or_else(|| Failure::new("the service cannot go on", "a part of it ended")),
            None => pending().await,
        }
    }

    /// Waits until both have ended. What fails on the way out is logged.
    pub(crate) async fn ended(&mut self) {
        while let Some(ended) = self.tasks.join_next().await {
            if let Some(failure) = failure_of(ended) {
                tracing::error!(%failure, "a part of the service failed while it stopped");
            }
        }
    }
}

fn failure_of(ended: Result<Result<(), Failure>, JoinError>) -> Option<Failure> {
    match ended {
        Ok(ended) => ended.err(),
        Err(error) => Some(Failure::new("a part of the service panicked", error)),
    }
}

fn api_deps(settings: &Arc<Settings>, ports: Ports, metrics: PrometheusHandle) -> ApiDeps {
    ApiDeps {
        store: ports.store,
        queue: ports.queue,
        blobs: ports.blobs,
        offer: ports.runtime.offer(),
        checks: vec![runtime_check(ports.runtime)],
        clock: ports.clock,
        settings: Arc::clone(settings),
        metrics,
    }
}

fn runtime_check(runtime: Arc<dyn Runtime>) -> ReadyCheck {
    ReadyCheck {
        name: "runtime",
        check: Arc::new(move || {
            let runtime = Arc::clone(&runtime);
            Box::pin(async move { runtime.check().await.map_err(|error| error.to_string()) })
        }),
    }
}

/// Takes the numbers of this process, for `GET /metrics`.
fn metrics() -> Result<PrometheusHandle, Failure> {
    PrometheusBuilder::new()
        .install_recorder()
        .map_err(|error| Failure::new("numbers cannot be recorded", error))
}
