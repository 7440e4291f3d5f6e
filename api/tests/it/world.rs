//! The service under test and a client of it.

use std::sync::Arc;

use api::{ApiDeps, ReadyCheck};
use axum::Router;
use metrics_exporter_prometheus::PrometheusBuilder;
use reqwest::header::HeaderMap;
use reqwest::{Method, RequestBuilder, Response, StatusCode};
use serde_json::Value;
use shared::clock::{Clock, SystemClock};
use shared::config::Settings;
use shared::directory_blobs::DirectoryBlobs;
use shared::embedded_queue::EmbeddedQueue;
use shared::environment::Egress;
use shared::ids::TenantId;
use shared::key::{Key, KeyHash};
use shared::ports::{Blobs, Queue, RuntimeOffer, Store};
use shared::sqlite::SqliteStore;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::worker::Worker;

/// The key of the default tenant.
pub(crate) const KEY: &str = "a-key-of-the-default-tenant";

/// The key of another tenant.
pub(crate) const OTHER_KEY: &str = "a-key-of-another-tenant";

/// The backends, in a folder that goes with them.
pub(crate) struct Backends {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) queue: Arc<dyn Queue>,
    pub(crate) blobs: Arc<dyn Blobs>,
    pub(crate) folder: TempDir,
}

impl Backends {
    pub(crate) async fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let store = SqliteStore::open(&folder.path().join("db"), &SystemClock).expect("a store");
        let store: Arc<dyn Store> = Arc::new(store);
        for (tenant, key) in [("default", KEY), ("other", OTHER_KEY)] {
            store.put_key(key_of(tenant, key)).await.expect("accepted");
        }
        Self {
            queue: Arc::new(EmbeddedQueue::new(Arc::clone(&store), 64)),
            store,
            blobs: Arc::new(DirectoryBlobs::open(&folder.path().join("blobs")).expect("blobs")),
            folder,
        }
    }

    pub(crate) fn deps(&self, settings: Settings, checks: Vec<ReadyCheck>) -> ApiDeps {
        ApiDeps {
            store: Arc::clone(&self.store),
            queue: Arc::clone(&self.queue),
            blobs: Arc::clone(&self.blobs),
            offer: RuntimeOffer {
                egress: vec![Egress::None],
                default_egress: Egress::None,
                users: false,
            },
            checks,
            clock: Arc::new(SystemClock) as Arc<dyn Clock>,
            settings: Arc::new(settings),
            metrics: PrometheusBuilder::new().build_recorder().handle(),
        }
    }

    /// The API without a socket.
    pub(crate) fn router(&self, settings: Settings) -> Router {
        api::router(self.deps(settings, Vec::new()))
    }
}

/// A key by its own name.
pub(crate) fn key_of(tenant: &str, key: &str) -> Key {
    Key {
        tenant: TenantId::new(tenant).expect("a tenant"),
        name: format!("the name of {key}"),
        hash: KeyHash::of(key),
        created_at: SystemClock.now(),
    }
}

/// A running service, its worker and a client.
pub(crate) struct World {
    pub(crate) backends: Backends,
    pub(crate) soft: CancellationToken,
    pub(crate) served: JoinHandle<std::io::Result<()>>,
    url: String,
    client: reqwest::Client,
    _worker: Option<Worker>,
}

/// A response, read whole.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) async fn of(response: Response) -> Self {
        Self {
            status: response.status(),
            headers: response.headers().clone(),
            body: response.bytes().await.expect("a body").to_vec(),
        }
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|_| panic!("no JSON: {}", String::from_utf8_lossy(&self.body)))
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        let value = self.headers.get(name);
        value.map_or("", |value| value.to_str().expect("a text"))
    }

    #[track_caller]
    pub(crate) fn expect(self, status: u16) -> Self {
        let text = String::from_utf8_lossy(&self.body);
        assert_eq!(self.status.as_u16(), status, "{text}");
        self
    }
}

impl World {
    pub(crate) async fn new() -> Self {
        Self::with(Settings::default(), Vec::new(), true).await
    }

    /// A service whose jobs nobody takes.
    pub(crate) async fn idle() -> Self {
        Self::with(Settings::default(), Vec::new(), false).await
    }

    pub(crate) async fn with(settings: Settings, checks: Vec<ReadyCheck>, works: bool) -> Self {
        let backends = Backends::new().await;
        let deps = backends.deps(settings, checks);
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a socket");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let soft = CancellationToken::new();
        let served = tokio::spawn(api::serve(
            deps,
            listener,
            soft.clone(),
            CancellationToken::new(),
        ));
        Self {
            _worker: works.then(|| Worker::start(&backends)),
            backends,
            soft,
            served,
            url,
            client: reqwest::Client::builder()
                .no_proxy()
                .build()
                .expect("a client"),
        }
    }

    /// A request without a key.
    pub(crate) fn bare(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, format!("{}{path}", self.url))
    }

    pub(crate) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.bare(method, path).bearer_auth(KEY)
    }

    pub(crate) async fn send(&self, request: RequestBuilder) -> Answer {
        Answer::of(request.send().await.expect("a response")).await
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.send(self.request(Method::GET, path)).await
    }

    pub(crate) async fn post(&self, path: &str, body: Value) -> Answer {
        self.send(self.request(Method::POST, path).json(&body))
            .await
    }

    /// A POST that waits for its job.
    pub(crate) async fn post_wait(&self, path: &str, body: Value) -> Answer {
        let request = self.request(Method::POST, path).json(&body);
        self.send(request.header("Prefer", "wait=60")).await
    }

    /// A running environment.
    pub(crate) async fn environment(&self, id: &str) {
        let body = serde_json::json!({ "id": id });
        let created = self.post_wait("/v1/environments", body).await.expect(200);
        assert_eq!(created.json()["state"], "succeeded", "{created:?}");
    }

    /// The finished job of a command.
    pub(crate) async fn exec(&self, id: &str, command: &str) -> Value {
        let path = format!("/v1/environments/{id}/exec");
        let body = serde_json::json!({ "command": command });
        self.post_wait(&path, body).await.expect(200).json()
    }

    /// The folder that the worker gives an environment.
    pub(crate) fn folder(&self, id: &str) -> std::path::PathBuf {
        self.backends.folder.path().join("environments").join(id)
    }
}
