//! The real program on a data folder of its own: started, killed, started again, and cleaned up after.
//!
//! ```text
//!   Program ── owns ──▶ DataFolder   what it left is removed at the end, also when a test fails
//!      │
//!      └── gives ─────▶ Client       HTTP, as a caller speaks it
//! ```
//!
//! It runs as who runs the tests, or as an ordinary user ([`ordinary`]).
//!
//! The program is the one that was built beside the test (`target/PROFILE/environment-manager`), or `EM_BIN`.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::cluster::{Namespace, first_process};

mod begun;
mod client;
mod events;
mod folder;
mod ground;
mod history;
mod host;
pub mod ordinary;
mod output;

pub use begun::Begun;
pub use client::{Answer, Client, id_of};
pub use events::Followed;
pub use folder::DataFolder;
use ground::Ground;
pub use history::{all_ended_long_ago, ended_earlier, pieces_of_output};
pub use host::{files_below, is_stopped, processes_with, resident, wait_until};
pub use output::{Drain, Gap, Output};

/// A wait that only a broken program outlasts.
pub const LONG: Duration = Duration::from_secs(60);

/// Bytes of the log that a failed test shows.
const LOG_TAIL: u64 = 16 * 1024;

/// One process of the program, or none, on a data folder.
pub struct Program {
    folder: DataFolder,
    ground: Ground,
    variables: Vec<(OsString, OsString)>,
    log: PathBuf,
    /// Where in it the latest start begins.
    log_from: usize,
    child: Option<Child>,
    url: String,
    as_ordinary_user: bool,
}

impl Program {
    /// Starts it on a new folder with the default settings, but for a free port.
    pub async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// Starts it on a new folder with variables such as `("EM_LIMITS__OUTPUT_BYTES", "1Mi")`.
    pub async fn start_with(variables: &[(&str, &str)]) -> Self {
        Self::start_on(DataFolder::new(), variables).await
    }

    /// Starts it as an ordinary user, on a new folder of his.
    pub async fn start_as_ordinary_user(variables: &[(&str, &str)]) -> Self {
        let folder = DataFolder::new();
        folder.give(ordinary::give);
        Self::start_as(folder, variables, true).await
    }

    /// Starts it on a folder.
    pub async fn start_on(folder: DataFolder, variables: &[(&str, &str)]) -> Self {
        Self::start_as(folder, variables, false).await
    }

    async fn start_as(
        folder: DataFolder,
        variables: &[(&str, &str)],
        as_ordinary_user: bool,
    ) -> Self {
        let ground = Ground::of_this_run().await;
        let log = folder.path().with_extension("log");
        let given = variables
            .iter()
            .map(|(name, value)| (name.into(), value.into()));
        let variables = ground.variables().into_iter().chain(given).collect();
        let mut program = Self {
            folder,
            ground,
            variables,
            log,
            log_from: 0,
            child: None,
            url: String::new(),
            as_ordinary_user,
        };
        program.launch();
        program.until_ready().await;
        program
    }

    /// Starts a new process on the same folder, with the same variables, and waits until it is ready.
    pub async fn restart(&mut self) {
        assert!(self.child.is_none(), "it runs");
        self.launch();
        self.until_ready().await;
    }

    /// Starts a new process on the same folder, and waits until it listens: what it needs may be away.
    pub async fn restart_unready(&mut self) {
        assert!(self.child.is_none(), "it runs");
        self.launch();
        self.until("listens", async |program| !program.url.is_empty())
            .await;
    }

    /// Sets a variable of the next start; none takes it away.
    pub fn set(&mut self, name: &str, value: Option<&str>) {
        self.variables.retain(|(known, _)| known != name);
        self.variables
            .extend(value.map(|value| (name.into(), value.into())));
    }

    /// Kills the process (SIGKILL).
    pub fn kill9(&mut self) {
        let status = self.end(Signal::SIGKILL);
        assert_eq!(status.signal(), Some(Signal::SIGKILL as i32));
    }

    /// Waits until the process was killed, at the place that its variables say.
    pub async fn until_killed(&mut self) {
        wait_until("it is killed", async || self.has_ended()).await;
        let mut child = self.child.take().expect("it ran");
        let status = child.wait().expect("it ended");
        assert_eq!(status.signal(), Some(Signal::SIGKILL as i32), "{status}");
    }

    /// Asks the process to end (SIGTERM) and waits for it.
    pub fn term(&mut self) -> ExitStatus {
        self.end(Signal::SIGTERM)
    }

