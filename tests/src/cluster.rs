//! A real Kubernetes for tests.
//!
//! ```text
//!   Cluster::shared() ── KUBECONFIG set ──▶ that cluster
//!          │             else ────────────▶ the one of this checkout, brought up by `tests/cluster/up` if need be
//!          │
//!   Cluster::own() ─────────────────────── one that only this test has, and may trouble; taken down at the end
//!          │
//!          ├── namespace() ──▶ Namespace   under Pod Security `restricted`; shown when the test fails, then deleted
//!          ├── part(Part) ───▶ kill, start, pause, resume
//!          └── route() ──────▶ Route       by way of a proxy that breaks connections
//! ```

use std::path::{Path, PathBuf};
use std::sync::Arc;

use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

mod account;
mod first;
mod folder;
mod namespace;
mod picture;
mod route;
mod service;

pub use account::Account;
pub use first::{connections, first_process, kill_first_process};
pub use folder::{Part, Trouble};
pub use namespace::Namespace;
pub use route::Route;
pub use service::serve;

use folder::Folder;

/// A small image with a shell and the usual tools (busybox).
pub const SMALL_IMAGE: &str = "environment-manager.test/small:1";

/// The same, whose user is number 33.
pub const OTHER_USER_IMAGE: &str = "environment-manager.test/other-user:1";

/// A Debian with Python and pip.
pub const DEBIAN_IMAGE: &str = "environment-manager.test/debian:12";

/// An image of one program, `/cat`, and nothing else.
pub const BARE_IMAGE: &str = "environment-manager.test/bare:1";

/// A reference whose registry refuses at once.
pub const NO_IMAGE: &str = "127.0.0.1:1/none:1";

/// A storage class whose claims stay pending.
pub const NEVER_CLASS: &str = "never";

/// A running cluster.
#[derive(Clone)]
pub struct Cluster {
    kubeconfig: PathBuf,
    folder: Option<Arc<Folder>>,
}

impl Cluster {
    /// The cluster that tests have in common: nobody may trouble it.
    pub async fn shared() -> Self {
        if let Some(path) = std::env::var_os("KUBECONFIG").filter(|path| !path.is_empty()) {
            return Self {
                kubeconfig: path.into(),
                folder: None,
            };
        }
        Self {
            kubeconfig: folder::up(None).await,
            folder: None,
        }
    }

    /// A cluster of the test's own, taken down when its last handle is dropped.
    pub async fn own() -> Self {
        let folder = Folder::new();
        Self {
            kubeconfig: folder::up(Some(folder.path())).await,
            folder: Some(Arc::new(folder)),
        }
    }

    /// Brings one's own cluster up again, whatever has become of it.
    pub async fn up_again(&self) {
        let folder = self.folder.as_ref().expect("only one's own cluster");
        folder::up(Some(folder.path())).await;
    }

    /// The administrator's kubeconfig.
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// A client of the administrator.
    pub async fn client(&self) -> Client {
        client(&self.kubeconfig).await
    }

    /// A new namespace under Pod Security `restricted`.
    pub async fn namespace(&self) -> Namespace {
        self.namespace_under("restricted").await
    }

    /// A new namespace under another level of Pod Security.
    pub async fn namespace_under(&self, security: &str) -> Namespace {
        Namespace::new(&self.kubeconfig, security).await
    }

    /// A part of the test's own cluster, to be troubled.
    pub fn part(&self, part: Part) -> Trouble {
        let folder = self.folder.as_ref().expect("only one's own cluster");
        folder.part(part)
    }

    /// The API server's record of every request; none where the cluster is not one of `tests/cluster`.
    pub fn audit_log(&self) -> Option<PathBuf> {
        let log = self.kubeconfig.with_file_name("audit.log");
        log.is_file().then_some(log)
    }

    /// A way to the API server through a proxy of the test's own.
    pub async fn route(&self) -> Route {
        Route::new(&self.kubeconfig).await
    }
}

/// A client by a kubeconfig file. It belongs to the runtime that it is made on.
async fn client(kubeconfig: &Path) -> Client {
    let kubeconfig = Kubeconfig::read_from(kubeconfig).expect("a kubeconfig");
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
        .await
        .expect("a usable kubeconfig");
    Client::try_from(config).expect("a client")
}
