//! One started job as the rest of PID 1 sees it. Its driver task alone moves it; everybody else reads.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot, watch};

use super::journal::{Fact, Folder, Journal, StoredJob};
use super::log::{Budget, Log};
use super::stdin::Stdin;
use crate::clock;
use crate::ids::{Fence, JobId};
use crate::proto::job_record::Exit;
use crate::proto::{Cause, JobPhase, JobRecord, StartError, StreamCounts};

/// How a job ended.
#[derive(Clone, Debug, Default)]
pub(crate) struct Fate {
    pub(crate) cause: Cause,
    /// Of the main process, when it is known.
    pub(crate) exit: Option<Exit>,
    pub(crate) start_error: Option<StartError>,
    pub(crate) oom_kills: u64,
    pub(crate) tree_confirmed_gone: bool,
    pub(crate) duration: Duration,
}

/// What watchers of a job are woken for.
#[derive(Clone, Debug, Default)]
pub(crate) struct Progress {
    /// Rises with each piece of output.
    pub(crate) pieces: u64,
    /// Set once, at the end; no output follows.
    pub(crate) fate: Option<Arc<Fate>>,
}

/// What a driver is asked to do.
#[derive(Debug)]
pub(crate) enum Request {
    /// Sends a signal to the tree. With `kill_after`, kills what is left then, and answers at the job's end; else
    /// answers when the signal is sent.
    Signal {
        signal: i32,
        kill_after: Option<Duration>,
        done: oneshot::Sender<()>,
    },
    /// The runner shuts down: as a signal TERM with `kill_after`.
    ShutDown { kill_after: Duration },
}

/// A started job.
pub(crate) struct Job {
    pub(crate) id: JobId,
    pub(crate) fence: Fence,
    incarnation: String,
    started_at_ms: i64,
    /// The moment of the start, for the deadline and the duration.
    pub(crate) started: Instant,
    pub(crate) stdout: Arc<Log>,
    pub(crate) stderr: Arc<Log>,
    pub(crate) budget: Budget,
    pub(crate) stdin: Stdin,
    progress: watch::Sender<Progress>,
    requests: mpsc::Sender<Request>,
    journal: Arc<Mutex<Journal>>,
}

/// Where jobs are kept.
pub(crate) struct Disk {
    pub(crate) folder: Folder,
    pub(crate) journal: Arc<Mutex<Journal>>,
}

/// What a start makes a job of.
pub(crate) struct Beginning<'a> {
    pub(crate) id: JobId,
    pub(crate) fence: Fence,
    pub(crate) incarnation: &'a str,
    pub(crate) output_limit: u64,
    pub(crate) stdin: Stdin,
}

impl Job {
    /// A job that is about to start, and the requests that its driver must serve.
    pub(crate) fn new(beginning: Beginning<'_>, disk: &Disk) -> (Self, mpsc::Receiver<Request>) {
        let (requests, served) = mpsc::channel(16);
        let Beginning {
            id,
            fence,
            incarnation,
            output_limit,
            stdin,
        } = beginning;
        let job = Self {
            stdout: Arc::new(Log::new(disk.folder.log(&id, "out"))),
            stderr: Arc::new(Log::new(disk.folder.log(&id, "err"))),
            id,
            fence,
            incarnation: incarnation.to_owned(),
            started_at_ms: clock::unix_ms(),
            started: Instant::now(),
            budget: Budget::new(output_limit),
            stdin,
            progress: watch::Sender::new(Progress::default()),
            requests,
            journal: Arc::clone(&disk.journal),
        };
        (job, served)
    }

    /// A job of an earlier incarnation. What ran then has ended with it.
    pub(crate) fn recovered(id: JobId, stored: Option<StoredJob>, disk: &Disk) -> Self {
        let stored = stored.unwrap_or_default();
        let record = stored.record.unwrap_or_default();
        let ended = record.phase() == JobPhase::Ended;
        let fate = Fate {
            cause: if ended {
                record.cause()
            } else {
                Cause::RunnerRestarted
            },
            exit: record.exit,
            start_error: record.start_error,
            oom_kills: record.oom_kills,
            tree_confirmed_gone: record.tree_confirmed_gone,
            duration: Duration::from_millis(record.duration_ms),
        };
        let log = |kind, counts: Option<StreamCounts>, released| {
            Arc::new(Log::recovered(
                disk.folder.log(&id, kind),
                counts.filter(|_| ended),
                released,
            ))
        };
        Self {
            stdout: log("out", record.stdout, stored.stdout_released),
            stderr: log("err", record.stderr, stored.stderr_released),
            id,
            fence: Fence::new(record.fence).unwrap_or(Fence::LOWEST),
            incarnation: record.incarnation,
            started_at_ms: record.started_at_ms,
            started: Instant::now(),
            budget: Budget::new(0),
            stdin: Stdin::closed(),
            progress: watch::Sender::new(Progress {
                pieces: 0,
                fate: Some(Arc::new(fate)),
            }),
            requests: mpsc::channel(1).0,
            journal: Arc::clone(&disk.journal),
        }
    }

