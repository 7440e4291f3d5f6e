//! One client: TCP, TLS, who this is, and perhaps repeats.

use std::sync::Arc;
use std::time::Duration;

use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use kube::client::retry::RetryPolicy;
use kube::client::{Body, ConfigExt};
use kube::{Client, Config};
use tower::buffer::BufferLayer;
use tower::filter::AsyncFilterLayer;
use tower::retry::RetryLayer;
use tower::timeout::TimeoutLayer;
use tower::{BoxError, ServiceBuilder};

use super::ANSWER_TIME;
use super::google::{Bearer, Tokens};

/// How long a connection may take to be made.
const CONNECT_TIME: Duration = Duration::from_secs(5);

/// How long a silent peer is asked for a sign of life, and how long sent bytes may stay unconfirmed.
const PEER_TIME: Duration = Duration::from_secs(20);

/// The first and the longest pause before a request is sent again, and how often it is. A pause that the server asks for
/// goes before.
const PAUSES: (Duration, Duration, u32) = (Duration::from_millis(50), Duration::from_secs(2), 6);

/// Requests that may wait for the one client.
const WAITING: usize = 1024;

/// Makes a client. With `retry` a request is sent again when the server says that it was too busy.
pub(super) fn client(
    config: &Config,
    tokens: Option<&Arc<dyn Tokens>>,
    retry: bool,
) -> kube::Result<Client> {
    let mut http = HttpConnector::new();
    http.enforce_http(false);
    http.set_nodelay(true);
    http.set_connect_timeout(Some(CONNECT_TIME));
    http.set_keepalive(Some(PEER_TIME));
    http.set_keepalive_interval(Some(PEER_TIME / 4));
    http.set_keepalive_retries(Some(3));
    http.set_tcp_user_timeout(Some(PEER_TIME));
    let https = config.rustls_https_connector_with_connector(http)?;
    let http: HttpClient<_, Body> = HttpClient::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .build(https);
    let bearer = tokens.map(|tokens| AsyncFilterLayer::new(Bearer(Arc::clone(tokens))));
    let repeat = match retry {
        true => Some(RetryLayer::new(patience()?)),
        false => None,
    };
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(repeat)
        .layer(BufferLayer::new(WAITING))
        .layer(TimeoutLayer::new(ANSWER_TIME))
        .option_layer(config.auth_layer()?)
        .option_layer(bearer)
        .layer(config.extra_headers_layer()?)
        .map_err(BoxError::from)
        .service(http);
    Ok(Client::new(service, config.default_namespace.clone()))
}

fn patience() -> kube::Result<RetryPolicy> {
    let (first, longest, times) = PAUSES;
    RetryPolicy::new(first, longest, times, true)
        .map_err(|invalid| kube::Error::Service(BoxError::from(invalid)))
}
