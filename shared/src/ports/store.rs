//! The port to the truth: environments, jobs, output, artifacts, leases.
//!
//! Every method is one commit or one read. A commit that returned is durable. Adapters keep the records and the commits;
//! what a commit changes they ask of the domain ([`crate::admission`], [`crate::job`], [`crate::environment`]), so that
//! all of them decide alike.

use async_trait::async_trait;
use jiff::Timestamp;

use crate::admission::{Condition, JobRequest, Refusal};
use crate::artifact::Artifact;
use crate::environment::{Environment, EnvironmentEvent, EnvironmentPatch, PatchRefusal, Phase};
use crate::ids::{
    ArtifactId, EnvironmentId, EnvironmentRef, Fence, Generation, InstanceId, JobId, JobRef,
    TenantId, WorkerId,
};
use crate::job::{Begun, CancelRequest, Job, JobKind, JobState, Outcome, Progress, QueueLane};
use crate::key::Key;
use crate::lease::Beat;
use crate::orphan::Orphan;
use crate::output::{Chunk, Offsets};
use crate::stdin::{StdinRefusal, StdinWrite, Waiting};

/// Why the store did not do it. Nothing of a failed commit is there afterwards, but for [`StoreError::Unknown`].
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// It cannot work now: down, busy, or out of room. Try again later.
    #[error("the store is unavailable: {0}")]
    Unavailable(String),
    /// The commit may or may not have happened: read before doing it again.
    #[error("the store did not answer: {0}")]
    Unknown(String),
    /// The job's lease is another's by now, or the job has ended: stop acting on it.
    #[error("the lease was lost")]
    Fenced,
    /// A record cannot be read.
    #[error("the store holds a record that cannot be read: {0}")]
    Corrupt(String),
}

