//! The id of a request: the caller's, if it can be shown, else a new one.

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use shared::clock::Clock;
use uuid::Uuid;

/// The header that carries it, both ways.
pub(super) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The id of a request, as every layer and error sees it.
#[derive(Debug, Clone)]
pub(crate) struct RequestId(HeaderValue);

impl RequestId {
    /// Takes the caller's id, if it is 1 to 128 visible ASCII characters, or makes one.
    pub(super) fn of(headers: &HeaderMap, clock: &dyn Clock) -> Self {
        let theirs = headers.get(X_REQUEST_ID).filter(|value| {
            (1..=128).contains(&value.len()) && value.as_bytes().iter().all(u8::is_ascii_graphic)
        });
        Self(theirs.cloned().unwrap_or_else(|| {
            let id = Uuid::from_bytes(clock.random()).simple().to_string();
            HeaderValue::from_str(&id).unwrap_or(HeaderValue::from_static("none"))
        }))
    }

    /// As text.
    pub(super) fn as_str(&self) -> &str {
        self.0.to_str().unwrap_or_default()
    }

    /// As a header.
    pub(super) fn header(&self) -> HeaderValue {
        self.0.clone()
    }
}

#[cfg(test)]
mod tests {
    use shared::clock::SystemClock;

    use super::*;

    #[test]
    fn the_callers_id_is_kept_only_if_it_can_be_shown() {
        let id = |value: &[u8]| {
            let mut headers = HeaderMap::new();
            headers.insert(
                X_REQUEST_ID,
                HeaderValue::from_bytes(value).expect("a header"),
            );
            RequestId::of(&headers, &SystemClock).as_str().to_owned()
        };
        assert_eq!(id(b"abc-1"), "abc-1");
        for bad in [&b""[..], b"a b", b"\xff\xfe", &[b'a'; 129]] {
            assert_eq!(id(bad).len(), 32, "{bad:?}");
        }
        assert_eq!(
            RequestId::of(&HeaderMap::new(), &SystemClock)
                .as_str()
                .len(),
            32
        );
    }
}
