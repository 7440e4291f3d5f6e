//! One log line and two metrics for every request. Neither holds a query string, a header or a body.

use axum::extract::{MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::Response;
use tracing::Instrument as _;

use crate::layers::request_id::{RequestId, X_REQUEST_ID};
use crate::service::App;

/// The label of requests that no route takes, so that callers cannot make labels.
const UNMATCHED: &str = "unmatched";

/// Gives the request its id, counts it, and says how it was answered.
pub(crate) async fn observe(State(app): State<App>, mut request: Request, next: Next) -> Response {
    let id = RequestId::of(request.headers(), app.deps.clock.as_ref());
    let begun = app.deps.clock.monotonic();
    let method = request.method().clone();
    let path = request.uri().path().to_owned();
    let route = request
        .extensions()
        .get::<MatchedPath>()
        .map_or_else(|| UNMATCHED.to_owned(), |path| path.as_str().to_owned());
    let span = tracing::info_span!("request", id = id.as_str());
    request.extensions_mut().insert(id.clone());

    let mut response = next.run(request).instrument(span.clone()).await;
    response.headers_mut().insert(X_REQUEST_ID, id.header());

    let took = app.deps.clock.monotonic().saturating_duration_since(begun);
    let status = response.status().as_u16();
    span.in_scope(|| {
        let ms = took.as_secs_f64() * 1e3;
        // What went well is told by the jobs' own lines and by the metrics; a line for each costs much of the rate.
        match status {
            500.. => tracing::warn!(%method, path, status, ms, "answered"),
            400.. => tracing::info!(%method, path, status, ms, "answered"),
            _ => tracing::debug!(%method, path, status, ms, "answered"),
        }
    });
    count(&method, route, status, took);
    response
}

fn count(method: &axum::http::Method, route: String, status: u16, took: std::time::Duration) {
    // Methods are the caller's words too.
    let method = match method.as_str() {
        known @ ("GET" | "HEAD" | "POST" | "PUT" | "DELETE" | "PATCH" | "OPTIONS") => {
            known.to_owned()
        }
        _ => "other".to_owned(),
    };
    metrics::counter!(
        "http_requests_total",
        "method" => method.clone(), "route" => route.clone(), "status" => status.to_string()
    )
    .increment(1);
    metrics::histogram!("http_request_duration_seconds", "method" => method, "route" => route)
        .record(took.as_secs_f64());
}