/// Why a submission was not accepted.
#[derive(Debug, thiserror::Error)]
pub enum SubmitError {
    /// The environment does not allow it.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The idempotency key was used with another request.
    #[error("the idempotency key was used with another request")]
    KeyReused,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why an environment was not changed.
#[derive(Debug, thiserror::Error)]
pub enum PatchError {
    /// There is none.
    #[error("there is no such environment")]
    NoSuchEnvironment,
    /// It does not allow it.
    #[error(transparent)]
    Refused(#[from] PatchRefusal),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why standard input was not accepted.
#[derive(Debug, thiserror::Error)]
pub enum StdinError {
    /// There is no such job.
    #[error("there is no such job")]
    NoSuchJob,
    /// The job does not take it.
    #[error(transparent)]
    Refused(#[from] StdinRefusal),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Makes a repeated request answer the first one's job. Kept for 24 hours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Idempotency {
    /// The caller's key.
    pub key: String,
    /// Method and path of the request.
    pub scope: String,
    /// SHA-256 of what identifies the request's content.
    pub fingerprint: [u8; 32],
}

/// A request to be committed: job, idempotency record and the environment's change, all or nothing.
#[derive(Debug, Clone)]
pub struct Submission {
    /// The job.
    pub request: JobRequest,
    /// How a repetition is recognised.
    pub idempotency: Option<Idempotency>,
    /// What must still be so, else it is refused as [`Refusal::Overtaken`]. An adapter that cannot look in the same
    /// commit looks right before it.
    pub condition: Option<Condition>,
}

/// What became of a submission.
#[derive(Debug, Clone)]
pub struct Submitted {
    /// The new job, or the one that an earlier, equal request made, in its current state.
    pub job: Job,
    /// It was there before: there is nothing to publish for it.
    pub replayed: bool,
    /// Whether the caller has to tell the queue of it: it is new and runnable.
    pub publish: bool,
}

/// A leased job and its environment as of the same commit.
#[derive(Debug, Clone)]
pub struct Leased {
    /// The job, with its new fence.
    pub job: Job,
    /// The environment's record, of the job's life or a later one.
    pub environment: Environment,
}

/// What became of an attempt to lease.
#[derive(Debug, Clone)]
pub enum LeaseAttempt {
    /// It is the caller's.
    Leased(Box<Leased>),
    /// It has ended, or there is no such job.
    Ended,
    /// Its environment is not ready: it will be published again when it is.
    NotRunnable,
    /// Another worker has it.
    Held,
}

/// The end of a job and all that belongs to the same commit.
#[derive(Debug, Clone)]
pub struct Completion {
    /// How it ended.
    pub outcome: Outcome,
    /// Output that is not in the store yet.
    pub chunks: Vec<Chunk>,
    /// What a lifecycle job did. It is applied only while the job's generation is the environment's.
    pub event: Option<EnvironmentEvent>,
    /// What a publish job made.
    pub artifact: Option<Artifact>,
}

/// What a commit made possible: jobs of which the queue should hear.
#[derive(Debug, Clone, Default)]
pub struct Effects {
    /// Jobs that became runnable by it.
    pub runnable: Vec<(JobRef, QueueLane)>,
}

/// A job that some worker holds.
#[derive(Debug, Clone)]
pub struct HeldJob {
    /// The job.
    pub at: JobRef,
    /// Lifecycle or work.
    pub lane: QueueLane,
    /// Who holds it.
    pub owner: WorkerId,
    /// Under which fence.
    pub fence: Fence,
}

/// A task of which there is one in the whole installation, such as the sweeper.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoleHolder {
    /// Who does it.
    pub owner: WorkerId,
    /// Rises with each change of hands.
    pub fence: Fence,
}

/// How far a list was read; opaque to callers.
pub type PageToken = String;

/// One page of a list.
#[derive(Debug, Clone)]
pub struct Page<T> {
    /// At most as many as were asked for.
    pub items: Vec<T>,
    /// Where the next page begins; none at the end.
    pub next: Option<PageToken>,
}

/// Which page.
#[derive(Debug, Clone)]
pub struct PageRequest {
    /// Items at most; 1 to 1000.
    pub size: u32,
    /// From the page before; none for the first.
    pub token: Option<PageToken>,
}

/// A page token that this store did not make, or made for another list.
#[derive(Debug, thiserror::Error)]
pub enum ListError {
    /// The token cannot be read.
    #[error("the page token is not one of this list")]
    BadToken,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A mark of the caller's own, as a list asks for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Label {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: String,
}

/// Which environments. At most one condition.
#[derive(Debug, Clone, Default)]
pub struct EnvironmentFilter {
    /// Only those in this phase; else all that are not deleted.
    pub phase: Option<Phase>,
    /// Only those with this mark; of them all that are not deleted.
    pub label: Option<Label>,
}

/// Which jobs: those of one environment or all, with at most one further condition. Reads are left out unless their
/// kind is asked for.
#[derive(Debug, Clone, Default)]
pub struct JobFilter {
    /// Only those on this environment.
    pub environment: Option<EnvironmentId>,
    /// Only those of this kind.
    pub kind: Option<JobKind>,
    /// Only those in this state.
    pub state: Option<JobState>,
    /// Only those with this mark.
    pub label: Option<Label>,
}

/// When an environment last had something to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Activity {
    /// Whether a job of it has not ended.
    pub busy: bool,
    /// When the latest of those that ended did, as far as they are kept; reads too.
    pub last_end: Option<Timestamp>,
}

/// Numbers for `/status` and `/metrics`.
#[derive(Debug, Clone, Default)]
pub struct StoreCounts {
    /// Jobs by kind and state, of those that have not ended.
    pub jobs: Vec<(JobKind, JobState, u64)>,
    /// Environments by phase.
    pub environments: Vec<(Phase, u64)>,
}

/// Tells that a job's record or output may have changed.
///
/// Make it, then read, then wait: a change after the making is never missed. It may wake without a change.
#[derive(Debug)]
pub struct Watch {
    changes: tokio::sync::watch::Receiver<u64>,
}

impl Watch {
    /// A watch on a counter that the adapter raises with every change.
    pub fn new(changes: tokio::sync::watch::Receiver<u64>) -> Self {
        Self { changes }
    }

    /// Returns when something may have changed since the last call.
    pub async fn changed(&mut self) {
        if self.changes.changed().await.is_err() {
            // The adapter is gone with the process that owns it: there is nothing to wait for any more.
            std::future::pending::<()>().await;
        }
    }
}

/// The truth.
#[async_trait]
pub trait Store: Send + Sync {
    /// The installation's id; made at the first call ever.
    async fn instance(&self) -> Result<InstanceId, StoreError>;

    /// Whether this process is the only one that can use the store, so that every other owner of a lease is gone.
    fn exclusive(&self) -> bool;

    /// Whether the store can work now.
    async fn check(&self) -> Result<(), StoreError>;

