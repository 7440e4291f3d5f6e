//! Starts the real program and speaks to it over its socket.
#![allow(
    dead_code,
    unreachable_pub,
    missing_docs,
    reason = "each test program uses its own part of this"
)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failure is a failed test"
)]

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use hyper_util::rt::TokioIo;
use runner::proto::attach_event::Event;
use runner::proto::runner_client::RunnerClient;
use runner::proto::start_request::Command as Asked;
use runner::proto::{
    Argv, AttachRequest, HelloRequest, JobRecord, Permit, SealReply, SealRequest, Shell,
    SignalRequest, StartRequest, Stream,
};
use tempfile::TempDir;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Code, Status};

pub type Client = RunnerClient<Channel>;

/// A bound for whatever must happen: reached only when something is broken.
pub const SOON: Duration = Duration::from_secs(60);

/// A running runner with its own state and volume. Dropping it kills it and its tree.
pub struct Runner {
    pub child: Child,
    pub client: Client,
    pub incarnation: String,
    pub home: TempDir,
}

/// The user that commands run as: an ordinary one where the tests may choose, else their own.
pub fn user() -> (u32, u32) {
    let own = nix::unistd::geteuid();
    if own.is_root() {
        (1000, 1000)
    } else {
        (own.as_raw(), nix::unistd::getegid().as_raw())
    }
}

/// A folder that the environment's user owns.
pub fn new_home() -> TempDir {
    let home = tempfile::tempdir().unwrap();
    // Others must be able to pass through it to the volume.
    set_mode(home.path(), 0o755);
    let volume = home.path().join("app");
    std::fs::create_dir(&volume).unwrap();
    let (uid, gid) = user();
    std::os::unix::fs::chown(&volume, Some(uid), Some(gid)).unwrap();
    home
}

pub fn set_mode(path: &Path, mode: u32) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

/// The command line of `init` for a home.
pub fn init_arguments(home: &Path, (uid, gid): (u32, u32)) -> Vec<String> {
    let path = |name: &str| home.join(name).to_str().unwrap().to_owned();
    let flags = [
        "--state",
        &path("state"),
        "--listen",
        &path("socket"),
        "--volume",
        &path("app"),
    ];
    let mut arguments = vec!["init".to_owned()];
    arguments.extend(flags.map(str::to_owned));
    arguments.extend([
        "--uid".to_owned(),
        uid.to_string(),
        "--gid".to_owned(),
        gid.to_string(),
    ]);
    arguments
}

pub fn program() -> &'static str {
    env!("CARGO_BIN_EXE_em-runner")
}

impl Runner {
    /// Starts a runner in a new home.
    pub async fn start() -> Self {
        Self::start_in(new_home()).await
    }

    /// Starts a runner in a home that may have seen one before.
    pub async fn start_in(home: TempDir) -> Self {
        let arguments = init_arguments(home.path(), user());
        Self::start_command(home, Command::new(program()).args(arguments)).await
    }

    /// Starts a runner by a command of the caller's making.
    pub async fn start_command(home: TempDir, command: &mut Command) -> Self {
        let child = command
            .stdin(Stdio::null())
            .env("LEAK", "secret")
            .spawn()
            .unwrap();
        let socket = home.path().join("socket");
        let client = connect(&socket).await;
        let mut runner = Self {
            child,
            client,
            incarnation: String::new(),
            home,
        };
        runner.incarnation = runner
            .client
            .hello(HelloRequest {})
            .await
            .unwrap()
            .into_inner()
            .incarnation;
        runner
    }

    pub fn volume(&self) -> PathBuf {
        self.home.path().join("app")
    }

    pub fn state(&self) -> PathBuf {
        self.home.path().join("state")
    }

    pub fn permit(&self, id: &str, fence: u64) -> Permit {
        Permit {
            job_id: id.to_owned(),
            fence,
            incarnation: self.incarnation.clone(),
        }
    }

