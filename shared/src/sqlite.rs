//! The store on SQLite: one file, one process, durable before it answers.
//!
//! ```text
//!   async callers ──▶ writer: one thread, group commit ──▶ environment-manager.db (WAL, synchronous=FULL)
//!                 ──▶ readers: a few threads, each with a read-only connection ──▶ the same file
//! ```
//!
//! Invariants: a commit that returned is on the disk; no transaction is open while anything is waited for; what a commit
//! changes is decided by the domain, here it is only kept. A record is its JSON; the columns beside it are what it is
//! found by (`rows`). On a full disk the commits that end environments still go through (`reserve`). The file has one owner
//! process ([`crate::data_dir`]), so that every other owner of a lease is gone when it is opened.

use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use jiff::Timestamp;

mod ends;
mod error;
mod keys;
mod leases;
mod lists;
mod orphans;
mod output;
mod prune;
mod readers;
mod reserve;
mod roles;
mod rows;
mod schema;
mod stdin;
mod submit;
mod sweeps;
mod tokens;
mod watches;
mod writer;

use self::readers::Readers;
use self::reserve::Reserve;
use self::watches::Watches;
use self::writer::Writer;
use crate::artifact::Artifact;
use crate::clock::Clock;
use crate::environment::{Environment, EnvironmentEvent, EnvironmentPatch, Phase};
use crate::ids::{
    ArtifactId, EnvironmentRef, Fence, Generation, InstanceId, JobId, JobRef, TenantId, WorkerId,
};
use crate::job::{Begun, CancelRequest, Job, Progress, QueueLane};
use crate::key::Key;
use crate::lease::Beat;
use crate::orphan::Orphan;
use crate::output::{Chunk, Offsets};
use crate::ports::{
    Activity, Completion, Cutoffs, Effects, EnvironmentFilter, HeldJob, JobFilter, LeaseAttempt,
    ListError, Page, PageRequest, PatchError, RoleHolder, StdinError, Store, StoreCounts,
    StoreError, Submission, SubmitError, Submitted, Watch,
};
use crate::stdin::{StdinWrite, Waiting};

/// The store in one SQLite file. Dropping it waits for the commits that were handed in.
pub struct SqliteStore {
    instance: InstanceId,
    watches: Arc<Watches>,
    // Dropped before the writer, whose connection as the last one puts the write-ahead log back into the file.
    readers: Readers,
    writer: Writer,
}

impl SqliteStore {
    /// Opens the file, makes it (0600) if it is not there, and brings it to this program's schema. The caller holds the
    /// lock of the folder in which it lies. The clock's randomness makes the instance id of a new file.
    ///
    /// Fails where the file cannot be opened or written, is no database, or was made by a newer program.
    pub fn open(path: &Path, clock: &dyn Clock) -> Result<Self, StoreError> {
        let db = schema::open_writer(path)?;
        let instance = schema::instance(&db, &InstanceId::from_random(clock.random()))?;
        let watches = Arc::new(Watches::default());
        let readers = Readers::start(path)?;
        let writer = Reserve::open(path)
            .and_then(|reserve| Writer::start(db, Some(reserve), Arc::clone(&watches)))
            .map_err(|error| StoreError::Unavailable(error.to_string()))?;
        Ok(Self {
            instance,
            watches,
            readers,
            writer,
        })
    }
}

