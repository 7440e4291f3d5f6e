//! The peer that such services usually are: FastAPI and the Kubernetes client of Python. See `tests/bench/peers`.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::site::Site;
use crate::Failure;

/// The running peer; ended with this.
pub struct Python {
    child: Child,
    url: String,
    client: reqwest::Client,
}

impl Python {
    pub async fn start(site: &Site) -> Result<Self, Failure> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("bench/peers");
        let address = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let child = Command::new(interpreter(&folder)?)
            .args(["-m", "uvicorn", "service:app", "--log-level", "warning"])
            .arg("--app-dir")
            .arg(&folder)
            .args(["--host", "127.0.0.1", "--port", &address.port().to_string()])
            .env("KUBECONFIG", site.kubeconfig())
            .env("NAMESPACE", site.namespace.name())
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()?;
        let client = reqwest::Client::builder().tcp_nodelay(true).no_proxy();
        let mut peer = Self {
            child,
            url: format!("http://{address}"),
            client: client.build()?,
        };
        peer.wait_ready().await?;
        Ok(peer)
    }

    async fn wait_ready(&mut self) -> Result<(), Failure> {
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(60) && self.child.try_wait()?.is_none() {
            if self
                .client
                .get(format!("{}/health", self.url))
                .send()
                .await
                .is_ok()
            {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Err("the peer in Python did not start".into())
    }

    /// The endpoint, on a pod.
    pub async fn exec(&self, pod: &str, command: &str) -> Result<Value, Failure> {
        let body = json!({"environment_id": pod, "command": command});
        let url = format!("{}/exec_in_environment", self.url);
        let response = self.client.post(url).json(&body).send().await?;
        Ok(response.error_for_status()?.json().await?)
    }
}

impl Drop for Python {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An interpreter with what the peer needs, made once.
fn interpreter(folder: &Path) -> Result<PathBuf, Failure> {
    let output = Command::new(folder.join("python"))
        .stderr(Stdio::inherit())
        .output()?;
    if output.status.success() {
        Ok(String::from_utf8(output.stdout)?.trim().into())
    } else {
        Err("there is no Python for the peer".into())
    }
}
