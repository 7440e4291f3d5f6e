//! The documentation as a page for people: one file that reads `/openapi.json` and needs nothing else, so that it works
//! on a machine without the internet.
//!
//! Invariant: the page can run and load nothing but what stands in it. Its policy names the hashes of its own script and
//! style, and lets it talk to this service alone.

use std::sync::LazyLock;

use axum::http::HeaderValue;
use axum::http::header::{CONTENT_SECURITY_POLICY, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha256};

const PAGE: &str = include_str!("docs.html");

/// The page's policy; made once, since the page never changes.
static POLICY: LazyLock<Option<HeaderValue>> = LazyLock::new(|| {
    let policy = format!(
        "default-src 'none'; connect-src 'self'; script-src '{}'; style-src '{}'; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        hash_of("script"),
        hash_of("style"),
    );
    HeaderValue::try_from(policy).ok()
});

/// This documentation, for people.
#[utoipa::path(
    get, path = "/docs", tag = "service", security(()),
    responses((status = 200, description = "A page that shows the OpenAPI document", body = String, content_type = "text/html"))
)]
pub(crate) async fn page() -> Response {
    let mut response = PAGE.into_response();
    let headers = response.headers_mut();
    headers.insert(
        CONTENT_TYPE,
        HeaderValue::from_static("text/html; charset=utf-8"),
    );
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    if let Some(policy) = &*POLICY {
        headers.insert(CONTENT_SECURITY_POLICY, policy.clone());
    }
    response
}

/// The hash of the page's one element of that name, as a policy writes it.
fn hash_of(element: &str) -> String {
    let content = PAGE
        .split_once(&format!("<{element}>"))
        .and_then(|(_, rest)| rest.split_once(&format!("</{element}>")))
        .map_or("", |(content, _)| content);
    format!("sha256-{}", STANDARD.encode(Sha256::digest(content)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_asks_nobody_else() {
        assert!(PAGE.matches("<script").count() == 1 && PAGE.matches("<style").count() == 1);
        assert_ne!(hash_of("script"), hash_of("nothing"));
        for foreign in [
            "http://", "https://", "src=", "@import", "style=", "onclick=",
        ] {
            assert!(!PAGE.contains(foreign), "{foreign}");
        }
    }
}