    /// A request to run a shell script, with a limit that no test reaches by accident.
    pub fn shell(&self, id: &str, script: &str) -> StartRequest {
        let command = Some(Asked::Shell(Shell {
            script: marked(script),
            prefer_bash: false,
        }));
        StartRequest {
            permit: Some(self.permit(id, 1)),
            command,
            output_limit: 1 << 30,
            ..StartRequest::default()
        }
    }

    pub fn argv(&self, id: &str, argv: &[&str]) -> StartRequest {
        let args = argv.iter().map(|&argument| argument.to_owned()).collect();
        StartRequest {
            command: Some(Asked::Argv(Argv { args })),
            ..self.shell(id, "")
        }
    }

    /// Starts a job and answers its record, output and end.
    pub async fn run(&mut self, request: StartRequest) -> Finished {
        let id = request.permit.clone().unwrap().job_id;
        self.client.start(request).await.unwrap();
        self.finish(&id).await
    }

    pub async fn run_shell(&mut self, id: &str, script: &str) -> Finished {
        self.run(self.shell(id, script)).await
    }

    /// Attaches from the beginning to the end.
    pub async fn finish(&mut self, id: &str) -> Finished {
        self.finish_from(id, [0, 0]).await
    }

    pub async fn finish_from(&mut self, id: &str, offsets: [u64; 2]) -> Finished {
        tokio::time::timeout(SOON, attach(self.client.clone(), id, offsets))
            .await
            .expect("the job ends")
            .unwrap()
    }

    pub async fn seal(&mut self, id: &str, fence: u64) -> Result<SealReply, Status> {
        let request = SealRequest {
            job_id: id.to_owned(),
            fence,
            ..SealRequest::default()
        };
        self.client
            .seal(request)
            .await
            .map(tonic::Response::into_inner)
    }

    pub async fn record(&mut self, id: &str) -> JobRecord {
        let jobs = self
            .client
            .list_jobs(runner::proto::ListJobsRequest {})
            .await
            .unwrap()
            .into_inner()
            .jobs;
        jobs.into_iter().find(|job| job.job_id == id).unwrap()
    }

    /// Ends a job as a cancel does.
    pub async fn kill(&mut self, id: &str, grace_ms: u64) -> JobRecord {
        let request = SignalRequest {
            job_id: id.to_owned(),
            fence: 1,
            signal: 0,
            kill: true,
            grace_ms,
        };
        let ended = tokio::time::timeout(SOON, self.client.signal(request))
            .await
            .expect("the tree ends");
        ended.unwrap().into_inner()
    }

    /// Waits for a file in the volume and answers what is in it.
    pub async fn wait_for_file(&self, name: &str) -> String {
        let path = self.volume().join(name);
        wait_for(&format!("{}", path.display()), || {
            std::fs::read_to_string(&path)
                .ok()
                .filter(|text| text.ends_with('\n'))
        })
        .await
    }

    /// Ends the runner as a container runtime does, and answers its exit code and its home.
    pub async fn terminate(mut self) -> (Option<i32>, TempDir) {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.child.id()).unwrap());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
        let status = wait_for("the runner's end", || self.child.try_wait().unwrap()).await;
        (status.code(), self.take_home())
    }

    /// Kills the runner as a crash does, and answers its home.
    pub fn crash(mut self) -> TempDir {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.take_home()
    }

    fn take_home(&mut self) -> TempDir {
        std::mem::replace(&mut self.home, tempfile::tempdir().unwrap())
    }
}

