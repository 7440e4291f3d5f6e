//! The program under measurement.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::Failure;
use crate::report::timed;

/// A running service with a data folder of its own.
pub struct Service {
    child: Child,
    pub url: String,
    key: String,
    pub client: reqwest::Client,
    pub folder: tempfile::TempDir,
    /// From the start of the process to its first readiness.
    pub ready_after: Duration,
}

impl Service {
    pub async fn start(program: &Path, settings: &[(&str, &str)]) -> Result<Self, Failure> {
        Self::start_in(tempfile::tempdir()?, program, settings).await
    }

    /// Starts it on a data folder that may hold something.
    pub async fn start_in(
        folder: tempfile::TempDir,
        program: &Path,
        settings: &[(&str, &str)],
    ) -> Result<Self, Failure> {
        let address = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let log = std::fs::File::create(folder.path().join("log"))?;
        let began = Instant::now();
        let child = Command::new(program)
            .arg("serve")
            .args(["--data-dir".as_ref(), folder.path().as_os_str()])
            .args(["--listen", &address.to_string()])
            .envs(settings.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()?;
        let client = reqwest::Client::builder()
            .tcp_nodelay(true)
            .no_proxy()
            .build()?;
        let mut service = Self {
            child,
            url: format!("http://{address}"),
            key: String::new(),
            client,
            folder,
            ready_after: Duration::ZERO,
        };
        service.wait_ready(began).await?;
        service.key = std::fs::read_to_string(service.folder.path().join("api-key"))?
            .trim()
            .to_owned();
        Ok(service)
    }

    async fn wait_ready(&mut self, began: Instant) -> Result<(), Failure> {
        while began.elapsed() < Duration::from_secs(30) {
            if let Ok(response) = self.client.get(format!("{}/ready", self.url)).send().await
                && response.status().is_success()
            {
                self.ready_after = began.elapsed();
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        let log = std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
        Err(format!("the service did not become ready:\n{log}").into())
    }

    /// A POST that waits for its job's end and answers the job.
    pub async fn post(&self, path: &str, body: &Value, wait: bool) -> Result<Value, Failure> {
        let mut request = self
            .client
            .post(format!("{}{path}", self.url))
            .bearer_auth(&self.key)
            .json(body);
        if wait {
            request = request.header("Prefer", "wait=120");
        }
        let response = request.send().await?;
        let status = response.status();
        let answer: Value = response.json().await?;
        if status.is_success() {
            Ok(answer)
        } else {
            Err(format!("{path}: {status}: {answer}").into())
        }
    }

    /// Creates an environment with the defaults, and waits until it runs.
    pub async fn create(&self, environment: &str) -> Result<(), Failure> {
        let asked = json!({"id": environment});
        let job = self.post("/v1/environments", &asked, true).await?;
        if job["state"] == "succeeded" {
            Ok(())
        } else {
            Err(format!("an environment was not created: {job}").into())
        }
    }

    /// From nothing to the end of a first command: a create that is not waited for, and a command that waits for it.
    pub async fn first_exit(&self, environment: &str) -> Result<Duration, Failure> {
        timed(async {
            let asked = json!({"id": environment});
            self.post("/v1/environments", &asked, false).await?;
            self.exec(environment, &["true"]).await
        })
        .await
    }

    /// A command that must succeed.
    pub async fn exec(&self, environment: &str, command: &[&str]) -> Result<Value, Failure> {
        let job = self
            .post(
                &format!("/v1/environments/{environment}/exec"),
                &json!({"command": command}),
                true,
            )
            .await?;
        if job["state"] == "succeeded" {
            Ok(job)
        } else {
            Err(format!("a command did not succeed: {job}").into())
        }
    }

    pub async fn delete(&self, environment: &str) -> Result<(), Failure> {
        let url = format!("{}/v1/environments/{environment}", self.url);
        let response = self
            .client
            .delete(url)
            .bearer_auth(&self.key)
            .header("Prefer", "wait=120")
            .send()
            .await?;
        if response.status().is_success() {
            Ok(())
        } else {
            Err(format!("delete: {}", response.text().await?).into())
        }
    }

    /// The runtime's name for an environment's container.
    pub async fn container(&self, environment: &str) -> Result<String, Failure> {
        let url = format!("/v1/environments/{environment}");
        let response = self.request(reqwest::Method::GET, &url).send().await?;
        let found: Value = response.error_for_status()?.json().await?;
        let container = found["status"]["container"].as_str();
        Ok(container
            .ok_or("an environment without a container")?
            .to_owned())
    }

    /// A request with the key.
    pub fn request(&self, method: reqwest::Method, path: &str) -> reqwest::RequestBuilder {
        self.client
            .request(method, format!("{}{path}", self.url))
            .bearer_auth(&self.key)
    }

    /// Forgets how much memory the process had at most; how much it has now, in bytes.
    pub fn forget_peak(&self) -> Result<u64, Failure> {
        std::fs::write(format!("/proc/{}/clear_refs", self.pid()), "5")?;
        self.memory("VmRSS:")
    }

    /// How much memory the process had at most since then, in bytes.
    pub fn peak(&self) -> Result<u64, Failure> {
        self.memory("VmHWM:")
    }

    fn memory(&self, field: &str) -> Result<u64, Failure> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid()))?;
        let line = status.lines().find_map(|line| line.strip_prefix(field));
        let kib = line.and_then(|line| line.split_whitespace().next());
        Ok(kib.ok_or("no such field")?.parse::<u64>()? * 1024)
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn environments(&self) -> PathBuf {
        self.folder.path().join("environments")
    }

    pub async fn stop(mut self) -> Result<(), Failure> {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.pid())?);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM)?;
        tokio::task::spawn_blocking(move || self.child.wait().map(drop)).await??;
        Ok(())
    }
}
