//! Who calls: bearer keys, compared in constant time.
//!
//! The store has the hashes of all keys, so a key that is accepted or revoked there is so at every API, without a restart:
//! what an API has read it uses for two seconds. Where the store cannot be read it goes on with what it has for a minute.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::extract::{FromRequestParts, Request, State};
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use shared::clock::Clock;
use shared::config::AuthMode;
use shared::ids::TenantId;
use shared::key::{Key, KeyHash};
use shared::ports::{Store, StoreError};
use subtle::ConstantTimeEq;

use crate::problem::Problem;
use crate::service::App;

/// How long what was read of the keys is used.
const FRESH: Duration = Duration::from_secs(2);

/// How long it is used where the store cannot be read.
const STALE: Duration = Duration::from_secs(60);

/// The keys as this API has read them last.
#[derive(Default)]
pub(crate) struct KeyRing {
    read: Mutex<Option<Read>>,
    /// One reads at a time: the others wait for what it brings.
    reading: tokio::sync::Mutex<()>,
}

#[derive(Clone)]
struct Read {
    keys: Arc<Vec<Key>>,
    at: Instant,
}

impl KeyRing {
    /// The tenant of a key, if it is accepted.
    pub(crate) async fn tenant_of(
        &self,
        key: &KeyHash,
        store: &dyn Store,
        clock: &dyn Clock,
    ) -> Result<Option<TenantId>, StoreError> {
        let keys = self.keys(store, clock).await?;
        Ok(tenant_of(key, &keys))
    }

    async fn keys(
        &self,
        store: &dyn Store,
        clock: &dyn Clock,
    ) -> Result<Arc<Vec<Key>>, StoreError> {
        if let Some(read) = self.younger_than(FRESH, clock) {
            return Ok(read);
        }
        let _reading = self.reading.lock().await;
        if let Some(read) = self.younger_than(FRESH, clock) {
            return Ok(read);
        }
        let at = clock.monotonic();
        match store.keys().await {
            Ok(keys) => {
                let keys = Arc::new(keys);
                *self.read.lock().unwrap_or_else(PoisonError::into_inner) = Some(Read {
                    keys: Arc::clone(&keys),
                    at,
                });
                Ok(keys)
            }
            Err(error) => self.younger_than(STALE, clock).ok_or(error),
        }
    }

    fn younger_than(&self, age: Duration, clock: &dyn Clock) -> Option<Arc<Vec<Key>>> {
        let read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        let read = read.as_ref()?;
        let young = clock.monotonic().saturating_duration_since(read.at) < age;
        young.then(|| Arc::clone(&read.keys))
    }
}

/// The tenant of a key. Every hash is compared, whole, so that the time tells nothing.
fn tenant_of(presented: &KeyHash, keys: &[Key]) -> Option<TenantId> {
    let mut found = None;
    for known in keys {
        if bool::from(known.hash.bytes().ct_eq(presented.bytes())) {
            found = Some(&known.tenant);
        }
    }
    found.cloned()
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
    let pass = match app.deps.settings.auth.mode {
        AuthMode::None => Pass::Everybody,
        AuthMode::Keys => match bearer(&request) {
            Some(key) => Pass::Key(KeyHash::of(key)),
            None => return Problem::unauthorized().into_response(),
        },
    };
    match pass.tenant(&app).await {
        Ok(Some(tenant)) => {
            request.extensions_mut().insert(Caller(tenant));
            request.extensions_mut().insert(pass);
            next.run(request).await
        }
        Ok(None) => Problem::unauthorized().into_response(),
        Err(error) => Problem::from(error).into_response(),
    }
}

/// By what a request was let in, for an answer that lasts: it ends when this lets nobody in any more.
#[derive(Debug, Clone)]
pub(crate) enum Pass {
    /// Keys are not asked for.
    Everybody,
    /// The key with this hash.
    Key(KeyHash),
}

impl Pass {
    /// Whose request it lets in; nobody's where the key is not accepted, or not any more.
    async fn tenant(&self, app: &App) -> Result<Option<TenantId>, StoreError> {
        let (store, clock) = (app.deps.store.as_ref(), app.deps.clock.as_ref());
        match self {
            Self::Everybody => Ok(Some(TenantId::default_tenant())),
            Self::Key(key) => app.keys.tenant_of(key, store, clock).await,
        }
    }

    /// Whether it still lets in requests of this tenant.
    pub(crate) async fn holds(&self, app: &App, tenant: &TenantId) -> Result<bool, StoreError> {
        Ok(self.tenant(app).await?.as_ref() == Some(tenant))
    }
}

impl FromRequestParts<App> for Pass {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &App) -> Result<Self, Problem> {
        let pass = parts.extensions.get::<Self>().cloned();
        pass.ok_or_else(Problem::unauthorized)
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
        let key = |text: &str| Key {
            tenant: TenantId::default_tenant(),
            name: text.to_owned(),
            hash: KeyHash::of(text),
            created_at: jiff::Timestamp::UNIX_EPOCH,
        };
        let keys = [key("first"), key("second")];
        let tenant_of = |text: &str, keys: &[Key]| tenant_of(&KeyHash::of(text), keys);
        assert_eq!(tenant_of("first", &keys), Some(TenantId::default_tenant()));
        assert_eq!(tenant_of("second", &keys), Some(TenantId::default_tenant()));
        assert_eq!(tenant_of("third", &keys), None);
        assert_eq!(tenant_of("", &keys), None);
        assert_eq!(tenant_of("", &[]), None);
    }
}