impl Drop for Runner {
    fn drop(&mut self) {
        // Its supervisors notice and kill their trees.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What an attachment delivered.
#[derive(Debug, Default)]
pub struct Finished {
    pub record: JobRecord,
    /// Pieces with their offsets, of stdout and stderr.
    pub pieces: [Vec<(u64, Vec<u8>)>; 2],
}

impl Finished {
    pub fn stdout(&self) -> Vec<u8> {
        self.bytes(0)
    }

    pub fn stderr(&self) -> Vec<u8> {
        self.bytes(1)
    }

    pub fn text(&self) -> String {
        String::from_utf8(self.stdout()).unwrap()
    }

    fn bytes(&self, stream: usize) -> Vec<u8> {
        self.pieces[stream]
            .iter()
            .flat_map(|(_, data)| data.clone())
            .collect()
    }
}

/// Reads a job's output to its end.
pub async fn attach(
    mut client: Client,
    id: &str,
    [stdout_offset, stderr_offset]: [u64; 2],
) -> Result<Finished, Status> {
    let request = AttachRequest {
        job_id: id.to_owned(),
        stdout_offset,
        stderr_offset,
    };
    let mut events = client.attach(request).await?.into_inner();
    let mut finished = Finished::default();
    while let Some(event) = events.message().await? {
        match event.event.unwrap() {
            Event::Output(output) => {
                assert!((1..=runner::MAX_FRAME_BYTES).contains(&output.data.len()));
                let stream = usize::from(output.stream() == Stream::Stderr);
                finished.pieces[stream].push((output.offset, output.data.to_vec()));
            }
            Event::End(record) => {
                finished.record = record;
                assert!(events.message().await?.is_none(), "nothing follows the end");
                return Ok(finished);
            }
        }
    }
    Err(Status::data_loss("the stream closed without an end"))
}

/// Connects once the socket is there.
pub async fn connect(socket: &Path) -> Client {
    let deadline = Instant::now() + SOON;
    loop {
        match try_connect(socket).await {
            Ok(client) => return client,
            Err(error) if Instant::now() > deadline => {
                panic!("no runner at {}: {error}", socket.display())
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    }
}

async fn try_connect(socket: &Path) -> Result<Client, tonic::transport::Error> {
    let socket = socket.to_owned();
    let dial = tower::service_fn(move |_: Uri| {
        let socket = socket.clone();
        async move {
            Ok::<_, std::io::Error>(TokioIo::new(tokio::net::UnixStream::connect(socket).await?))
        }
    });
    let endpoint = Endpoint::from_static("http://runner")
        .initial_stream_window_size(4 << 20)
        .initial_connection_window_size(16 << 20);
    Ok(RunnerClient::new(
        endpoint.connect_with_connector(dial).await?,
    ))
}

/// Waits until something is there.
pub async fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + SOON;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

pub fn code<T: std::fmt::Debug>(outcome: Result<T, Status>) -> Code {
    outcome.unwrap_err().code()
}

/// Makes the times that scripts sleep (`300.` and two digits) this test program's own: that is how its processes are
/// told from those of another run of the same tests.
fn marked(text: &str) -> String {
    text.replace("300.", &format!("300.{}", std::process::id()))
}

/// Living processes whose command line holds a word.
pub fn processes_with(word: &str) -> Vec<i32> {
    let word = &marked(word);
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse::<i32>().ok())
        else {
            continue;
        };
        let Ok(line) = std::fs::read(entry.path().join("cmdline")) else {
            continue;
        };
        let is_it = String::from_utf8_lossy(&line).contains(word);
        if is_it && pid.cast_unsigned() != std::process::id() {
            found.push(pid);
        }
    }
    found
}

pub fn env(pairs: &[(&str, &str)]) -> HashMap<String, String> {
    pairs
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect()
}

/// The children of a process.
pub fn children(pid: i32) -> Vec<i32> {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let lists = threads
        .map(|thread| std::fs::read_to_string(thread.unwrap().path().join("children")).unwrap());
    lists
        .collect::<String>()
        .split_whitespace()
        .map(|pid| pid.parse().unwrap())
        .collect()
}

/// The supervisor that has a command below it.
pub fn supervisor_of(runner: u32) -> nix::unistd::Pid {
    let mut supervisors = children(runner.cast_signed()).into_iter();
    nix::unistd::Pid::from_raw(supervisors.find(|pid| !children(*pid).is_empty()).unwrap())
}
