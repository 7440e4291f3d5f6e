//! The peer that a program in Rust would be: a new `pods/exec` for each command, by kube-rs as its documentation shows.

use std::pin::pin;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Pod;
use kube::Client;
use kube::api::{Api, AttachParams};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use worker::runtime::kubernetes::channel::{self, Target};

use crate::Failure;
use crate::large::Large;

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

/// One exec stream as it is, without a runner on it: as fast as a pod can be read or written through the API server.
pub struct Stream<'a> {
    /// One that does not wait to fill packets.
    pub client: &'a Client,
    pub namespace: &'a str,
    pub pod: &'a str,
}

impl Stream<'_> {
    /// How long it takes to read a file from the pod.
    pub async fn down(&self, path: &str, large: &Large) -> Result<Duration, Failure> {
        let began = Instant::now();
        let mut stream = pin!(channel::open(self.client, self.target(&["cat", path])).await?);
        let (mut buffer, mut size) = (vec![0; PIECE], 0);
        loop {
            match stream.read(&mut buffer).await? {
                0 => break,
                read => size += read as u64,
            }
        }
        large.expect(size)?;
        Ok(began.elapsed())
    }

    /// How long it takes to write a file into the pod, onto its disk.
    pub async fn up(&self, path: &str, large: &Large) -> Result<Duration, Failure> {
        let began = Instant::now();
        // A stream is handed out once something was heard.
        let script = format!("echo; cat > {path} && sync {path} && stat -c %s {path}");
        let command = ["sh", "-c", &script];
        let mut stream = pin!(channel::open(self.client, self.target(&command)).await?);
        let mut file = tokio::fs::File::open(large.path()).await?;
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
        large.expect(said.trim().parse()?)?;
        Ok(began.elapsed())
    }

    fn target<'a>(&'a self, command: &'a [&'a str]) -> Target<'a> {
        Target {
            namespace: self.namespace,
            pod: self.pod,
            container: CONTAINER,
            command,
        }
    }
}
