//! A way to the API server that a test can break.

use std::net::{SocketAddr, ToSocketAddrs as _};
use std::path::{Path, PathBuf};

use kube::config::Kubeconfig;
use tempfile::TempDir;

use crate::proxy::Proxy;

/// A proxy before the API server, and the administrator's kubeconfig by way of it.
pub struct Route {
    /// The proxy.
    pub proxy: Proxy,
    kubeconfig: PathBuf,
    _folder: TempDir,
}

impl Route {
    pub(super) async fn new(kubeconfig: &Path) -> Self {
        let mut config = Kubeconfig::read_from(kubeconfig).expect("a kubeconfig");
        let [cluster] = config.clusters.as_mut_slice() else {
            panic!("{} names not exactly one cluster", kubeconfig.display());
        };
        let cluster = cluster.cluster.as_mut().expect("a cluster");
        let server = cluster.server.as_deref().expect("a server");
        let server = reqwest::Url::parse(server).expect("an address");
        let host = server.host_str().expect("a host").to_owned();
        let port = server.port_or_known_default().expect("a port");
        let target = resolve(&host, port);
        let proxy = Proxy::start(target).await;
        cluster.server = Some(format!("https://{}", proxy.address()));
        // The certificate is still the server's.
        cluster.tls_server_name.get_or_insert(host);
        let folder = TempDir::with_prefix("em-route-").expect("a folder");
        let path = folder.path().join("kubeconfig");
        let text = serde_json::to_string(&config).expect("JSON, which is YAML too");
        std::fs::write(&path, text).expect("written");
        Self {
            proxy,
            kubeconfig: path,
            _folder: folder,
        }
    }

    /// The kubeconfig.
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }
}

fn resolve(host: &str, port: u16) -> SocketAddr {
    let mut addresses = (host, port).to_socket_addrs().expect("a known host");
    addresses.next().expect("an address")
}
