//! The way to a runner in a pod: one `pods/exec` WebSocket that runs `connect` there.
//!
//! ```text
//!   worker ──WebSocket──▶ API server ──▶ kubelet ──▶ container runtime ──▶ connect ──Unix socket──▶ PID 1
//!            0 stdin ▶   ◀ 1 stdout   ◀ 2 stderr   ◀ 3 status
//! ```
//!
//! Invariants: a stream is handed out only once the runner was heard (it speaks first), so what went wrong on the way
//! is told in words; a stream that ends without a status has broken, it has not ended well; nothing that comes out of
//! the pod is kept beyond a bound. The caller brings the heartbeat: a peer that falls silent is not noticed here.

mod end;
mod frames;
mod stream;

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::api::AttachParams;
use kube::core::Request;
use kube::{Client, Resource as _};
use shared::ports::{RunnerIo, RuntimeError};
use tokio::time::timeout;

use stream::ExecStream;

/// How long it may take until the runner is heard.
const OPEN_TIME: Duration = Duration::from_secs(20);

/// A container and the command in it that splices its standard streams to the runner.
#[derive(Debug, Clone, Copy)]
pub struct Target<'a> {
    /// Of the pod.
    pub namespace: &'a str,
    /// The pod's name.
    pub pod: &'a str,
    /// The container's name.
    pub container: &'a str,
    /// Program and arguments.
    pub command: &'a [&'a str],
}

/// Opens a stream to the runner. `client` must be one that repeats nothing: [`super::access::Access::exec`].
pub async fn open(
    client: &Client,
    target: Target<'_>,
) -> Result<impl RunnerIo + use<>, RuntimeError> {
    let opened = timeout(OPEN_TIME, try_open(client, target)).await;
    opened.map_err(|_| {
        RuntimeError::Unavailable(format!(
            "the runner in pod {} was not heard within {} seconds",
            target.pod,
            OPEN_TIME.as_secs()
        ))
    })?
}

async fn try_open(
    client: &Client,
    target: Target<'_>,
) -> Result<ExecStream<impl RunnerIo + use<>>, RuntimeError> {
    let request = Request::new(Pod::url_path(&(), Some(target.namespace)))
        .exec(
            target.pod,
            target.command.iter().copied(),
            &streams(target.container),
        )
        .map_err(|error| RuntimeError::Unsupported(error.to_string()))?;
    let connection = client
        .connect(request)
        .await
        .map_err(|error| refused(&error, target.pod))?;
    let half_close = connection.supports_stream_close();
    let mut stream = ExecStream::new(connection.into_stream().into_inner(), half_close).await;
    stream.heard().await.map_err(|end| {
        RuntimeError::Unavailable(format!("no way to the runner in pod {}: {end}", target.pod))
    })?;
    Ok(stream)
}

fn streams(container: &str) -> AttachParams {
    AttachParams::default()
        .container(container)
        .stdin(true)
        .stdout(true)
        .stderr(true)
}

fn refused(error: &kube::Error, pod: &str) -> RuntimeError {
    match error {
        kube::Error::Api(status) if status.code == 404 => RuntimeError::NotRunning,
        kube::Error::Api(status) if status.code == 403 => RuntimeError::Unavailable(format!(
            "the API server refuses an exec into pod {pod} (the worker's role needs create and get on pods/exec): {}",
            status.message
        )),
        error => RuntimeError::Unavailable(format!("no exec into pod {pod}: {error}")),
    }
}
