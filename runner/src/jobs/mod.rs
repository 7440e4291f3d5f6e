//! All jobs of this environment: who may start one, what became of each, and how to reach it.
//!
//! Rules that hold here, whatever callers do:
//! - an id is started at most once in an incarnation, also after it was forgotten, and never while it has a record;
//! - in an incarnation the floor of an id never sinks, and nothing below it is accepted;
//! - a record exists before its process does, and a mark before a change of files is made.

mod attach;
mod cgroup;
mod driver;
mod failure;
mod job;
mod journal;
mod launch;
mod lineage;
mod log;
mod plan;
mod pump;
mod recover;
mod stdin;
mod table;
pub(crate) mod tree;

use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};
use tokio::task::spawn_blocking;

pub(crate) use self::attach::attach;
pub(crate) use self::cgroup::{Cgroups, Delegated};
use self::driver::Course;
use self::failure::{Subject, start_error};
use self::job::{Beginning, Disk, Job, Request};
use self::journal::{Fact, Folder, Journal};
use self::launch::Launched;
pub(crate) use self::launch::{Launcher, Spare};
use self::lineage::Lineage;
pub(crate) use self::log::LogError;
use self::plan::Plan;
use self::pump::Discarder;
use self::recover::recover;
use self::stdin::Stdin;
pub(crate) use self::stdin::StdinError;
use self::table::Table;
use crate::command::wire::Spec;
use crate::ids::{Fence, Incarnation, JobId, Permit};
use crate::proto::start_error::Kind;
use crate::proto::{JobRecord, StartError, StartRequest};

/// Records that are kept at once: as many as one answer of `ListJobs` can hold.
const MAX_RECORDS: usize = 10_000;

/// Descriptors that one running job needs, at most.
const FDS_PER_JOB: u64 = 10;

/// Descriptors that are never given to jobs.
const RESERVED_FDS: u64 = 64;

/// Why a call was refused.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("leased for another incarnation; this one is {0}")]
    OtherIncarnation(String),
    #[error("the fence is below the floor {0}")]
    BelowFloor(u64),
    #[error("this job was started before")]
    AlreadyStarted,
    #[error("no such job was started here")]
    NotFound,
    #[error("{0}")]
    Invalid(String),
    #[error("{0}")]
    Exhausted(&'static str),
    #[error("the job has not ended")]
    StillRunning,
    #[error("the runner is shutting down")]
    ShuttingDown,
}

/// What a seal finds.
#[derive(Debug)]
pub(crate) enum Sealed {
    /// Whether it is sure that it never began in the incarnation that was asked about, and never will.
    NeverStarted {
        proven: bool,
    },
    Record(Box<JobRecord>),
    /// Started and forgotten.
    Tombstone,
}

/// All jobs of this environment.
pub(crate) struct Jobs {
    incarnation: Incarnation,
    disk: Disk,
    launcher: Arc<Launcher>,
    discarder: Arc<Discarder>,
    max_running: usize,
    lineage: Mutex<Lineage>,
    table: Mutex<Table>,
}

impl Jobs {
    /// Opens the state folder and finds the jobs of earlier incarnations; what ran then has ended. Blocks on the disk.
    ///
    /// `max_fds` is how many descriptors this process may have open.
    pub(crate) fn open(
        state: &Path,
        incarnation: Incarnation,
        launcher: Launcher,
        max_fds: u64,
    ) -> io::Result<Self> {
        let folder = Folder::open(state)?;
        let (journal, known) = Journal::open(state)?;
        let disk = Disk {
            folder,
            journal: Arc::new(Mutex::new(journal)),
        };
        let table = recover(&disk, known)?;
        let lineage = Lineage::join(state, &incarnation);
        let for_jobs = max_fds.saturating_sub(RESERVED_FDS) / FDS_PER_JOB;
        Ok(Self {
            incarnation,
            disk,
            launcher: Arc::new(launcher),
            discarder: Arc::new(Discarder::new(
                usize::try_from(for_jobs).unwrap_or(0).min(256),
            )),
            max_running: usize::try_from(for_jobs).unwrap_or(usize::MAX).max(1),
            lineage: Mutex::new(lineage),
            table: Mutex::new(table),
        })
    }

    /// The incarnation of this start.
    pub(crate) fn incarnation(&self) -> &str {
        self.incarnation.as_str()
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        // Nothing that holds the lock panics.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn find(&self, id: &JobId) -> Result<Arc<Job>, Refusal> {
        self.table().job(id).ok_or(Refusal::NotFound)
    }

