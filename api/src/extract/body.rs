//! JSON bodies: 400 malformed, 413 too large, 415 not JSON, 422 not what the route takes, with the field's name.

use axum::body::{Body, Bytes};
use axum::extract::{FromRequest, Request};
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, StatusCode};
use bytes::BytesMut;
use futures::StreamExt as _;
use serde::de::DeserializeOwned;

use crate::problem::Problem;
use crate::service::App;

/// A JSON body that must be there.
pub(crate) struct JsonBody<T> {
    /// What was read.
    pub(crate) value: T,
    /// The bytes that it was read from.
    pub(crate) raw: Bytes,
}

/// A JSON body that may be left out, as if it were `{}`.
pub(crate) struct OptionalBody<T> {
    /// What was read.
    pub(crate) value: T,
    /// The bytes that it was read from.
    pub(crate) raw: Bytes,
}

impl<T: DeserializeOwned> FromRequest<App> for JsonBody<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, app: &App) -> Result<Self, Problem> {
        let typed = require_json(request.headers());
        // Also of what is refused: a connection whose body was left unread is closed, maybe under the next request.
        let raw = read_all(request.into_body(), app.deps.settings.server.max_body_bytes).await?;
        typed?;
        let value = parse(&raw)?;
        Ok(Self { value, raw })
    }
}

impl<T: DeserializeOwned> FromRequest<App> for OptionalBody<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, app: &App) -> Result<Self, Problem> {
        let typed = require_json(request.headers());
        let raw = read_all(request.into_body(), app.deps.settings.server.max_body_bytes).await?;
        if raw.is_empty() {
            let value = parse(b"{}")?;
            return Ok(Self { value, raw });
        }
        typed?;
        let value = parse(&raw)?;
        Ok(Self { value, raw })
    }
}

/// A body's bytes, `limit` at most. Of a larger one as much again is read and dropped, so that a caller who sends it all
/// before it reads is there to read the refusal.
async fn read_all(body: Body, limit: u64) -> Result<Bytes, Problem> {
    let broken_off = |_| Problem::malformed("the body did not come whole");
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let mut chunks = body.into_data_stream();
    let (mut all, mut dropped) = (BytesMut::new(), 0);
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(broken_off)?;
        if dropped == 0 && chunk.len() <= limit - all.len() {
            all.extend_from_slice(&chunk);
        } else {
            dropped += chunk.len();
            if dropped > limit {
                break;
            }
        }
    }
    if dropped > 0 {
        return Err(Problem::too_large(format!(
            "the body is larger than {limit} bytes"
        )));
    }
    Ok(all.freeze())
}

/// A content type is not needed, but one that is there must be JSON.
fn require_json(headers: &HeaderMap) -> Result<(), Problem> {
    let Some(value) = headers.get(CONTENT_TYPE) else {
        return Ok(());
    };
    let essence = value
        .to_str()
        .unwrap_or_default()
        .split(';')
        .next()
        .unwrap_or_default()
        .trim()
        .to_ascii_lowercase();
    if essence == "application/json"
        || (essence.starts_with("application/") && essence.ends_with("+json"))
    {
        Ok(())
    } else {
        Err(Problem::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "unsupported_media_type",
            "send the body with Content-Type: application/json",
        ))
    }
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    let mut source = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(&mut source).map_err(|error| {
        let field = field_name(error.path());
        refused(error.inner(), field)
    })?;
    source
        .end()
        .map_err(|error| refused(&error, String::new()))?;
    // A list of a type's fields in order would do as well, but is no body that anybody has documented.
    if bytes.trim_ascii_start().starts_with(b"[") {
        return Err(Problem::invalid("", "the body must be an object"));
    }
    Ok(value)
}

fn refused(error: &serde_json::Error, field: String) -> Problem {
    if error.is_data() {
        Problem::invalid(field, error.to_string())
    } else {
        Problem::malformed(format!("the body is not JSON: {error}"))
    }
}

/// `resources.cpu`, or nothing where the path is the body itself.
fn field_name(path: &serde_path_to_error::Path) -> String {
    if path.iter().next().is_none() {
        String::new()
    } else {
        path.to_string()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code, reason = "only the refusals are looked at")]
    struct Outer {
        count: Option<u64>,
        inner: Option<Inner>,
        marks: Option<BTreeMap<String, String>>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code, reason = "only the refusals are looked at")]
    struct Inner {
        text: Option<String>,
    }

    fn refusal(text: &str) -> Problem {
        parse::<Outer>(text.as_bytes()).expect_err(text)
    }

    #[test]
    fn what_is_no_json_is_malformed() {
        for text in ["", "{", "{]", "nul", "{\"count\":1}x", "\u{1}"] {
            assert_eq!(refusal(text).status, StatusCode::BAD_REQUEST, "{text:?}");
        }
        let deep = "[".repeat(100_000);
        assert!(parse::<Outer>(deep.as_bytes()).is_err());
    }

    #[test]
    fn what_does_not_fit_is_named() {
        for (text, field) in [
            (r#"{"count":"1"}"#, "count"),
            (r#"{"count":-1}"#, "count"),
            (r#"{"nope":1}"#, "nope"),
            (r#"{"inner":{"nope":1}}"#, "inner.nope"),
            (r#"{"inner":{"text":5}}"#, "inner.text"),
            (r#"{"marks":{"a":1}}"#, "marks.a"),
            ("[]", ""),
            ("5", ""),
        ] {
            let problem = refusal(text);
            assert_eq!(problem.status, StatusCode::UNPROCESSABLE_ENTITY, "{text}");
            assert_eq!(problem.errors[0].field, field, "{text}");
        }
    }

    #[tokio::test]
    async fn bodies_are_taken_up_to_the_limit() {
        let read = async |length: usize, limit: u64| {
            let chunks = vec![b'x'; length];
            let chunks: Vec<_> = chunks
                .chunks(3)
                .map(|c| Ok::<_, BrokenPipe>(c.to_vec()))
                .collect();
            read_all(Body::from_stream(futures::stream::iter(chunks)), limit).await
        };
        assert_eq!(read(10, 10).await.map(|bytes| bytes.len()).ok(), Some(10));
        assert_eq!(read(0, 0).await.map(|bytes| bytes.len()).ok(), Some(0));
        for (length, limit) in [(11, 10), (100, 10), (1, 0)] {
            let refused = read(length, limit).await.expect_err("too large");
            assert_eq!(refused.status, StatusCode::PAYLOAD_TOO_LARGE);
        }
        let broken = futures::stream::iter([Ok(vec![1]), Err(BrokenPipe)]);
        let refused = read_all(Body::from_stream(broken), 10)
            .await
            .expect_err("half");
        assert_eq!(refused.status, StatusCode::BAD_REQUEST);
    }

    #[derive(Debug, thiserror::Error)]
    #[error("the caller went away")]
    struct BrokenPipe;

    #[test]
    fn a_content_type_must_be_json_if_it_is_there() {
        let with = |value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_TYPE, value.parse().expect("a header"));
            require_json(&headers).is_ok()
        };
        assert!(require_json(&HeaderMap::new()).is_ok());
        assert!(with("application/json"));
        assert!(with("Application/JSON; charset=utf-8"));
        assert!(with("application/merge-patch+json"));
        assert!(!with("text/plain"));
        assert!(!with("application/x-www-form-urlencoded"));
    }
}
