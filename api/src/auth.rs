//! Who calls: bearer keys, compared in constant time.
//!
//! A key is never kept, only its SHA-256; keys are 128 random bits or more, so a fast hash is enough.

use axum::extract::{FromRequestParts, Request, State};
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use sha2::{Digest, Sha256};
use shared::config::AuthMode;
use shared::ids::TenantId;
use subtle::ConstantTimeEq;

use crate::problem::Problem;
use crate::service::App;

/// The hashes of the keys that open the service, each with the tenant that it stands for.
#[derive(Clone, Default)]
pub struct KeyRing {
    keys: Vec<([u8; 32], TenantId)>,
}

impl KeyRing {
    /// A ring of SHA-256 hashes of keys.
    pub fn from_hashes(keys: impl IntoIterator<Item = ([u8; 32], TenantId)>) -> Self {
        Self {
            keys: keys.into_iter().collect(),
        }
    }

    /// The hash of a key, as [`KeyRing::from_hashes`] and the store take it.
    pub fn hash(key: &str) -> [u8; 32] {
        Sha256::digest(key.as_bytes()).into()
    }

    /// The tenant of a key. Every hash is compared, whole, so that the time tells nothing.
    pub fn tenant_of(&self, key: &str) -> Option<TenantId> {
        let presented = Self::hash(key);
        let mut found = None;
        for (hash, tenant) in &self.keys {
            if bool::from(hash.ct_eq(&presented)) {
                found = Some(tenant);
            }
        }
        found.cloned()
    }
}

impl std::fmt::Debug for KeyRing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "KeyRing({} keys)", self.keys.len())
    }
}

/// The tenant of the request, put there by [`require_key`].
#[derive(Debug, Clone)]
pub(crate) struct Caller(pub(crate) TenantId);

impl FromRequestParts<App> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &App) -> Result<Self, Problem> {
        parts
            .extensions
            .get::<Self>()
            .cloned()
            .ok_or_else(Problem::unauthorized)
    }
}

/// Lets in who has a key, and notes whose it is.
pub(crate) async fn require_key(
    State(app): State<App>,
    mut request: Request,
    next: Next,
) -> Response {
    let caller = match app.deps.settings.auth.mode {
        AuthMode::None => Some(TenantId::default_tenant()),
        AuthMode::Keys => bearer(&request).and_then(|key| app.deps.keys.tenant_of(key)),
    };
    match caller {
        Some(tenant) => {
            request.extensions_mut().insert(Caller(tenant));
            next.run(request).await
        }
        None => Problem::unauthorized().into_response(),
    }
}

fn bearer(request: &Request) -> Option<&str> {
    let value = request.headers().get(AUTHORIZATION)?.to_str().ok()?;
    let (scheme, key) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| key.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ring_knows_its_keys_and_no_others() {
        let tenant = TenantId::default_tenant();
        let ring = KeyRing::from_hashes([
            (KeyRing::hash("first"), tenant.clone()),
            (KeyRing::hash("second"), tenant.clone()),
        ]);
        assert_eq!(ring.tenant_of("first"), Some(tenant.clone()));
        assert_eq!(ring.tenant_of("second"), Some(tenant));
        assert_eq!(ring.tenant_of("third"), None);
        assert_eq!(ring.tenant_of(""), None);
        assert_eq!(KeyRing::default().tenant_of(""), None);
        assert!(!format!("{ring:?}").contains("first"));
    }
}
