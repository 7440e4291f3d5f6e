//! A job as a plain value: every kind of work on one screen, and the only ways in which a job changes.
//!
//! ```text
//!              lease (fence+1, attempts+1)            finish (fence must be the job's)
//!   queued ───────────────────────────────▶ running ─────────────────────────────────▶ succeeded | failed
//!     │                                      │  ▲                                       cancelled | timed_out | lost
//!     │ cancel, or its environment went      └──┘ hand back, takeover by a new lease
//!     └────────────────────────────────────────────────────────────────────────────▶ cancelled | failed
//! ```
//!
//! Invariants: a terminal state is reached once and never left; the fence only grows; what carries an older fence than
//! the job's changes nothing; a job is `queued` exactly until its first lease.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::environment::Lifecycle;
use crate::ids::{
    EnvironmentId, EnvironmentUid, Fence, Generation, Incarnation, JobId, JobRef, TenantId,
    WorkerId,
};
use crate::octets::Octets;
use crate::output::OutputCounts;
use crate::secret::EnvVars;

mod result;
mod wanted;
pub use result::{
    ByteContent, DownloadHead, Entry, EntryType, ExecResult, JobResult, PREVIEW_BYTES, Preview,
};
pub use wanted::{ByteRange, Span, Verdict, Wanted};

/// What a job shall do. One variant per kind; each has one executor file in `worker/src/jobs/`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum JobInput {
    /// Makes an environment; what it shall be stands in the environment's record.
    Create {},
    /// Starts a stopped or failed environment.
    Start {},
    /// Stops a running environment.
    Stop {},
    /// Deletes an environment and its volume.
    Delete {},
    /// Runs a command.
    Exec(ExecInput),
    /// Writes a file.
    Upload {
        /// Where to; relative to the volume or absolute.
        path: Octets,
        /// Permission bits; 0644 where they are not given.
        mode: Option<u32>,
        /// What to write.
        content: ByteContent,
    },
    /// Reads a file or a range of it.
    Download {
        /// Which file.
        path: Octets,
        /// What of it.
        #[serde(default)]
        wanted: Wanted,
    },
    /// Lists a folder.
    List {
        /// Which folder.
        path: Octets,
        /// Levels to descend; 1 is the folder itself.
        depth: u32,
        /// Only names after this one, in byte order.
        after: Octets,
        /// Entries at most.
        limit: u32,
    },
    /// Removes a file or a folder.
    Remove {
        /// Which one.
        path: Octets,
        /// Whether a folder goes with what is in it.
        recursive: bool,
    },
    /// Gives a file or a folder another path.
    Move {
        /// Which one.
        from: Octets,
        /// Its new path; a file there is replaced.
        to: Octets,
    },
    /// Makes a folder.
    Mkdir {
        /// Which one.
        path: Octets,
        /// Whether those above it are made too, and one that is there is no error.
        parents: bool,
    },
    /// Reads a folder, or a file, as a tar archive.
    Pack {
        /// Which one.
        path: Octets,
    },
    /// Unpacks a tar archive into a folder.
    Unpack {
        /// Which one.
        path: Octets,
        /// The archive.
        content: ByteContent,
    },
    /// Copies a file out of the environment and indexes it as an artifact.
    Publish(PublishInput),
}

/// A command and how to run it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecInput {
    /// What to run.
    pub command: Command,
    /// Variables beside the environment's own.
    #[serde(default)]
    pub env: EnvVars,
    /// Folder to start in; the environment's where it is not given.
    pub workdir: Option<String>,
    /// Name or number of a user of the image.
    pub user: Option<String>,
    /// Standard input; empty where it is not given.
    pub stdin: Option<Octets>,
    /// Whether more of it may follow ([`crate::stdin`]).
    #[serde(default)]
    pub stdin_open: bool,
    /// Seconds after which it is ended.
    pub timeout_seconds: u64,
    /// Bytes of output that are kept.
    pub output_limit: u64,
}

/// What to run.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Command {
    /// A program and its arguments.
    Argv(Vec<String>),
    /// A script for `sh -c`.
    Shell(String),
    /// A script for `bash -c` where the image has bash, else for `sh -c`: the original endpoint.
    Bash(String),
}

impl std::fmt::Debug for Command {
    /// Never the text: commands carry passwords.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Argv(argv) => write!(f, "argv({} words)", argv.len()),
            Self::Shell(script) => write!(f, "shell({} bytes)", script.len()),
            Self::Bash(script) => write!(f, "bash({} bytes)", script.len()),
        }
    }
}