    /// Starts a command. Once the permit is accepted the job exists, and whatever goes wrong is its end.
    pub(crate) async fn start(
        self: &Arc<Self>,
        permit: Permit,
        request: StartRequest,
    ) -> Result<JobRecord, Refusal> {
        let jobs = Arc::clone(self);
        let (recorded, answer) = oneshot::channel();
        let runtime = tokio::runtime::Handle::current();
        // All of it blocks a little. The answer goes out as soon as the record is written.
        let starting = spawn_blocking(move || {
            let _entered = runtime.enter();
            jobs.start_blocking(permit, request, recorded)
        });
        match starting.await {
            Ok(Err(refusal)) => Err(refusal),
            Ok(Ok(())) | Err(_) => answer.await.map_err(|_| Refusal::ShuttingDown),
        }
    }

    fn start_blocking(
        &self,
        permit: Permit,
        mut request: StartRequest,
        recorded: oneshot::Sender<JobRecord>,
    ) -> Result<(), Refusal> {
        self.table().admit(self.incarnation(), &permit)?;
        let plan = self.launcher.plan(&request)?;
        let stdin = Stdin::new(std::mem::take(&mut request.stdin), request.stdin_open);
        let Permit { job: id, fence, .. } = permit;
        let beginning = Beginning {
            id,
            fence,
            incarnation: self.incarnation(),
            output_limit: request.output_limit,
            stdin,
        };
        let (job, requests) = Job::new(beginning, &self.disk);
        let job = Arc::new(job);
        self.table()
            .begin(self.incarnation(), &job, self.max_running)?;
        let written = job.write_record();
        // Nobody waits for the answer any more if the caller went away; the job goes on.
        let _ = recorded.send(job.record());
        match (plan, written) {
            (Plan::Run(spec), Ok(())) => self.run(&job, &spec, &request, requests),
            (Plan::Fail(error), Ok(())) => job.end(driver::start_failed(error)),
            (_, Err(error)) => {
                let error =
                    start_error(Kind::Other, format!("the job cannot be recorded: {error}"));
                job.end(driver::start_failed(error));
            }
        }
        self.tidy();
        Ok(())
    }

    /// Starts the driver, then the supervisor, so that the driver is there when the supervisor reports.
    fn run(
        &self,
        job: &Arc<Job>,
        spec: &Spec,
        request: &StartRequest,
        requests: mpsc::Receiver<Request>,
    ) {
        let course = Course {
            launcher: Arc::clone(&self.launcher),
            discarder: Arc::clone(&self.discarder),
            subject: Subject::from(spec),
            timeout: (request.timeout_ms > 0).then(|| Duration::from_millis(request.timeout_ms)),
            grace: Duration::from_millis(request.grace_ms),
        };
        let (launched, launch) = oneshot::channel::<Result<Launched, StartError>>();
        tokio::spawn(driver::drive(Arc::clone(job), course, launch, requests));
        let outcome = self.launcher.launch(job, spec).map_err(|error| {
            start_error(
                Kind::Other,
                format!("the supervisor cannot be started: {error}"),
            )
        });
        // The driver waits for this, unless the runtime is going down.
        let _ = launched.send(outcome);
        // At once, measured: while the command runs there is a processor free for it more often than later.
        self.launcher.prepare();
    }

    /// Raises the floor of an id and tells what became of it; `leased_for` is the incarnation that it may have begun in.
    pub(crate) fn seal(
        &self,
        id: &JobId,
        fence: Fence,
        leased_for: &str,
    ) -> Result<Sealed, Refusal> {
        let held = self.lineage().holds(leased_for);
        let (rose, sealed) = {
            let mut table = self.table();
            let rose = table.raise_floor(id, fence)?;
            let sealed = match table.job(id) {
                Some(job) => Sealed::Record(Box::new(job.record())),
                None if table.is_forgotten(id) => Sealed::Tombstone,
                None => Sealed::NeverStarted {
                    proven: held && !table.has_begun(id),
                },
            };
            (rose, sealed)
        };
        if rose {
            self.note(&Fact::floor(id, fence));
        }
        Ok(sealed)
    }

    /// Writes a fact down. The lock of the table must not be held: whoever writes the journal anew takes both.
    fn note(&self, fact: &Fact) {
        if let Err(error) = self.journal().append(fact) {
            // Memory holds it for this incarnation, and the next one refuses what was leased for this one.
            crate::complain!("em-runner: the journal cannot be written: {error}");
        }
    }

    fn lineage(&self) -> MutexGuard<'_, Lineage> {
        // Nothing that holds the lock panics.
        self.lineage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn journal(&self) -> MutexGuard<'_, Journal> {
        // Nothing that holds the lock panics.
        self.disk
            .journal
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes the journal anew if it has grown large. Blocks on the disk.
    fn tidy(&self) {
        let mut journal = self.journal();
        if journal.is_large() {
            // Whatever happens meanwhile is appended after this.
            let facts = self.table().facts();
            if let Err(error) = journal.rewrite(&facts) {
                crate::complain!("em-runner: the journal cannot be written anew: {error}");
            }
        }
    }