impl std::fmt::Debug for SqliteStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SqliteStore")
            .field("instance", &self.instance)
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl Store for SqliteStore {
    async fn instance(&self) -> Result<InstanceId, StoreError> {
        Ok(self.instance.clone())
    }

    fn exclusive(&self) -> bool {
        true
    }

    async fn check(&self) -> Result<(), StoreError> {
        self.writer.commit(|commit| schema::probe(commit.db)).await
    }

    async fn submit(
        &self,
        submission: Submission,
        now: Timestamp,
    ) -> Result<Submitted, SubmitError> {
        self.writer
            .commit_always(move |commit| submit::submit(commit, submission, now))
            .await
    }

    async fn job(&self, at: &JobRef) -> Result<Option<Job>, StoreError> {
        let at = at.clone();
        self.readers.read(move |db| rows::job(db, &at)).await
    }

    async fn jobs(
        &self,
        tenant: &TenantId,
        filter: &JobFilter,
        page: PageRequest,
    ) -> Result<Page<Job>, ListError> {
        let (tenant, filter) = (tenant.clone(), filter.clone());
        self.readers
            .read(move |db| lists::jobs(db, &tenant, &filter, &page))
            .await
    }

    async fn environment(&self, at: &EnvironmentRef) -> Result<Option<Environment>, StoreError> {
        let at = at.clone();
        self.readers
            .read(move |db| rows::environment(db, &at))
            .await
    }

    async fn environments(
        &self,
        tenant: &TenantId,
        filter: &EnvironmentFilter,
        page: PageRequest,
    ) -> Result<Page<Environment>, ListError> {
        let (tenant, filter) = (tenant.clone(), filter.clone());
        self.readers
            .read(move |db| lists::environments(db, &tenant, &filter, &page))
            .await
    }

    async fn environments_in(
        &self,
        phase: Phase,
        after: Option<&EnvironmentRef>,
        limit: u32,
    ) -> Result<Vec<Environment>, StoreError> {
        let after = after.cloned();
        self.readers
            .read(move |db| sweeps::environments_in(db, phase, after.as_ref(), limit))
            .await
    }

    async fn expired(&self, now: Timestamp, limit: u32) -> Result<Vec<Environment>, StoreError> {
        self.readers
            .read(move |db| sweeps::expired(db, now, limit))
            .await
    }

    async fn activity(&self, at: &EnvironmentRef) -> Result<Activity, StoreError> {
        let at = at.clone();
        self.readers.read(move |db| sweeps::activity(db, &at)).await
    }

    async fn patch_environment(
        &self,
        at: &EnvironmentRef,
        patch: EnvironmentPatch,
    ) -> Result<Environment, PatchError> {
        let at = at.clone();
        self.writer
            .commit(move |commit| {
                let found = rows::environment(commit.db, &at)?;
                let changed = found
                    .ok_or(PatchError::NoSuchEnvironment)?
                    .patched(&patch)?;
                rows::put_environment(commit, &changed)?;
                Ok(changed)
            })
            .await
    }

    async fn lease(
        &self,
        at: &JobRef,
        owner: &WorkerId,
        replaces: Option<Fence>,
        now: Timestamp,
    ) -> Result<LeaseAttempt, StoreError> {
        let (at, owner) = (at.clone(), owner.clone());
        self.writer
            .commit_always(move |commit| leases::lease(commit, &at, owner, replaces, now))
            .await
    }

    async fn hand_back(
        &self,
        at: &JobRef,
        fence: Fence,
        begun: Begun,
        now: Timestamp,
    ) -> Result<Effects, StoreError> {
        let at = at.clone();
        self.writer
            .commit_always(move |commit| leases::hand_back(commit, &at, fence, begun, now))
            .await
    }

    async fn append_output(
        &self,
        at: &JobRef,
        fence: Fence,
        chunks: Vec<Chunk>,
    ) -> Result<(), StoreError> {
        let at = at.clone();
        self.writer
            .commit(move |commit| leases::append_output(commit, &at, fence, &chunks))
            .await
    }

    async fn progress(
        &self,
        at: &JobRef,
        fence: Fence,
        progress: Progress,
    ) -> Result<(), StoreError> {
        let at = at.clone();
        self.writer
            .commit(move |commit| leases::progress(commit, &at, fence, progress))
            .await
    }

    async fn finish(
        &self,
        at: &JobRef,
        fence: Fence,
        completion: Completion,
        now: Timestamp,
    ) -> Result<Effects, StoreError> {
        let at = at.clone();
        self.writer
            .commit_always(move |commit| ends::finish(commit, &at, fence, completion, now))
            .await
    }

    async fn environment_event(
        &self,
        at: &EnvironmentRef,
        generation: Generation,
        event: EnvironmentEvent,
        now: Timestamp,
    ) -> Result<Effects, StoreError> {
        let at = at.clone();
        self.writer
            .commit(move |commit| ends::environment_event(commit, &at, generation, &event, now))
            .await
    }

    async fn cancel(
        &self,
        at: &JobRef,
        request: CancelRequest,
        now: Timestamp,
    ) -> Result<Option<Job>, StoreError> {
        let at = at.clone();
        self.writer
            .commit(move |commit| ends::cancel(commit, &at, request, now))
            .await
    }

    async fn output(
        &self,
        at: &JobRef,
        from: Offsets,
        limit: u64,
    ) -> Result<Vec<Chunk>, StoreError> {
        let at = at.clone();
        self.readers
            .read(move |db| output::window(db, &at, from, limit))
            .await
    }

    async fn output_end(&self, at: &JobRef) -> Result<Offsets, StoreError> {
        let at = at.clone();
        self.readers.read(move |db| output::end(db, &at)).await
    }

    async fn write_stdin(&self, at: &JobRef, write: StdinWrite) -> Result<u64, StdinError> {
        let at = at.clone();
        self.writer
            .commit(move |commit| stdin::write(commit, &at, write))
            .await
    }

    async fn stdin(&self, at: &JobRef, from: u64, limit: u64) -> Result<Waiting, StoreError> {
        let at = at.clone();
        self.readers
            .read(move |db| stdin::waiting(db, &at, from, limit))
            .await
    }

    async fn stdin_taken(
        &self,
        at: &JobRef,
        fence: Fence,
        upto: u64,
        broken: bool,
    ) -> Result<(), StoreError> {
        let at = at.clone();
        self.writer
            .commit(move |commit| stdin::taken(commit, &at, fence, upto, broken))
            .await
    }

    fn watch(&self, at: &JobRef) -> Watch {
        self.watches.watch(at)
    }

    async fn runnable(
        &self,
        lane: QueueLane,
        after: Option<JobId>,
        limit: u32,
    ) -> Result<Vec<JobRef>, StoreError> {
        self.readers
            .read(move |db| sweeps::runnable(db, lane, after, limit))
            .await
    }

    async fn held(&self, after: Option<JobId>, limit: u32) -> Result<Vec<HeldJob>, StoreError> {
        self.readers
            .read(move |db| sweeps::held(db, after, limit))
            .await
    }

    async fn open_jobs(&self, at: &EnvironmentRef) -> Result<Vec<Job>, StoreError> {
        let at = at.clone();
        self.readers.read(move |db| rows::open_jobs(db, &at)).await
    }

    async fn beat(&self, worker: &WorkerId) -> Result<(), StoreError> {
        let worker = worker.clone();
        self.writer
            .commit_always(move |commit| roles::beat(commit.db, &worker))
            .await
    }

    async fn beats(&self) -> Result<Vec<Beat>, StoreError> {
        self.readers.read(roles::beats).await
    }

    async fn retire(&self, worker: &WorkerId) -> Result<(), StoreError> {
        let worker = worker.clone();
        self.writer
            .commit_always(move |commit| roles::retire(commit.db, &worker))
            .await
    }

    async fn role(&self, role: &str) -> Result<Option<RoleHolder>, StoreError> {
        let role = role.to_owned();
        self.readers.read(move |db| roles::role(db, &role)).await
    }

    async fn take_role(
        &self,
        role: &str,
        owner: &WorkerId,
        from: Option<&RoleHolder>,
    ) -> Result<bool, StoreError> {
        let (role, owner, from) = (role.to_owned(), owner.clone(), from.cloned());
        self.writer
            .commit_always(move |commit| roles::take_role(commit.db, &role, &owner, from.as_ref()))
            .await
    }

    async fn orphans(&self) -> Result<Vec<Orphan>, StoreError> {
        self.readers.read(orphans::orphans).await
    }

    async fn note_orphans(&self, orphans: Vec<Orphan>) -> Result<(), StoreError> {
        self.writer
            .commit(move |commit| orphans::note(commit.db, &orphans))
            .await
    }

    async fn keys(&self) -> Result<Vec<Key>, StoreError> {
        self.readers.read(keys::keys).await
    }

    async fn put_key(&self, key: Key) -> Result<(), StoreError> {
        self.writer
            .commit(move |commit| keys::put(commit.db, &key))
            .await
    }

    async fn remove_key(&self, tenant: &TenantId, name: &str) -> Result<bool, StoreError> {
        let (tenant, name) = (tenant.clone(), name.to_owned());
        self.writer
            .commit(move |commit| keys::remove(commit.db, &tenant, &name))
            .await
    }

    async fn artifact(
        &self,
        tenant: &TenantId,
        id: &ArtifactId,
    ) -> Result<Option<Artifact>, StoreError> {
        let (tenant, id) = (tenant.clone(), id.clone());
        self.readers
            .read(move |db| rows::artifact(db, &tenant, &id))
            .await
    }

    async fn artifacts(
        &self,
        tenant: &TenantId,
        page: PageRequest,
    ) -> Result<Page<Artifact>, ListError> {
        let tenant = tenant.clone();
        self.readers
            .read(move |db| lists::artifacts(db, &tenant, &page))
            .await
    }

    async fn prune(&self, cutoffs: Cutoffs, limit: u32) -> Result<Vec<JobRef>, StoreError> {
        while self
            .writer
            .commit(move |commit| prune::remove_keys(commit, cutoffs))
            .await?
        {}
        let past = self
            .readers
            .read(move |db| prune::past(db, cutoffs, limit))
            .await?;
        let mut removed = Vec::with_capacity(past.len());
        for job in past {
            let at = job.clone();
            while self
                .writer
                .commit({
                    let at = at.clone();
                    move |commit| prune::remove_output(commit, &at)
                })
                .await?
            {}
            if self
                .writer
                .commit(move |commit| prune::remove_job(commit, &at))
                .await?
            {
                removed.push(job);
            }
        }
        let gone = self
            .readers
            .read(move |db| prune::gone(db, cutoffs, limit))
            .await?;
        for at in gone {
            self.writer
                .commit(move |commit| prune::remove_environment(commit, &at))
                .await?;
        }
        Ok(removed)
    }

    async fn counts(&self) -> Result<StoreCounts, StoreError> {
        self.readers.read(sweeps::counts).await
    }
}
