//! Writes the body of every error, in the shape that the path's clients read.

use std::any::Any;

use axum::body::Body;
use axum::extract::Request;
use axum::http::HeaderValue;
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use serde_json::json;

use crate::layers::request_id::RequestId;
use crate::legacy;
use crate::problem::Problem;

/// Gives a response that carries a [`Problem`] its body.
pub(crate) async fn render(request: Request, next: Next) -> Response {
    let original = legacy::is_original(request.uri().path());
    let id = request.extensions().get::<RequestId>().cloned();
    let mut response = next.run(request).await;
    let Some(problem) = response.extensions_mut().remove::<Problem>() else {
        return response;
    };
    let (body, media_type) = if original {
        (
            json!({ "detail": problem.detail }).to_string(),
            "application/json",
        )
    } else {
        let id = id.as_ref().map(RequestId::as_str).unwrap_or_default();
        let body = serde_json::to_string(&problem.body(id)).unwrap_or_default();
        (body, "application/problem+json")
    };
    let headers = response.headers_mut();
    headers.remove(CONTENT_LENGTH);
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
    *response.body_mut() = Body::from(body);
    response
}

/// The answer where a handler panicked: nothing of the panic is told.
#[allow(
    clippy::needless_pass_by_value,
    reason = "the layer that calls it hands the panic over"
)]
pub(crate) fn on_panic(panic: Box<dyn Any + Send>) -> Response {
    let message = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("no message");
    tracing::error!(message, "a handler panicked");
    Problem::internal().into_response()
}
