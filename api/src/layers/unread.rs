//! Whoever sent a body that nobody read to its end is told that the connection closes.
//!
//! ```text
//!   head, body …… ──▶ route: refused ──▶ answer, "Connection: close"
//!          └── what still comes is not the next request: the server closes
//! ```
//!
//! A client that is not told may send its next request into the end of the connection, and cannot know whether that was
//! done.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;

use axum::body::{Body, HttpBody as _};
use axum::extract::Request;
use axum::http::header::CONNECTION;
use axum::http::{HeaderValue, Version};
use axum::middleware::Next;
use axum::response::Response;
use futures::{StreamExt as _, stream};

/// Adds the header where it is due. Later versions of HTTP have no such header, and need none.
pub(crate) async fn tell_of_close(request: Request, next: Next) -> Response {
    if request.version() > Version::HTTP_11 || request.body().is_end_stream() {
        return next.run(request).await;
    }
    let read = Arc::new(AtomicBool::new(false));
    let request = request.map(|body| watched(body, Arc::clone(&read)));
    let mut response = next.run(request).await;
    if !read.load(Ordering::Acquire) {
        let close = HeaderValue::from_static("close");
        response.headers_mut().insert(CONNECTION, close);
    }
    response
}

/// The body, which notes when it was read to its end.
fn watched(body: Body, read: Arc<AtomicBool>) -> Body {
    let mut body = body.into_data_stream();
    Body::from_stream(stream::poll_fn(move |context| {
        let piece = body.poll_next_unpin(context);
        if matches!(piece, Poll::Ready(None)) || body.is_end_stream() {
            read.store(true, Ordering::Release);
        }
        piece
    }))
}