/// What to publish, and where.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublishInput {
    /// The file in the environment.
    pub path: Octets,
    /// The bucket to write to.
    pub bucket: String,
    /// The object's name in it.
    pub destination: String,
    /// The plan whose task gets a reference to the artifact.
    pub execution_plan_id: Option<String>,
    /// The task of that plan.
    pub task_id: Option<String>,
    /// The caller's own words about it.
    #[serde(default)]
    pub metadata: BTreeMap<String, String>,
}

/// The kind of a job, without its content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs, reason = "the variants are those of `JobInput`")]
pub enum JobKind {
    Create,
    Start,
    Stop,
    Delete,
    Exec,
    Upload,
    Download,
    List,
    Remove,
    Move,
    Mkdir,
    Pack,
    Unpack,
    Publish,
}

impl JobKind {
    /// Leases without an end after which a job is given up. Of a command many more: to follow one that runs does hardly
    /// ever end a worker, and giving it up kills it.
    pub const fn attempts_most(self) -> u32 {
        match self {
            Self::Exec => 100,
            _ => 5,
        }
    }

    /// Every kind.
    pub const ALL: [Self; 14] = [
        Self::Create,
        Self::Start,
        Self::Stop,
        Self::Delete,
        Self::Exec,
        Self::Upload,
        Self::Download,
        Self::List,
        Self::Remove,
        Self::Move,
        Self::Mkdir,
        Self::Pack,
        Self::Unpack,
        Self::Publish,
    ];

    /// The kind as callers read it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Start => "start",
            Self::Stop => "stop",
            Self::Delete => "delete",
            Self::Exec => "exec",
            Self::Upload => "upload",
            Self::Download => "download",
            Self::List => "list",
            Self::Remove => "remove",
            Self::Move => "move",
            Self::Mkdir => "mkdir",
            Self::Pack => "pack",
            Self::Unpack => "unpack",
            Self::Publish => "publish",
        }
    }

    /// The kind of that name.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text)
    }

    /// The lifecycle change that this kind is, if it is one.
    pub fn lifecycle(self) -> Option<Lifecycle> {
        match self {
            Self::Create => Some(Lifecycle::Create),
            Self::Start => Some(Lifecycle::Start),
            Self::Stop => Some(Lifecycle::Stop),
            Self::Delete => Some(Lifecycle::Delete),
            Self::Exec
            | Self::Upload
            | Self::Download
            | Self::List
            | Self::Remove
            | Self::Move
            | Self::Mkdir
            | Self::Pack
            | Self::Unpack
            | Self::Publish => None,
        }
    }

    /// Whether it ends what an environment takes of its machine: a store that is full keeps room for such jobs.
    pub fn ends_environment(self) -> bool {
        matches!(self, Self::Stop | Self::Delete)
    }

    /// Whether it only reads: such jobs are kept for minutes and hidden from lists.
    pub fn only_reads(self) -> bool {
        matches!(self, Self::Download | Self::List | Self::Pack)
    }

    /// The lane of the queue in which it waits.
    pub fn lane(self) -> QueueLane {
        if self.lifecycle().is_some() {
            QueueLane::Lifecycle
        } else {
            QueueLane::Work
        }
    }
}

/// The two lanes of the queue: a stop or delete never waits behind commands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum QueueLane {
    /// Create, start, stop, delete.
    Lifecycle,
    /// All else.
    Work,
}

impl JobInput {
    /// Its kind.
    pub fn kind(&self) -> JobKind {
        match self {
            Self::Create {} => JobKind::Create,
            Self::Start {} => JobKind::Start,
            Self::Stop {} => JobKind::Stop,
            Self::Delete {} => JobKind::Delete,
            Self::Exec(_) => JobKind::Exec,
            Self::Upload { .. } => JobKind::Upload,
            Self::Download { .. } => JobKind::Download,
            Self::List { .. } => JobKind::List,
            Self::Remove { .. } => JobKind::Remove,
            Self::Move { .. } => JobKind::Move,
            Self::Mkdir { .. } => JobKind::Mkdir,
            Self::Pack { .. } => JobKind::Pack,
            Self::Unpack { .. } => JobKind::Unpack,
            Self::Publish(_) => JobKind::Publish,
        }
    }

    /// Whether its content waits in the staging area.
    pub fn is_staged(&self) -> bool {
        matches!(
            self,
            Self::Upload {
                content: ByteContent::Staged { .. },
                ..
            } | Self::Unpack {
                content: ByteContent::Staged { .. },
                ..
            }
        )
    }
}

/// Where a job is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobState {
    /// Not leased yet.
    Queued,
    /// Leased once at least.
    Running,
    /// Done; a command exited with 0.
    Succeeded,
    /// It went wrong; the error says how.
    Failed,
    /// Ended on request.
    Cancelled,
    /// Ended at its deadline.
    TimedOut,
    /// Its environment went, so how it ended cannot be known.
    Lost,
}

