//! `Prefer` (RFC 7240): how long the caller wants to wait. What cannot be read is as if it were not there.

use std::time::Duration;

use axum::http::HeaderMap;

/// Seconds that a caller may wait at most.
const MAX_WAIT_SECONDS: u64 = 300;

/// The preferences that this service knows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Prefer {
    /// `wait=N`, 300 at most.
    pub(crate) wait_seconds: Option<u64>,
    /// `respond-async`.
    pub(crate) respond_async: bool,
}

impl Prefer {
    /// Reads the header; of several preferences of one name the first counts.
    pub(crate) fn from_headers(headers: &HeaderMap) -> Self {
        let mut prefer = Self::default();
        let mut wait_seen = false;
        let values = headers.get_all("prefer");
        for preference in values
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
        {
            let preference = preference.split(';').next().unwrap_or_default();
            let (name, value) = preference.split_once('=').unwrap_or((preference, ""));
            let name = name.trim();
            if name.eq_ignore_ascii_case("respond-async") {
                prefer.respond_async = true;
            } else if name.eq_ignore_ascii_case("wait") && !wait_seen {
                wait_seen = true;
                prefer.wait_seconds = seconds(value.trim());
            }
        }
        prefer
    }

    /// How long to wait where the route itself waits `default` seconds.
    pub(crate) fn wait_or(self, default: u64) -> Duration {
        Duration::from_secs(match self.wait_seconds {
            Some(seconds) => seconds,
            None if self.respond_async => 0,
            None => default,
        })
    }

    /// `Preference-Applied` of an answer that is, or is not, the job's end.
    pub(crate) fn applied(self, finished: bool) -> Option<String> {
        match (self.wait_seconds, finished) {
            (Some(seconds), true) => Some(format!("wait={seconds}")),
            (Some(_), false) => Some("respond-async".to_owned()),
            (None, false) if self.respond_async => Some("respond-async".to_owned()),
            (None, _) => None,
        }
    }
}

/// A number of seconds, bare or quoted.
fn seconds(text: &str) -> Option<u64> {
    let text = text
        .strip_prefix('"')
        .and_then(|text| text.strip_suffix('"'))
        .unwrap_or(text);
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    // More digits than a number holds is still a number, and a large one.
    Some(text.parse().unwrap_or(u64::MAX).min(MAX_WAIT_SECONDS))
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    fn read(values: &[&str]) -> Prefer {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append("prefer", HeaderValue::from_str(value).expect("a header"));
        }
        Prefer::from_headers(&headers)
    }

    #[test]
    fn waits_are_read_and_capped() {
        for (values, seconds) in [
            (&["wait=10"][..], Some(10)),
            (&["respond-async, wait=10"], Some(10)),
            (&["Wait = \"7\"; x=y"], Some(7)),
            (&["wait=301"], Some(300)),
            (&["wait=99999999999999999999999"], Some(300)),
            (&["wait=0"], Some(0)),
            (&["wait=3, wait=5", "wait=7"], Some(3)),
            (&["return=minimal", "wait=7"], Some(7)),
            (&["wait"], None),
            (&["wait=-1"], None),
            (&["wait=1.5"], None),
            (&["wait=x, wait=5"], None),
            (&[""], None),
        ] {
            assert_eq!(read(values).wait_seconds, seconds, "{values:?}");
        }
        assert!(read(&["respond-async"]).respond_async);
    }

    #[test]
    fn what_was_applied_is_said() {
        assert_eq!(read(&["wait=5"]).applied(true).as_deref(), Some("wait=5"));
        assert_eq!(
            read(&["wait=5"]).applied(false).as_deref(),
            Some("respond-async")
        );
        assert_eq!(read(&[]).applied(false), None);
        assert_eq!(read(&["respond-async"]).applied(true), None);
    }

    proptest! {
        #[test]
        fn any_header_is_taken(value in "\\PC*") {
            let mut headers = HeaderMap::new();
            if let Ok(value) = HeaderValue::from_bytes(value.as_bytes()) {
                headers.insert("prefer", value);
            }
            let prefer = Prefer::from_headers(&headers);
            prop_assert!(prefer.wait_or(55) <= Duration::from_secs(MAX_WAIT_SECONDS));
        }
    }
}