    /// Commits a job with all that belongs to it ([`crate::admission::admit`], then [`crate::admission::settle`]).
    async fn submit(
        &self,
        submission: Submission,
        now: Timestamp,
    ) -> Result<Submitted, SubmitError>;

    /// A job.
    async fn job(&self, at: &JobRef) -> Result<Option<Job>, StoreError>;

    /// Jobs, newest first.
    async fn jobs(
        &self,
        tenant: &TenantId,
        filter: &JobFilter,
        page: PageRequest,
    ) -> Result<Page<Job>, ListError>;

    /// An environment's record; after a delete it is there with the phase `deleted`.
    async fn environment(&self, at: &EnvironmentRef) -> Result<Option<Environment>, StoreError>;

    /// Environments by id.
    async fn environments(
        &self,
        tenant: &TenantId,
        filter: &EnvironmentFilter,
        page: PageRequest,
    ) -> Result<Page<Environment>, ListError>;

    /// Environments of every tenant that are in a phase, for the sweeps: at most `limit`, from after the given one on.
    async fn environments_in(
        &self,
        phase: Phase,
        after: Option<&EnvironmentRef>,
        limit: u32,
    ) -> Result<Vec<Environment>, StoreError>;

    /// Environments of every tenant whose lifetime is over and that are not going yet, at most `limit`.
    async fn expired(&self, now: Timestamp, limit: u32) -> Result<Vec<Environment>, StoreError>;

    /// When an environment last had something to do.
    async fn activity(&self, at: &EnvironmentRef) -> Result<Activity, StoreError>;

    /// Changes an environment ([`Environment::patched`]); it as it is then.
    async fn patch_environment(
        &self,
        at: &EnvironmentRef,
        patch: EnvironmentPatch,
    ) -> Result<Environment, PatchError>;

    /// Leases a job ([`Job::lease`]). `replaces` is the fence of a lease whose owner is known to be gone. A create job's
    /// first lease brings its environment to `creating` in the same commit.
    async fn lease(
        &self,
        at: &JobRef,
        owner: &WorkerId,
        replaces: Option<Fence>,
        now: Timestamp,
    ) -> Result<LeaseAttempt, StoreError>;

    /// Gives a job back ([`Job::hand_back`]), to be told to the queue again.
    async fn hand_back(
        &self,
        at: &JobRef,
        fence: Fence,
        begun: Begun,
        now: Timestamp,
    ) -> Result<Effects, StoreError>;

    /// Adds output under a lease. Chunks that are there already are left as they are.
    async fn append_output(
        &self,
        at: &JobRef,
        fence: Fence,
        chunks: Vec<Chunk>,
    ) -> Result<(), StoreError>;

    /// Notes how far a download is, under its lease.
    async fn progress(
        &self,
        at: &JobRef,
        fence: Fence,
        progress: Progress,
    ) -> Result<(), StoreError>;

    /// Ends a job under its lease, with all that belongs to it, and settles its environment's other jobs.
    async fn finish(
        &self,
        at: &JobRef,
        fence: Fence,
        completion: Completion,
        now: Timestamp,
    ) -> Result<Effects, StoreError>;

    /// Applies what a worker saw to an environment of that life and settles its jobs. Stale events change nothing.
    async fn environment_event(
        &self,
        at: &EnvironmentRef,
        generation: Generation,
        event: EnvironmentEvent,
        now: Timestamp,
    ) -> Result<Effects, StoreError>;

    /// Asks for a job's end ([`Job::request_cancel`]); the job as it is then, none if there is no such job. A job that
    /// has ended is left as it is.
    async fn cancel(
        &self,
        at: &JobRef,
        request: CancelRequest,
        now: Timestamp,
    ) -> Result<Option<Job>, StoreError>;

    /// Output from the offsets on, in order of each stream, at most `limit` bytes of each. A chunk that starts after the
    /// offset tells of dropped bytes between.
    async fn output(
        &self,
        at: &JobRef,
        from: Offsets,
        limit: u64,
    ) -> Result<Vec<Chunk>, StoreError>;

    /// Where the output that the store holds ends, in each stream.
    async fn output_end(&self, at: &JobRef) -> Result<Offsets, StoreError>;

    /// Adds standard input to a command ([`crate::stdin::Intake::offer`]); the offset after the last byte accepted. It is
    /// kept until the environment has it or the job has ended.
    async fn write_stdin(&self, at: &JobRef, write: StdinWrite) -> Result<u64, StdinError>;