impl JobState {
    /// Every state.
    pub const ALL: [Self; 7] = [
        Self::Queued,
        Self::Running,
        Self::Succeeded,
        Self::Failed,
        Self::Cancelled,
        Self::TimedOut,
        Self::Lost,
    ];

    /// Whether it is final.
    pub fn is_terminal(self) -> bool {
        !matches!(self, Self::Queued | Self::Running)
    }

    /// The state as callers read it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::TimedOut => "timed_out",
            Self::Lost => "lost",
        }
    }

    /// The state of that name.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == text)
    }
}

/// Why a job did not succeed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobError {
    /// Stable, in snake case.
    pub code: String,
    /// For people.
    pub message: String,
}

impl JobError {
    /// An error from its two parts. What of the message is beyond a few thousand bytes is cut off: a part of it may come
    /// from an environment, which may say as much as it likes.
    pub fn new(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            code: code.into(),
            message: shortened(message.into()),
        }
    }
}

/// The longest message for people, in bytes.
pub const MAX_MESSAGE_BYTES: usize = 4096;

/// A message for people that is not too long to be kept.
pub(crate) fn shortened(mut message: String) -> String {
    if message.len() > MAX_MESSAGE_BYTES {
        message.truncate(message.floor_char_boundary(MAX_MESSAGE_BYTES - "…".len()));
        message.push('…');
    }
    message
}

/// How a job ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// A terminal state.
    pub state: JobState,
    /// What it produced, where there is something.
    pub result: Option<JobResult>,
    /// Why it did not succeed.
    pub error: Option<JobError>,
    /// What is known of its output.
    pub output: OutputCounts,
}

impl Outcome {
    /// A success.
    pub fn success(result: JobResult) -> Self {
        Self {
            state: JobState::Succeeded,
            result: Some(result),
            error: None,
            output: OutputCounts::default(),
        }
    }

    /// An end without a result.
    pub fn ended(state: JobState, error: JobError) -> Self {
        Self {
            state,
            result: None,
            error: Some(error),
            output: OutputCounts::default(),
        }
    }

    /// A failure without a result.
    pub fn failure(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self::ended(JobState::Failed, JobError::new(code, message))
    }
}

/// A request to end a job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CancelRequest {
    /// The signal to begin with; TERM where it is 0.
    pub signal: u32,
    /// Seconds until the rest is killed.
    pub grace_seconds: u64,
    /// The `error.code` that the job ends with.
    pub code: String,
    /// The `error.message` that the job ends with.
    pub message: String,
}

/// Who works on a job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// The worker's process.
    pub owner: WorkerId,
    /// The start of the environment's PID 1 in which the job may run; none for lifecycle jobs.
    pub incarnation: Option<Incarnation>,
    /// Whether somebody held the job in that incarnation before: what it should do may have begun there.
    #[serde(default)]
    pub resumed: bool,
}

/// Whether what a job should do may have begun, as whoever gives it back knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Begun {
    /// Nothing of it was sent into the environment.
    Never,
    /// It may run, and goes on in its incarnation alone.
    Perhaps,
}

/// One unit of work on one environment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    /// The job.
    pub id: JobId,
    /// The owner.
    pub tenant: TenantId,
    /// The environment's name.
    pub environment: EnvironmentId,
    /// The environment's life that the job belongs to.
    pub uid: EnvironmentUid,
    /// Of a lifecycle job: the generation that it made. Of others: the one in which they were accepted.
    pub generation: Generation,
    /// What to do.
    pub input: JobInput,
    /// The caller's own marks.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Where it is.
    pub state: JobState,
    /// Whether a worker may take it now; false while its environment is not ready.
    pub runnable: bool,
    /// When it was accepted.
    pub created_at: Timestamp,
    /// When it was first leased.
    pub started_at: Option<Timestamp>,
    /// When it reached its terminal state.
    pub finished_at: Option<Timestamp>,
    /// Leases that neither ended the job nor handed it back.
    pub attempts: u32,
    /// Of the latest lease.
    pub fence: Fence,
    /// Who works on it now.
    pub lease: Option<Lease>,
    /// The incarnation in which it may have been started; it stays when the lease goes, unless nothing had begun.
    pub incarnation: Option<Incarnation>,
    /// Asked to end.
    pub cancel: Option<CancelRequest>,
    /// Of a download or a pack: what the file is and how many parts are there.
    pub progress: Option<Progress>,
    /// What it produced.
    pub result: Option<JobResult>,
    /// Why it did not succeed.
    pub error: Option<JobError>,
    /// What is known of its output.
    #[serde(default)]
    pub output: OutputCounts,
}

