//! What the service tells of itself.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use futures::future::join_all;
use jiff::Timestamp;
use serde::Serialize;
use shared::ids::EnvironmentUid;
use shared::job::JobState;
use shared::orphan::Orphan;
use shared::ports::StoreCounts;
use utoipa::ToSchema;

use crate::problem::{Problem, ProblemBody};
use crate::service::{App, Check, ReadyCheck, Service};

/// How long a backend may take to say that it works.
const CHECK_TIME: Duration = Duration::from_secs(5);

/// The service lives.
#[derive(Serialize, ToSchema)]
pub(crate) struct Health {
    /// `ok`.
    status: &'static str,
}

/// Whether the service lives. It asks nobody.
#[utoipa::path(
    get, path = "/health", tag = "service", security(()),
    responses((status = 200, description = "It lives", body = Health))
)]
pub(crate) async fn health() -> Json<Health> {
    Json(Health { status: "ok" })
}

/// Whether the service can work: each backend by name, `ok` or `error`. What is wrong stands in the log.
#[utoipa::path(
    get, path = "/ready", tag = "service", security(()),
    responses(
        (status = 200, description = "Every backend works", body = BTreeMap<String, String>),
        (status = 503, description = "Some backend does not", body = BTreeMap<String, String>),
    )
)]
pub(crate) async fn ready(
    State(app): State<App>,
) -> (StatusCode, Json<BTreeMap<String, &'static str>>) {
    let results = join_all(app.checks().into_iter().map(|check| async move {
        let answer = tokio::time::timeout(CHECK_TIME, (check.check)()).await;
        let error = match answer {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error),
            Err(_) => Some("it did not answer in time".to_owned()),
        };
        if let Some(error) = &error {
            tracing::warn!(backend = check.name, error, "a backend is not ready");
        }
        let word = if error.is_none() { "ok" } else { "error" };
        (check.name.to_owned(), word)
    }))
    .await;
    let status = if results.iter().all(|(_, word)| *word == "ok") {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    (status, Json(results.into_iter().collect()))
}

/// What the service does.
#[derive(Serialize, ToSchema)]
pub(crate) struct Status {
    /// `IDLE` or `Working`.
    state: &'static str,
    /// In words.
    detail: String,
    /// When this was so.
    #[schema(value_type = String, format = DateTime)]
    last_update: Timestamp,
    /// Jobs that have not ended, by kind and state.
    jobs: BTreeMap<&'static str, BTreeMap<&'static str, u64>>,
    /// Environments by phase.
    environments: BTreeMap<&'static str, u64>,
    /// Containers and volumes for which there is no environment, and when they are removed.
    orphans: Vec<OrphanView>,
}

/// Something that the runtime holds although no environment has it.
#[derive(Serialize, ToSchema)]
pub(crate) struct OrphanView {
    /// The life, as the runtime names it.
    #[schema(value_type = String)]
    uid: EnvironmentUid,
    /// `container` or `volume`.
    kind: &'static str,
    /// When it was first seen without an environment.
    #[schema(value_type = String, format = DateTime)]
    since: Timestamp,
    /// When it is removed, unless its environment is known again by then.
    #[schema(value_type = String, format = DateTime)]
    goes_at: Timestamp,
}

impl From<Orphan> for OrphanView {
    fn from(orphan: Orphan) -> Self {
        Self {
            uid: orphan.uid,
            kind: orphan.kind.as_str(),
            since: orphan.since,
            goes_at: orphan.goes_at,
        }
    }
}