    /// Sends the process a signal.
    pub fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).expect("it is a child of this process");
    }

    /// The process.
    pub fn pid(&self) -> Pid {
        let child = self.child.as_ref().expect("it runs");
        Pid::from_raw(i32::try_from(child.id()).expect("a process id"))
    }

    /// Lets go of the process as it is, and gives it: another one takes its place.
    pub fn detach(&mut self) -> Detached {
        Detached(self.child.take().expect("it runs"))
    }

    /// Whether the process has ended by itself.
    pub fn has_ended(&mut self) -> bool {
        let child = self.child.as_mut().expect("it was started");
        child.try_wait().expect("it is a child").is_some()
    }

    /// Its data.
    pub fn folder(&self) -> &DataFolder {
        &self.folder
    }

    /// Whether its environments are pods.
    pub fn is_on_cluster(&self) -> bool {
        self.ground.namespace().is_some()
    }

    /// Everything of its environments that is there.
    pub async fn traces(&self) -> Vec<String> {
        match self.ground.namespace() {
            Some(namespace) => namespace.objects().await,
            None => self.folder.traces(),
        }
    }

    /// The namespace of its environments, where they are pods.
    pub fn namespace(&self) -> Option<&Namespace> {
        self.ground.namespace()
    }

    /// Where on this machine the volumes of its environments lie.
    pub async fn volumes(&self) -> Vec<PathBuf> {
        match self.ground.namespace() {
            Some(namespace) => namespace.volumes().await,
            None => self.folder.volumes(),
        }
    }

    /// The volume of its only environment.
    pub async fn volume(&self) -> PathBuf {
        let mut volumes = self.volumes().await;
        assert_eq!(volumes.len(), 1, "not one environment: {volumes:?}");
        volumes.remove(0)
    }

    /// This machine's pid of PID 1 of its only environment.
    pub async fn first_process(&self) -> Pid {
        match self.ground.namespace() {
            Some(namespace) => first_process(&namespace.pod().await),
            None => self.folder.first_process(),
        }
    }

    /// Notes whose the environments are, so that what is left of them is known after the last one is gone. Call it while
    /// there is one.
    pub fn note_instance(&self) {
        if self.ground.namespace().is_none() {
            self.folder.note_instance();
        }
    }

    /// Everything that it wrote to its standard error and output so far, over all starts.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).expect("its log")).into_owned()
    }

    /// The key that its first start made.
    pub fn key(&self) -> String {
        let text = fs::read_to_string(self.folder.path().join("api-key")).expect("a key file");
        text.trim().to_owned()
    }

    /// A caller with its key.
    pub fn client(&self) -> Client {
        Client::new(self.url.clone(), self.key())
    }

    /// Runs the program with other arguments, to its end.
    pub fn command(arguments: &[&str]) -> std::process::Output {
        Self::command_with(arguments, &[])
    }

    /// The same with variables.
    pub fn command_with(arguments: &[&str], variables: &[(&str, &str)]) -> std::process::Output {
        Command::new(program())
            .args(arguments)
            .envs(variables.iter().copied())
            .output()
            .expect("the program runs")
    }

    fn end(&mut self, signal: Signal) -> ExitStatus {
        self.signal(signal);
        let mut child = self.child.take().expect("it runs");
        child.wait().expect("it ends")
    }

    fn launch(&mut self) {
        self.log_from =
            fs::metadata(&self.log).map_or(0, |log| usize::try_from(log.len()).unwrap_or(0));
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&self.log)
            .expect("a log");
        let mut command = if self.as_ordinary_user {
            ordinary::prepared(&[])
        } else {
            Command::new(program())
        };
        let child = command
            .arg("serve")
            .arg("--data-dir")
            .arg(self.folder.path())
            .args(["--listen", "127.0.0.1:0"])
            .envs(self.variables.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a second handle"))
            .stderr(log)
            .spawn()
            .expect("the program starts");
        self.child = Some(child);
        self.url.clear();
    }

    /// Waits for the address in the log, then for readiness.
    async fn until_ready(&mut self) {
        self.until("is ready", async |program| {
            !program.url.is_empty() && program.client().is_ready().await
        })
        .await;
    }

    async fn until(&mut self, what: &str, holds: impl AsyncFn(&Self) -> bool) {
        let began = Instant::now();
        let pid = self.pid().to_string();
        while began.elapsed() < LONG {
            if self.has_ended() {
                panic!("it ended before it {what} (process {pid})");
            }
            if self.url.is_empty() {
                self.url = self.announced().unwrap_or_default();
            }
            if holds(self).await {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("it never {what} (process {pid})");
    }

    /// The address that the latest start told.
    fn announced(&self) -> Option<String> {
        let log = self.log();
        let lines = log[self.log_from..].lines();
        lines
            .filter_map(|line| serde_json::from_str::<Value>(line).ok())
            .find(|line| line["message"] == "ready")
            .and_then(|line| line["url"].as_str().map(str::to_owned))
    }
}

/// A process that the test has let go of; killed when it is dropped.
pub struct Detached(Child);

impl Detached {
    /// The process.
    pub fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.0.id()).expect("a process id"))
    }

    /// Whether it has ended by itself.
    pub fn has_ended(&mut self) -> bool {
        self.0.try_wait().expect("it is a child").is_some()
    }
}

impl Drop for Detached {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            let tail = tail(&self.log).unwrap_or_default();
            eprintln!("--- the end of the program's log ---\n{tail}\n---");
        }
        let _ = fs::remove_file(&self.log);
    }
}

fn tail(path: &Path) -> std::io::Result<String> {
    let mut file = File::open(path)?;
    let size = file.metadata()?.len();
    file.seek(SeekFrom::Start(size.saturating_sub(LOG_TAIL)))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The program under test.
fn program() -> PathBuf {
    std::env::var_os("EM_BIN").map_or_else(|| beside("environment-manager"), PathBuf::from)
}

/// A program that was built beside this test.
pub fn beside(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("this program's path");
    let profile = test.ancestors().nth(2).expect("target/PROFILE/deps/TEST");
    let path = profile.join(name);
    assert!(
        path.is_file(),
        "{} is not there: cargo build --workspace --features environment-manager/failpoints",
        path.display()
    );
    path
}