    /// Whether a mutation of files with this permit may begin; raises the floor of its id to its fence.
    pub(crate) fn permit_mutation(&self, permit: &Permit) -> Result<(), Refusal> {
        let mut table = self.table();
        table.check_mutation(self.incarnation(), permit)?;
        // Only for this incarnation, which the permit is bound to: the ledger need not hold it.
        table.raise_floor(&permit.job, permit.fence).map(drop)
    }

    /// Whether a mutation of files that began with this permit may still take effect.
    pub(crate) fn check_mutation(&self, permit: &Permit) -> Result<(), Refusal> {
        self.table().check_mutation(self.incarnation(), permit)
    }

    /// Whether a mutation of files may take effect now. From here on a later incarnation knows that it may have.
    pub(crate) fn begin_mutation(&self, permit: &Permit) -> Result<(), Refusal> {
        let first = {
            let mut table = self.table();
            table.check_mutation(self.incarnation(), permit)?;
            table.mark_begun(&permit.job, self.incarnation())
        };
        if !first {
            return Ok(());
        }
        let mark = Fact::begun(&permit.job, self.incarnation());
        let Err(error) = self.journal().append(&mark) else {
            return Ok(());
        };
        // A full disk must not keep a file from being removed.
        crate::complain!("em-runner: the journal cannot be written: {error}");
        if self.lineage().end() {
            return Ok(());
        }
        self.table().unmark(&permit.job);
        Err(Refusal::Exhausted("the change cannot be recorded"))
    }

    /// Leaves a tombstone of an id that was used for a mutation of files.
    pub(crate) fn bury(&self, id: &JobId) {
        let floor = self.table().forget(id, Fence::LOWEST);
        self.note(&Fact::tombstone(id, floor));
    }

    /// Whether a mutation of files has begun under an id, here or in an earlier incarnation.
    pub(crate) fn has_begun(&self, id: &JobId) -> bool {
        self.table().has_begun(id)
    }

    /// A job to attach to.
    pub(crate) fn get(&self, id: &JobId) -> Result<Arc<Job>, Refusal> {
        self.find(id)
    }

    /// Takes in standard input; answers the next offset.
    pub(crate) async fn write_stdin(
        &self,
        id: &JobId,
        offset: u64,
        data: &Bytes,
        eof: bool,
    ) -> Result<Result<u64, StdinError>, Refusal> {
        Ok(self.find(id)?.stdin.write(offset, data, eof).await)
    }

    /// Sends a signal to a job's tree. With `kill_after` the job is ended, and the answer is its final record.
    pub(crate) async fn signal(
        &self,
        id: &JobId,
        fence: Fence,
        signal: i32,
        kill_after: Option<Duration>,
    ) -> Result<JobRecord, Refusal> {
        let job = {
            let table = self.table();
            table.check_floor(id, fence)?;
            table.job(id).ok_or(Refusal::NotFound)?
        };
        let (done, sent) = oneshot::channel();
        if job
            .request(Request::Signal {
                signal,
                kill_after,
                done,
            })
            .await
        {
            // An error means that the job ended before it came to this.
            let _ = sent.await;
            if kill_after.is_some() {
                job.ended().await;
            }
        } else {
            job.ended().await;
        }
        Ok(job.record())
    }

    /// All records, by id.
    pub(crate) fn list(&self) -> Vec<JobRecord> {
        let mut jobs = self.table().jobs();
        jobs.sort_by(|one, other| one.id.cmp(&other.id));
        jobs.iter().map(|job| job.record()).collect()
    }

    /// Frees output below the offsets; with `forget` everything but a tombstone.
    pub(crate) async fn release(
        self: &Arc<Self>,
        id: JobId,
        stdout: u64,
        stderr: u64,
        forget: bool,
    ) -> Result<io::Result<()>, Refusal> {
        let (job, floor) = {
            let mut table = self.table();
            let job = match table.job(&id) {
                Some(job) => job,
                // A repeated call.
                None if table.is_forgotten(&id) => return Ok(Ok(())),
                None => return Err(Refusal::NotFound),
            };
            if forget && job.fate().is_none() {
                return Err(Refusal::StillRunning);
            }
            let floor = forget.then(|| table.forget(&id, job.fence));
            (job, floor)
        };
        let jobs = Arc::clone(self);
        let released = spawn_blocking(move || {
            if let Some(floor) = floor {
                jobs.note(&Fact::tombstone(&id, floor));
                job.delete();
            } else {
                job.release(stdout, stderr)?;
            }
            jobs.tidy();
            Ok(())
        });
        Ok(released
            .await
            .unwrap_or_else(|error| Err(io::Error::other(error))))
    }

    /// Accepts no start any more, ends all jobs within the grace, and waits for their records.
    pub(crate) async fn shut_down(&self, grace: Duration) {
        let jobs = {
            let mut table = self.table();
            table.close();
            table.jobs()
        };
        for job in &jobs {
            job.request(Request::ShutDown { kill_after: grace }).await;
        }
        for job in &jobs {
            job.ended().await;
        }
    }
}
