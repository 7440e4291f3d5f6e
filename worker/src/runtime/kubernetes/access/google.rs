//! Google's access tokens, one asked for with every request: they live an hour, a client for months.

use std::sync::Arc;

use async_trait::async_trait;
use futures::future::BoxFuture;
use google_cloud_auth::credentials::{AccessTokenCredentials, Builder};
use http::header::AUTHORIZATION;
use http::{HeaderValue, Request};
use kube::client::Body;
use shared::secret::Secret;
use tower::BoxError;
use tower::filter::AsyncPredicate;

use super::AccessError;

/// What a token must be good for.
const SCOPE: &str = "https://www.googleapis.com/auth/cloud-platform";

/// Gives bearer tokens. It is asked on every request and keeps a token as long as that is good.
#[async_trait]
pub trait Tokens: Send + Sync {
    /// A token that is good now.
    async fn token(&self) -> Result<Secret, TokenError>;
}

/// No token can be had now.
#[derive(Debug, thiserror::Error)]
#[error("no access token: {0}")]
pub struct TokenError(pub String);

/// The credentials of this machine or process, in Google's order: the file that `GOOGLE_APPLICATION_CREDENTIALS` names,
/// those of the gcloud program, the metadata server.
pub(super) fn tokens() -> Result<Arc<dyn Tokens>, AccessError> {
    let credentials = Builder::default()
        .with_scopes([SCOPE])
        .build_access_token_credentials()
        .map_err(|error| AccessError::NoCredentials(error.to_string()))?;
    Ok(Arc::new(GoogleTokens(credentials)))
}

struct GoogleTokens(AccessTokenCredentials);

#[async_trait]
impl Tokens for GoogleTokens {
    async fn token(&self) -> Result<Secret, TokenError> {
        let token = self.0.access_token().await;
        token
            .map(|token| Secret::new(token.token))
            .map_err(|error| TokenError(error.to_string()))
    }
}

/// Puts a token on each request that passes.
#[derive(Clone)]
pub(super) struct Bearer(pub(super) Arc<dyn Tokens>);

impl AsyncPredicate<Request<Body>> for Bearer {
    type Future = BoxFuture<'static, Result<Request<Body>, BoxError>>;
    type Request = Request<Body>;

    fn check(&mut self, mut request: Request<Body>) -> Self::Future {
        let tokens = Arc::clone(&self.0);
        Box::pin(async move {
            let token = tokens.token().await?;
            let mut value = HeaderValue::try_from(format!("Bearer {}", token.reveal()))?;
            value.set_sensitive(true);
            request.headers_mut().insert(AUTHORIZATION, value);
            Ok(request)
        })
    }
}