/// How far a download is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// The file; none of an archive, whose size nobody knows before its end.
    pub head: Option<DownloadHead>,
    /// Parts that can be read.
    pub parts: u32,
}

/// A change that a job does not allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum JobRefusal {
    /// It has ended.
    #[error("the job has ended")]
    Ended,
    /// Its environment is not ready.
    #[error("the job may not run now")]
    NotRunnable,
    /// Another worker holds it.
    #[error("another worker holds the job")]
    Held,
    /// The fence is not the job's.
    #[error("the lease was taken over")]
    Fenced,
    /// An outcome must be terminal.
    #[error("the outcome is not terminal")]
    NotTerminal,
}

impl Job {
    /// Where it is found.
    pub fn at(&self) -> JobRef {
        JobRef {
            tenant: self.tenant.clone(),
            job: self.id,
        }
    }

    /// Gives the job to a worker. `replaces` is the fence of a lease whose owner is known to be gone.
    pub fn lease(
        &self,
        owner: WorkerId,
        incarnation: Option<Incarnation>,
        replaces: Option<Fence>,
        now: Timestamp,
    ) -> Result<Self, JobRefusal> {
        if self.state.is_terminal() {
            return Err(JobRefusal::Ended);
        }
        if self.lease.is_some() && replaces != Some(self.fence) {
            return Err(JobRefusal::Held);
        }
        if self.lease.is_none() && !self.runnable {
            return Err(JobRefusal::NotRunnable);
        }
        // A command may have been started in the first lease's incarnation, so a takeover keeps it.
        let resumed = self.incarnation.is_some();
        let incarnation = self.incarnation.clone().or(incarnation);
        Ok(Self {
            state: JobState::Running,
            fence: self.fence.next(),
            attempts: self.attempts + 1,
            lease: Some(Lease {
                owner,
                incarnation: incarnation.clone(),
                resumed,
            }),
            incarnation,
            started_at: self.started_at.or(Some(now)),
            ..self.clone()
        })
    }

    /// Gives the job back, to be taken by any worker at once. It does not count as an attempt. One that never began is
    /// bound to no incarnation: the next lease takes the one that it finds.
    pub fn hand_back(&self, fence: Fence, begun: Begun) -> Result<Self, JobRefusal> {
        self.guard(fence)?;
        Ok(Self {
            lease: None,
            incarnation: match begun {
                Begun::Never => None,
                Begun::Perhaps => self.incarnation.clone(),
            },
            runnable: true,
            attempts: self.attempts.saturating_sub(1),
            ..self.clone()
        })
    }

    /// Ends the job under its lease.
    pub fn finish(
        &self,
        fence: Fence,
        outcome: Outcome,
        now: Timestamp,
    ) -> Result<Self, JobRefusal> {
        self.guard(fence)?;
        self.end(outcome, now)
    }

    /// Ends a job that was never leased: nothing of it can have run.
    pub fn end_unstarted(&self, outcome: Outcome, now: Timestamp) -> Result<Self, JobRefusal> {
        match self.state {
            JobState::Queued => self.end(outcome, now),
            JobState::Running => Err(JobRefusal::Held),
            _ => Err(JobRefusal::Ended),
        }
    }

    /// Asks for the job's end. One that was never leased is cancelled at once; of several requests the first counts.
    pub fn request_cancel(
        &self,
        request: CancelRequest,
        now: Timestamp,
    ) -> Result<Self, JobRefusal> {
        match self.state {
            JobState::Queued => self.end(
                Outcome::ended(
                    JobState::Cancelled,
                    JobError::new(request.code, request.message),
                ),
                now,
            ),
            JobState::Running => Ok(Self {
                cancel: self.cancel.clone().or(Some(request)),
                ..self.clone()
            }),
            _ => Err(JobRefusal::Ended),
        }
    }

    /// Whether a write under this fence is still allowed.
    pub fn guard(&self, fence: Fence) -> Result<(), JobRefusal> {
        if self.state.is_terminal() {
            Err(JobRefusal::Ended)
        } else if self.lease.is_none() || fence != self.fence {
            Err(JobRefusal::Fenced)
        } else {
            Ok(())
        }
    }

    fn end(&self, outcome: Outcome, now: Timestamp) -> Result<Self, JobRefusal> {
        if !outcome.state.is_terminal() {
            return Err(JobRefusal::NotTerminal);
        }
        Ok(Self {
            state: outcome.state,
            runnable: false,
            lease: None,
            finished_at: Some(now),
            result: outcome.result,
            error: outcome.error,
            output: outcome.output,
            ..self.clone()
        })
    }
}
