//! The API on a socket, until it is told to stop.

use std::time::Duration;

use axum::serve::ListenerExt as _;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::router::build;
use crate::service::ApiDeps;

/// How often numbers that nobody asked for are folded together, so that they take no room.
const UPKEEP: Duration = Duration::from_secs(10);

/// Serves on `listener`. From `soft` on it accepts no connection, waiting requests answer at once, and it returns when
/// all are answered; from `hard` on it returns at once.
///
/// # Errors
/// Where the socket fails.
pub async fn serve(
    deps: ApiDeps,
    listener: TcpListener,
    soft: CancellationToken,
    hard: CancellationToken,
) -> std::io::Result<()> {
    let metrics = deps.metrics.clone();
    let router = build(deps, soft.clone());
    // A small answer must not wait for the acknowledgement of the one before it.
    let listener = listener.tap_io(|stream| {
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "TCP_NODELAY could not be set");
        }
    });
    let served = axum::serve(listener, router).with_graceful_shutdown(soft.cancelled_owned());
    tokio::select! {
        ended = served.into_future() => ended,
        () = hard.cancelled() => Ok(()),
        () = upkeep(metrics) => Ok(()),
    }
}

async fn upkeep(metrics: PrometheusHandle) {
    let mut ticks = tokio::time::interval(UPKEEP);
    loop {
        ticks.tick().await;
        metrics.run_upkeep();
    }
}
