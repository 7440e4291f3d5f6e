//! What every call carries beside its body: whose it is, how long it waits, and how its repetition is known.

use axum::extract::FromRequestParts;
use axum::http::HeaderMap;
use axum::http::request::Parts;
use sha2::{Digest, Sha256};
use shared::ids::{EnvironmentId, EnvironmentRef, JobId, JobRef, TenantId};
use shared::ports::Idempotency;

use crate::auth::Caller;
use crate::extract::Prefer;
use crate::problem::Problem;
use crate::service::App;

const IDEMPOTENCY_KEY: &str = "Idempotency-Key";

/// The caller and the headers that change how a job is submitted and answered.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    /// Whose call it is.
    pub(crate) tenant: TenantId,
    /// How long it waits.
    pub(crate) prefer: Prefer,
    key: Option<String>,
    scope: String,
}

impl Call {
    /// How a repetition of this call with the same body is known, where the caller sent a key.
    pub(crate) fn idempotency(&self, body: &[u8]) -> Option<Idempotency> {
        self.key.as_ref().map(|key| Idempotency {
            key: key.clone(),
            scope: self.scope.clone(),
            fingerprint: Sha256::digest(body).into(),
        })
    }

    /// Where a job of the caller's is found.
    pub(crate) fn job(&self, job: JobId) -> JobRef {
        JobRef {
            tenant: self.tenant.clone(),
            job,
        }
    }

    /// Where an environment of the caller's is found.
    pub(crate) fn environment(&self, environment: EnvironmentId) -> EnvironmentRef {
        EnvironmentRef {
            tenant: self.tenant.clone(),
            environment,
        }
    }
}

impl FromRequestParts<App> for Call {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        let Caller(tenant) = Caller::from_request_parts(parts, app).await?;
        Ok(Self {
            tenant,
            prefer: Prefer::from_headers(&parts.headers),
            key: idempotency_key(&parts.headers)?,
            scope: format!("{} {}", parts.method, parts.uri.path()),
        })
    }
}

fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let mut values = headers.get_all(IDEMPOTENCY_KEY).iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    let bytes = value.as_bytes();
    let valid = values.next().is_none()
        && (1..=255).contains(&bytes.len())
        && bytes.iter().all(u8::is_ascii_graphic);
    match value.to_str() {
        Ok(text) if valid => Ok(Some(text.to_owned())),
        _ => Err(Problem::invalid(
            IDEMPOTENCY_KEY,
            "must be one header of 1 to 255 visible ASCII characters",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_visible_ascii_of_bounded_length() {
        let read = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(
                IDEMPOTENCY_KEY,
                axum::http::HeaderValue::from_bytes(value.as_bytes()).expect("a header"),
            );
            idempotency_key(&headers)
        };
        assert_eq!(read("a-b_C.1!").ok().flatten().as_deref(), Some("a-b_C.1!"));
        assert!(read(&"k".repeat(255)).is_ok());
        for bad in ["", "a b", "ä", &"k".repeat(256)] {
            assert!(read(bad).is_err(), "{bad:?}");
        }
        assert_eq!(idempotency_key(&HeaderMap::new()).ok().flatten(), None);
    }
}