/// What the service does now.
#[utoipa::path(
    get, path = "/status", tag = "service",
    responses(
        (status = 200, description = "What it does", body = Status),
        (status = 503, description = "The store is down", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn status(State(app): State<App>) -> Result<Json<Status>, Problem> {
    let counts = app.deps.store.counts().await?;
    let orphans = app.deps.store.orphans().await?;
    let in_state = |wanted: JobState| -> u64 {
        let matching = counts.jobs.iter().filter(|(_, state, _)| *state == wanted);
        matching.map(|(_, _, count)| count).sum()
    };
    let (running, queued) = (in_state(JobState::Running), in_state(JobState::Queued));
    let mut jobs = BTreeMap::<_, BTreeMap<_, u64>>::new();
    for (kind, state, count) in &counts.jobs {
        jobs.entry(kind.as_str())
            .or_default()
            .insert(state.as_str(), *count);
    }
    Ok(Json(Status {
        state: if running + queued == 0 {
            "IDLE"
        } else {
            "Working"
        },
        detail: format!("{running} jobs running, {queued} waiting"),
        last_update: app.deps.clock.now(),
        jobs,
        environments: counts
            .environments
            .iter()
            .map(|(phase, count)| (phase.as_str(), *count))
            .collect(),
        orphans: orphans.into_iter().map(OrphanView::from).collect(),
    }))
}

/// Numbers for monitors, as Prometheus reads them.
#[utoipa::path(
    get, path = "/metrics", tag = "service",
    responses(
        (status = 200, description = "The numbers", body = String, content_type = "text/plain; version=0.0.4"),
        (status = 503, description = "The store is down", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn metrics(State(app): State<App>) -> Result<Response, Problem> {
    let counts = app.deps.store.counts().await?;
    let text = format!("{}{}", app.deps.metrics.render(), gauges(&counts));
    Ok(([(CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response())
}

/// This document.
#[utoipa::path(
    get, path = "/openapi.json", tag = "service", security(()),
    responses((status = 200, description = "The OpenAPI document", body = Object))
)]
pub(crate) async fn openapi() -> Json<utoipa::openapi::OpenApi> {
    Json(crate::openapi())
}

impl Service {
    fn checks(&self) -> Vec<ReadyCheck> {
        let (store, queue, blobs) = (
            self.deps.store.clone(),
            self.deps.queue.clone(),
            self.deps.blobs.clone(),
        );
        let mut checks = vec![
            named("store", move || {
                let store = store.clone();
                async move { store.check().await.map_err(|error| error.to_string()) }
            }),
            named("queue", move || {
                let queue = queue.clone();
                async move { queue.check().await.map_err(|error| error.to_string()) }
            }),
            named("blobs", move || {
                let blobs = blobs.clone();
                async move { blobs.check().await.map_err(|error| error.to_string()) }
            }),
        ];
        checks.extend(self.deps.checks.iter().cloned());
        checks
    }
}

fn named<F>(name: &'static str, ask: impl Fn() -> F + Send + Sync + 'static) -> ReadyCheck
where
    F: Future<Output = Result<(), String>> + Send + 'static,
{
    let check: Check = std::sync::Arc::new(move || Box::pin(ask()));
    ReadyCheck { name, check }
}

/// The store's numbers as gauges. They are written here, not recorded: a recorded one would stay after it fell to none.
fn gauges(counts: &StoreCounts) -> String {
    let mut text = String::from("# TYPE environment_manager_jobs gauge\n");
    for (kind, state, count) in &counts.jobs {
        let (kind, state) = (kind.as_str(), state.as_str());
        let _ = writeln!(
            text,
            "environment_manager_jobs{{kind=\"{kind}\",state=\"{state}\"}} {count}"
        );
    }
    text.push_str("# TYPE environment_manager_environments gauge\n");
    for (phase, count) in &counts.environments {
        let phase = phase.as_str();
        let _ = writeln!(
            text,
            "environment_manager_environments{{phase=\"{phase}\"}} {count}"
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use shared::environment::Phase;
    use shared::job::JobKind;

    use super::*;

    #[test]
    fn gauges_are_lines_that_prometheus_reads() {
        let counts = StoreCounts {
            jobs: vec![(JobKind::Exec, JobState::Queued, 3)],
            environments: vec![(Phase::Running, 2)],
        };
        assert_eq!(
            gauges(&counts),
            "# TYPE environment_manager_jobs gauge\n\
             environment_manager_jobs{kind=\"exec\",state=\"queued\"} 3\n\
             # TYPE environment_manager_environments gauge\n\
             environment_manager_environments{phase=\"running\"} 2\n"
        );
    }
}