    /// Standard input that waits for the environment, from an offset on, at most `limit` bytes.
    async fn stdin(&self, at: &JobRef, from: u64, limit: u64) -> Result<Waiting, StoreError>;

    /// Notes under a lease that the environment has the input below an offset, which is not kept any longer, or, with
    /// `broken`, that nobody there reads any more ([`crate::stdin::Intake::took`]).
    async fn stdin_taken(
        &self,
        at: &JobRef,
        fence: Fence,
        upto: u64,
        broken: bool,
    ) -> Result<(), StoreError>;

    /// A watch on a job: its record, its progress, its output, its input.
    fn watch(&self, at: &JobRef) -> Watch;

    /// Jobs that are runnable and not leased, oldest first, accepted after `after`.
    async fn runnable(
        &self,
        lane: QueueLane,
        after: Option<JobId>,
        limit: u32,
    ) -> Result<Vec<JobRef>, StoreError>;

    /// Jobs that are leased, in a stable order, from after the given one on.
    async fn held(&self, after: Option<JobId>, limit: u32) -> Result<Vec<HeldJob>, StoreError>;

    /// Jobs of an environment that have not ended.
    async fn open_jobs(&self, at: &EnvironmentRef) -> Result<Vec<Job>, StoreError>;

    /// Changes the worker's heartbeat.
    async fn beat(&self, worker: &WorkerId) -> Result<(), StoreError>;

    /// All heartbeats.
    async fn beats(&self) -> Result<Vec<Beat>, StoreError>;

    /// Removes a worker's heartbeat: it is gone, and all of its leases are free to be taken over.
    async fn retire(&self, worker: &WorkerId) -> Result<(), StoreError>;

    /// Who has a role.
    async fn role(&self, role: &str) -> Result<Option<RoleHolder>, StoreError>;

    /// Takes a role from the holder that was read; false if it changed hands meanwhile.
    async fn take_role(
        &self,
        role: &str,
        owner: &WorkerId,
        from: Option<&RoleHolder>,
    ) -> Result<bool, StoreError>;

    /// What the sweep saw without a record when it last looked, by uid.
    async fn orphans(&self) -> Result<Vec<Orphan>, StoreError>;

    /// Makes these all that there are. Whoever has the sweeper's role says so; where one who lost it speaks late, the next
    /// look of the holder sets it right.
    async fn note_orphans(&self, orphans: Vec<Orphan>) -> Result<(), StoreError>;

    /// The keys that open the service, of all tenants.
    async fn keys(&self) -> Result<Vec<Key>, StoreError>;

    /// Accepts a key from now on, in the place of the one of its tenant and name, if there is one.
    async fn put_key(&self, key: Key) -> Result<(), StoreError>;

    /// Revokes a key; false if there is none of that name.
    async fn remove_key(&self, tenant: &TenantId, name: &str) -> Result<bool, StoreError>;

    /// An artifact.
    async fn artifact(
        &self,
        tenant: &TenantId,
        id: &ArtifactId,
    ) -> Result<Option<Artifact>, StoreError>;

    /// Artifacts, newest first.
    async fn artifacts(
        &self,
        tenant: &TenantId,
        page: PageRequest,
    ) -> Result<Page<Artifact>, ListError>;

    /// Removes what is past its time: jobs that ended before `jobs_before` (with their output), reads that ended before
    /// `reads_before`, idempotency records from before `keys_before`. At most `limit` jobs; the refs of those removed.
    /// The record of an environment goes too, at most `limit` of them, once it was deleted before `jobs_before` and has no
    /// job left: a create after that begins its first life.
    /// The create job of an environment that is not deleted stays: a repeated create is answered with it.
    async fn prune(&self, cutoffs: Cutoffs, limit: u32) -> Result<Vec<JobRef>, StoreError>;

    /// Numbers for people and monitors.
    async fn counts(&self) -> Result<StoreCounts, StoreError>;
}

/// What is past its time.
#[derive(Debug, Clone, Copy)]
pub struct Cutoffs {
    /// Jobs that ended before, and environments that were deleted before.
    pub jobs_before: Timestamp,
    /// Reads that ended before.
    pub reads_before: Timestamp,
    /// Idempotency records made before.
    pub keys_before: Timestamp,
}