    /// The record as of now.
    pub(crate) fn record(&self) -> JobRecord {
        self.record_with(self.fate().as_deref())
    }

    fn record_with(&self, fate: Option<&Fate>) -> JobRecord {
        let mut record = JobRecord {
            job_id: self.id.to_string(),
            fence: self.fence.get(),
            incarnation: self.incarnation.clone(),
            started_at_ms: self.started_at_ms,
            stdout: Some(self.stdout.counts()),
            stderr: Some(self.stderr.counts()),
            ..JobRecord::default()
        };
        if let Some(fate) = fate {
            record.set_phase(JobPhase::Ended);
            record.set_cause(fate.cause);
            record.exit = fate.exit;
            record.start_error.clone_from(&fate.start_error);
            record.oom_kills = fate.oom_kills;
            record.tree_confirmed_gone = fate.tree_confirmed_gone;
            record.duration_ms = millis(fate.duration);
        } else {
            record.set_phase(JobPhase::Running);
            record.duration_ms = millis(self.started.elapsed());
        }
        record
    }

    /// How the job ended, if it has.
    pub(crate) fn fate(&self) -> Option<Arc<Fate>> {
        self.progress.borrow().fate.clone()
    }

    /// Wakes on each piece of output and at the end.
    pub(crate) fn watch(&self) -> watch::Receiver<Progress> {
        self.progress.subscribe()
    }

    /// Tells the watchers that there is more output.
    pub(crate) fn announce_output(&self) {
        self.progress.send_modify(|progress| progress.pieces += 1);
    }

    /// Writes the record as of now. Blocks on the disk.
    pub(crate) fn write_record(&self) -> std::io::Result<()> {
        self.write_record_with(self.fate().as_deref())
    }

    fn write_record_with(&self, fate: Option<&Fate>) -> std::io::Result<()> {
        // The record is made under the lock, so that an older one does not come after a newer one.
        let mut journal = self.journal.lock().unwrap_or_else(PoisonError::into_inner);
        journal.append(&Fact::record(&self.id, self.stored_with(fate)))
    }

    /// What a journal that is written anew must hold of this job.
    pub(crate) fn stored(&self) -> StoredJob {
        self.stored_with(self.fate().as_deref())
    }

    fn stored_with(&self, fate: Option<&Fate>) -> StoredJob {
        StoredJob {
            record: Some(self.record_with(fate)),
            stdout_released: self.stdout.released(),
            stderr_released: self.stderr.released(),
        }
    }

    /// Ends the job: no output comes any more. The record is on disk (unless that is full) before anybody learns of
    /// the end, and before the tails, so that a file with a tail is never taken for one without. Blocks on the disk.
    pub(crate) fn end(&self, fate: Fate) {
        if let Err(error) = self.write_record_with(Some(&fate)) {
            crate::complain!(
                "em-runner: the final record of job {} cannot be written: {error}",
                self.id
            );
        }
        self.stdout.finish();
        self.stderr.finish();
        self.stdin.end();
        self.progress
            .send_modify(|progress| progress.fate = Some(Arc::new(fate)));
    }

    /// Frees output below the offsets. Blocks on the disk.
    pub(crate) fn release(&self, stdout: u64, stderr: u64) -> std::io::Result<()> {
        self.stdout.release(stdout)?;
        self.stderr.release(stderr)?;
        self.write_record()
    }

    /// Deletes the output.
    pub(crate) fn delete(&self) {
        self.stdout.delete();
        self.stderr.delete();
    }

    /// Hands a request to the driver; whether there is one still.
    pub(crate) async fn request(&self, request: Request) -> bool {
        self.requests.send(request).await.is_ok()
    }

    /// Waits until the job has ended.
    pub(crate) async fn ended(&self) {
        // The sender lives as long as the job, so waiting does not fail.
        let _ = self
            .watch()
            .wait_for(|progress| progress.fate.is_some())
            .await;
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
