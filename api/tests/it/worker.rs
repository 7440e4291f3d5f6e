//! A worker for tests: it leases jobs, does them in a folder of this machine, and finishes them.
//!
//! Commands run in a real shell. Those that begin with `#` do what no command can be told to do: `#hang` runs until it is
//! cancelled, `#signal N`, `#lost`, `#timed_out` and `#oom` end as they say, `#print-then-hang TEXT` prints first.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures::StreamExt as _;
use sha2::{Digest, Sha256};
use shared::artifact::Artifact;
use shared::clock::{Clock, SystemClock, new_worker_id};
use shared::environment::{EnvironmentEvent, Reason};
use shared::ids::{ArtifactId, Fence, Incarnation, WorkerId};
use shared::job::{
    Command, ExecInput, ExecResult, Job, JobError, JobInput, JobResult, JobState, Outcome, Preview,
    QueueLane,
};
use shared::output::{Chunk, OutputCounts, Stream, StreamCounts};
use shared::ports::{BlobName, Blobs, Completion, LeaseAttempt, Queue, Store};
use tokio::task::JoinHandle;

use crate::world::Backends;

mod files;

/// Jobs of each lane at a time.
const HANDS: usize = 4;

/// Ends with its world.
pub(crate) struct Worker(Vec<JoinHandle<()>>);

impl Drop for Worker {
    fn drop(&mut self) {
        for hand in &self.0 {
            hand.abort();
        }
    }
}

impl Worker {
    pub(crate) fn start(backends: &Backends) -> Self {
        let hand = Hand {
            store: Arc::clone(&backends.store),
            queue: Arc::clone(&backends.queue),
            blobs: Arc::clone(&backends.blobs),
            environments: backends.folder.path().join("environments"),
            id: new_worker_id(&SystemClock),
        };
        let lanes = [QueueLane::Lifecycle, QueueLane::Work];
        let hands = lanes.into_iter().flat_map(|lane| {
            let hand = hand.clone();
            (0..HANDS).map(move |_| tokio::spawn(hand.clone().run(lane)))
        });
        Self(hands.collect())
    }
}

#[derive(Clone)]
struct Hand {
    store: Arc<dyn Store>,
    queue: Arc<dyn Queue>,
    blobs: Arc<dyn Blobs>,
    environments: PathBuf,
    id: WorkerId,
}

/// How a job ends.
struct End {
    outcome: Outcome,
    chunks: Vec<Chunk>,
    event: Option<EnvironmentEvent>,
    artifact: Option<Artifact>,
}

impl From<Outcome> for End {
    fn from(outcome: Outcome) -> Self {
        Self {
            outcome,
            chunks: Vec::new(),
            event: None,
            artifact: None,
        }
    }
}

impl Hand {
    async fn run(self, lane: QueueLane) {
        loop {
            let delivery = self.queue.receive(lane).await.expect("a hint");
            let at = delivery.at.clone();
            let now = SystemClock.now();
            let attempt = self.store.lease(&at, &self.id, None, now).await;
            delivery.ack().await.expect("acked");
            let LeaseAttempt::Leased(leased) = attempt.expect("a lease") else {
                continue;
            };
            let job = leased.job;
            let end = self.execute(&job).await;
            let completion = Completion {
                outcome: end.outcome,
                chunks: end.chunks,
                event: end.event,
                artifact: end.artifact,
            };
            let finished = self
                .store
                .finish(&at, job.fence, completion, SystemClock.now())
                .await;
            for (at, lane) in finished.expect("finished").runnable {
                self.queue.publish(&at, lane).await.expect("published");
            }
        }
    }

    async fn execute(&self, job: &Job) -> End {
        let folder = self.environments.join(job.environment.as_str());
        match &job.input {
            JobInput::Create {} | JobInput::Start {} => {
                std::fs::create_dir_all(&folder).expect("a folder");
                lifecycle(running(job))
            }
            JobInput::Stop {} => lifecycle(EnvironmentEvent::Stopped),
            JobInput::Delete {} => {
                let _ = std::fs::remove_dir_all(&folder);
                lifecycle(EnvironmentEvent::Deleted)
            }
            JobInput::Exec(exec) => self.exec(job, exec, &folder).await,
            JobInput::Publish(_) => self.publish(job, &folder).await,
            _ => self.file(job, &folder).await.into(),
        }
    }

    async fn exec(&self, job: &Job, exec: &ExecInput, folder: &Path) -> End {
        let script = match &exec.command {
            Command::Shell(script) | Command::Bash(script) => script.clone(),
            Command::Argv(argv) => argv.join(" "),
        };
        if let Some(special) = script.strip_prefix('#') {
            return self.special(job, special).await;
        }
        let output = tokio::process::Command::new("/bin/sh")
            .args(["-c", &script])
            .envs(exec.env.reveal())
            .current_dir(folder)
            .output()
            .await
            .expect("a shell");
        let code = output.status.code().map(i32::unsigned_abs);
        let error = match code {
            Some(0) => None,
            _ => Some(JobError::new("exit_nonzero", "the command failed")),
        };
        ended(code, None, error, &output.stdout, &output.stderr)
    }

