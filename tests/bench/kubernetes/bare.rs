//! The peer that a program in Rust would be: a new `pods/exec` for each command, by kube-rs as its documentation shows.

use std::pin::pin;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::Client;
use kube::api::{Api, AttachParams};
use shared::ports::RunnerIo;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use worker::runtime::kubernetes::channel::{self, Target};

use crate::Failure;
use crate::large::{Large, expect};
use crate::report::timed;

/// The container of environments in which commands run.
const CONTAINER: &str = "environment";

/// Bytes of one read or write of a stream.
const PIECE: usize = 256 << 10;

/// Runs `true` in a pod, reads its output to the end, and looks at its exit code.
pub async fn exec_true(pods: &Api<Pod>, pod: &str) -> Result<(), Failure> {
    let streams = AttachParams::default().container(CONTAINER).stderr(false);
    let mut attached = pods.exec(pod, ["true"], &streams).await?;
    let status = attached.take_status().ok_or("no status")?;
    let mut output = attached.stdout().ok_or("no output")?;
    let mut said = Vec::new();
    let (status, read) = tokio::join!(status, output.read_to_end(&mut said));
    read?;
    match status.and_then(|status| status.status).as_deref() {
        Some("Success") => Ok(()),
        other => Err(format!("`true` ended with {other:?}").into()),
    }
}

/// One exec stream as it is, without a runner on it: as fast as a pod can be read or written through the API server. Each
/// transfer is a task, so that it runs where its bytes arrive, as in a service.
#[derive(Clone)]
pub struct Stream {
    /// One that does not wait to fill packets.
    pub client: Client,
    pub namespace: String,
    pub pod: String,
}

impl Stream {
    /// How long it takes to read a file from the pod.
    pub async fn down(&self, path: &str, large: &Large) -> Result<Duration, Failure> {
        let (stream, path, size) = (self.clone(), path.to_owned(), large.size);
        tokio::spawn(timed(async move {
            let mut stream = pin!(stream.open(&["cat", &path]).await?);
            let (mut buffer, mut got) = (vec![0; PIECE], 0);
            loop {
                match stream.read(&mut buffer).await? {
                    0 => return expect(got, size),
                    read => got += read as u64,
                }
            }
        }))
        .await?
    }

    /// How long it takes to write a file into the pod, onto its disk.
    pub async fn up(&self, path: &str, large: &Large) -> Result<Duration, Failure> {
        // A stream is handed out once something was heard.
        let script = format!("echo; cat > {path} && sync {path} && stat -c %s {path}");
        let (stream, source, size) = (self.clone(), large.path(), large.size);
        tokio::spawn(timed(async move {
            let mut stream = pin!(stream.open(&["sh", "-c", &script]).await?);
            let mut file = tokio::fs::File::open(source).await?;
            let mut buffer = vec![0; PIECE];
            loop {
                match file.read(&mut buffer).await? {
                    0 => break,
                    read => stream.write_all(&buffer[..read]).await?,
                }
            }
            stream.shutdown().await?;
            let mut said = String::new();
            stream.read_to_string(&mut said).await?;
            expect(said.trim().parse()?, size)
        }))
        .await?
    }

    async fn open(&self, command: &[&str]) -> Result<impl RunnerIo + use<>, Failure> {
        let target = Target {
            namespace: &self.namespace,
            pod: &self.pod,
            container: CONTAINER,
            command,
        };
        Ok(channel::open(&self.client, target).await?)
    }
}