    async fn special(&self, job: &Job, what: &str) -> End {
        let (word, rest) = what.split_once(' ').unwrap_or((what, ""));
        let state = |state, code: &str| End::from(Outcome::ended(state, JobError::new(code, code)));
        match word {
            "signal" => {
                let error = JobError::new("killed", "a signal ended it");
                ended(None, rest.parse().ok(), Some(error), b"", b"")
            }
            "oom" => {
                let error = JobError::new("oom_killed", "out of memory");
                ended(None, None, Some(error), b"", b"")
            }
            "lost" => state(JobState::Lost, "environment_gone"),
            "timed_out" => state(JobState::TimedOut, "timed_out"),
            "image" => state(JobState::Failed, "image_not_found"),
            "print-then-hang" => {
                let data = rest.as_bytes().to_vec().into();
                let chunk = Chunk {
                    stream: Stream::Stdout,
                    start: 0,
                    data,
                };
                self.store
                    .append_output(&job.at(), job.fence, vec![chunk])
                    .await
                    .expect("appended");
                self.hang(job).await
            }
            _ => self.hang(job).await,
        }
    }

    async fn hang(&self, job: &Job) -> End {
        let mut watch = self.store.watch(&job.at());
        loop {
            let now = self
                .store
                .job(&job.at())
                .await
                .expect("read")
                .expect("there");
            if let Some(cancel) = now.cancel {
                let error = JobError::new(cancel.code, cancel.message);
                return Outcome::ended(JobState::Cancelled, error).into();
            }
            watch.changed().await;
        }
    }

    async fn publish(&self, job: &Job, folder: &Path) -> End {
        let JobInput::Publish(publish) = &job.input else {
            unreachable!("only publishes come here");
        };
        let Ok(bytes) = std::fs::read(files::path_in(folder, &publish.path)) else {
            return Outcome::failure("file_not_found", "there is no such file").into();
        };
        let name = BlobName::new(publish.bucket.as_str(), publish.destination.as_str());
        let name = name.expect("checked by the API");
        let content = futures::stream::iter([Ok(bytes.into())]).boxed();
        let info = self.blobs.put(&name, content).await.expect("put");
        let artifact = Artifact {
            id: ArtifactId::of_publish(&job.id),
            tenant: job.tenant.clone(),
            job: job.id,
            environment: job.environment.clone(),
            path: publish.path.clone(),
            bucket: publish.bucket.clone(),
            object: publish.destination.clone(),
            uri: self.blobs.uri(&name),
            size: info.size,
            sha256: info.sha256,
            created_at: SystemClock.now(),
            agent_name: "tester".to_owned(),
            execution_plan_id: publish.execution_plan_id.clone(),
            task_id: publish.task_id.clone(),
            metadata: publish.metadata.clone(),
        };
        let outcome = Outcome::success(JobResult::Published {
            artifact_id: artifact.id.clone(),
            uri: artifact.uri.clone(),
            size: artifact.size,
            sha256: artifact.sha256.clone(),
            warnings: Vec::new(),
        });
        End {
            artifact: Some(artifact),
            ..outcome.into()
        }
    }
}

fn lifecycle(event: EnvironmentEvent) -> End {
    End {
        event: Some(event),
        ..Outcome::success(JobResult::Lifecycle {}).into()
    }
}

/// PID 1 answers; an image called `broken` never comes that far.
fn running(job: &Job) -> EnvironmentEvent {
    if job.environment.as_str().starts_with("broken") {
        return EnvironmentEvent::Failed(Reason::new("broken", "it is broken"));
    }
    let Fence(fence) = job.fence;
    EnvironmentEvent::Running {
        incarnation: Incarnation::new(format!("{fence:032x}")).expect("an incarnation"),
        container: "none".to_owned(),
        restarts: 0,
        place: None,
        limits_not_enforced: Vec::new(),
    }
}

fn ended(
    exit_code: Option<u32>,
    signal: Option<u32>,
    error: Option<JobError>,
    stdout: &[u8],
    stderr: &[u8],
) -> End {
    const PREVIEW: usize = shared::job::PREVIEW_BYTES;
    let preview = |all: &[u8]| {
        let half = PREVIEW / 2;
        let head = &all[..all.len().min(half)];
        let tail = &all[all.len().saturating_sub(half)..];
        Preview::new(head, tail, all.len() as u64)
    };
    let chunks = [(Stream::Stdout, stdout), (Stream::Stderr, stderr)];
    let chunks = chunks.into_iter().filter(|(_, data)| !data.is_empty());
    let count = |data: &[u8]| StreamCounts {
        total: data.len() as u64,
        dropped: 0,
    };
    let state = match error {
        None => JobState::Succeeded,
        Some(_) => JobState::Failed,
    };
    let outcome = Outcome {
        state,
        result: Some(JobResult::Exec(ExecResult {
            exit_code,
            signal,
            stdout: preview(stdout),
            stderr: preview(stderr),
            duration_ms: 1,
            confirmed: None,
        })),
        error,
        output: OutputCounts {
            stdout: count(stdout),
            stderr: count(stderr),
            incomplete: false,
        },
    };
    End {
        chunks: chunks
            .map(|(stream, data)| Chunk {
                stream,
                start: 0,
                data: data.to_vec().into(),
            })
            .collect(),
        ..outcome.into()
    }
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}
