//! The one task that moves a job, from its supervisor's start to its end.
//!
//! ```text
//!              main process ended by itself
//!  running ───────────────────────────────────▶ draining ──▶ ended
//!     │                                             ▲
//!     │ cancel, deadline, shutdown: TERM to the tree│ nothing of the tree is left, or nothing more can be done
//!     └────────────▶ stopping ──(grace)──▶ killing ─┘
//! ```
//! The cause is decided by what comes first; a job whose main process has ended by itself is not cancelled any more.

use std::future::pending;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::UnixStream;
use tokio::net::unix::pipe::Receiver;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::sleep_until;

use super::cgroup::JobCgroups;
use super::failure::{Subject, describe, start_error};
use super::job::{Fate, Job, Request};
use super::launch::{Launched, Launcher};
use super::pump::{self, Discarder};
use super::tree::{self, PATIENCE, Pid};
use crate::command::wire::{Event, RELEASE};
use crate::proto::job_record::Exit;
use crate::proto::start_error::Kind;
use crate::proto::{Cause, StartError};

/// How long what is left in the pipes is waited for after the main process' end.
const DRAIN: Duration = Duration::from_millis(200);

/// How long a supervisor may take to report the end of a tree that is gone.
const REPORT: Duration = Duration::from_secs(5);

/// What a driver needs beside its job.
pub(crate) struct Course {
    pub(crate) launcher: Arc<Launcher>,
    pub(crate) discarder: Arc<Discarder>,
    pub(crate) subject: Subject,
    /// From the start; none if there is no limit.
    pub(crate) timeout: Option<Duration>,
    /// Between TERM and KILL at the deadline.
    pub(crate) grace: Duration,
}

/// Drives a job to its end.
pub(crate) async fn drive(
    job: Arc<Job>,
    course: Course,
    launched: oneshot::Receiver<Result<Launched, StartError>>,
    requests: mpsc::Receiver<Request>,
) {
    let started = match launched.await {
        Ok(started) => started,
        Err(_) => Err(start_error(
            Kind::Other,
            "the supervisor's start was abandoned".to_owned(),
        )),
    };
    let (fate, cgroups) = match started.map(|launched| Driver::new(&job, course.subject, launched))
    {
        Ok(Ok(mut driver)) => {
            let deadline = course
                .timeout
                .and_then(|timeout| job.started.checked_add(timeout));
            driver.run(requests, deadline, course.grace).await;
            driver.drain(&course.discarder).await
        }
        Ok(Err(error)) => {
            let error = start_error(
                Kind::Other,
                format!("the supervisor cannot be watched: {error}"),
            );
            (start_failed(error), JobCgroups::default())
        }
        Err(error) => (start_failed(error), JobCgroups::default()),
    };
    // The end is written on a blocking thread; if that panicked nobody could be told more than that it did.
    let _ = spawn_blocking(move || {
        let cgroup_folders = &course.launcher.cgroups;
        let oom_kills = cgroup_folders.oom_kills(&cgroups);
        job.end(Fate { oom_kills, ..fate });
        cgroup_folders.remove(cgroups);
    })
    .await;
}

/// The end of a job of which nothing ran.
pub(crate) fn start_failed(error: StartError) -> Fate {
    Fate {
        cause: Cause::StartFailed,
        start_error: Some(error),
        ..Fate::default()
    }
}

struct Driver {
    job: Arc<Job>,
    subject: Subject,
    events: Events,
    supervisor: Pid,
    cgroups: Arc<JobCgroups>,
    main: Option<Pid>,
    /// Why the tree is being ended, if it is.
    verdict: Option<Cause>,
    kill_at: Option<Instant>,
    give_up_at: Option<Instant>,
    fate: Fate,
    pumps: [JoinHandle<Option<Receiver>>; 2],
    stop_pumps: watch::Sender<bool>,
}

#[derive(PartialEq, Eq)]
enum Next {
    GoOn,
    Drain,
}

impl Driver {
    fn new(job: &Arc<Job>, subject: Subject, launched: Launched) -> std::io::Result<Self> {
        let Launched {
            supervisor,
            control,
            stdin,
            stdout,
            stderr,
            cgroups,
        } = launched;
        let stop_pumps = watch::Sender::new(false);
        let start_pump = |pipe, log| -> std::io::Result<_> {
            let pumping = pump::pump(
                Receiver::from_owned_fd(pipe)?,
                Arc::clone(job),
                Arc::clone(log),
                stop_pumps.subscribe(),
            );
            Ok(tokio::spawn(pumping))
        };
        let pumps = [
            start_pump(stdout, &job.stdout)?,
            start_pump(stderr, &job.stderr)?,
        ];
        if let Some(pipe) = stdin {
            let job = Arc::clone(job);
            tokio::spawn(async move { job.stdin.feed(pipe).await });
        }
        Ok(Self {
            job: Arc::clone(job),
            subject,
            events: Events::new(control)?,
            supervisor,
            cgroups: Arc::new(cgroups),
            main: None,
            verdict: None,
            kill_at: None,
            give_up_at: None,
            fate: Fate::default(),
            pumps,
            stop_pumps,
        })
    }

    /// Follows the job until its main process, and when it is being ended its whole tree, is gone.
    async fn run(
        &mut self,
        mut requests: mpsc::Receiver<Request>,
        deadline: Option<Instant>,
        grace: Duration,
    ) {
        loop {
            let deadline = deadline.filter(|_| self.verdict.is_none());
            let next = tokio::select! {
                event = self.events.next() => self.on_event(event).await,
                Some(request) = requests.recv() => self.on_request(request).await,
                () = at(deadline) => self.end_tree(Cause::TimedOut, libc::SIGTERM, grace).await,
                () = at(self.kill_at) => self.kill().await,
                () = at(self.give_up_at) => Next::Drain,
            };
            if next == Next::Drain {
                return;
            }
        }
    }

    async fn on_event(&mut self, event: Option<Event>) -> Next {
        match event {
            Some(Event::Started { pid, cgroups }) => {
                self.main = Some(pid);
                if let Some(mine) = Arc::get_mut(&mut self.cgroups) {
                    mine.keep(cgroups);
                }
                Next::GoOn
            }
            Some(Event::Failed { stage, errno }) => {
                self.fate = start_failed(describe(stage, errno, &self.subject));
                Next::Drain
            }
            Some(Event::Exited { code }) => self.main_ended(Exit::Code(code.cast_unsigned())),
            Some(Event::Signalled { signal }) => {
                self.main_ended(Exit::Signal(signal.cast_unsigned()))
            }
            Some(Event::Empty) => {
                self.fate.tree_confirmed_gone |= self.verdict.is_some();
                Next::Drain
            }
            None => self.supervisor_lost().await,
        }
    }

    fn main_ended(&mut self, exit: Exit) -> Next {
        self.fate.exit = Some(exit);
        self.fate.duration = self.job.started.elapsed();
        match self.verdict {
            Some(cause) => {
                self.fate.cause = cause;
                Next::GoOn
            }
            None => {
                self.fate.cause = Cause::Exited;
                Next::Drain
            }
        }
    }

    async fn on_request(&mut self, request: Request) -> Next {
        match request {
            Request::Signal {
                signal,
                kill_after: Some(grace),
                ..
            } => self.end_tree(Cause::Cancelled, signal, grace).await,
            Request::Signal {
                signal,
                kill_after: None,
                done,
            } => {
                self.signal(signal).await;
                // Nobody listens any more if the caller went away.
                let _ = done.send(());
                Next::GoOn
            }
            Request::ShutDown { kill_after } => {
                self.end_tree(Cause::RunnerRestarted, libc::SIGTERM, kill_after)
                    .await
            }
        }
    }

    /// Begins to end the tree, or hastens it. The first cause stays.
    async fn end_tree(&mut self, cause: Cause, signal: i32, grace: Duration) -> Next {
        self.verdict.get_or_insert(cause);
        if self.give_up_at.is_some() {
            return Next::GoOn;
        }
        self.signal(signal).await;
        // A grace beyond what a clock can hold is none at all: the tree is left to its signal.
        let kill_at = Instant::now().checked_add(grace);
        self.kill_at = [self.kill_at, kill_at].into_iter().flatten().min();
        Next::GoOn
    }

    async fn signal(&self, signal: i32) {
        let supervisor = self.supervisor;
        // Scanning reads many files; it fails only if it panics.
        let _ = spawn_blocking(move || tree::signal_below(supervisor, signal)).await;
    }

    /// Kills what is left. Its end is then reported by the supervisor.
    async fn kill(&mut self) -> Next {
        self.kill_at = None;
        let (cgroups, supervisor) = (Arc::clone(&self.cgroups), self.supervisor);
        let killing = spawn_blocking(move || {
            // The cgroup first, which no fork outruns; then whoever is not in it.
            let in_cgroup = cgroups.kill(PATIENCE);
            let below = tree::kill_rounds(supervisor, PATIENCE);
            below && in_cgroup.is_none_or(|killed| killed.is_ok())
        });
        self.fate.tree_confirmed_gone = killing.await.unwrap_or(false);
        if self.fate.tree_confirmed_gone {
            self.give_up_at = Instant::now().checked_add(REPORT);
            Next::GoOn
        } else {
            Next::Drain
        }
    }

    /// The supervisor is gone without having reported the end: what it held is killed as far as it can be found.
    async fn supervisor_lost(&mut self) -> Next {
        let (cgroups, main) = (Arc::clone(&self.cgroups), self.main);
        let killing = spawn_blocking(move || {
            let in_cgroup = cgroups.kill(PATIENCE);
            if let Some(main) = main {
                tree::kill_orphaned(main, PATIENCE);
            }
            // Only a cgroup holds those too that had detached.
            matches!(in_cgroup, Some(Ok(())))
        });
        let gone = killing.await.unwrap_or(false);
        self.fate.cause = self.verdict.unwrap_or(Cause::SupervisorLost);
        self.fate.tree_confirmed_gone = gone;
        Next::Drain
    }

    /// Takes what is left in the pipes, lets the supervisor go, and answers how the job ended.
    async fn drain(mut self, discarder: &Discarder) -> (Fate, JobCgroups) {
        if self.fate.cause == Cause::Unspecified {
            self.fate.cause = self.verdict.unwrap_or(Cause::SupervisorLost);
        }
        if self.fate.duration.is_zero() && self.fate.cause != Cause::StartFailed {
            self.fate.duration = self.job.started.elapsed();
        }
        let until = tokio::time::Instant::now() + DRAIN;
        for mut pump in self.pumps {
            let drained = tokio::time::timeout_at(until, &mut pump).await;
            let held = match drained {
                Ok(ended) => ended,
                Err(_) => {
                    // It has taken what was there; somebody left behind holds the pipe.
                    self.stop_pumps.send_replace(true);
                    pump.await
                }
            };
            if let Ok(Some(pipe)) = held {
                discarder.take(pipe);
            }
        }
        self.events.release();
        (self.fate, Arc::into_inner(self.cgroups).unwrap_or_default())
    }
}

async fn at(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment.into()).await,
        None => pending().await,
    }
}

/// The events of a supervisor.
struct Events {
    control: UnixStream,
    bytes: Vec<u8>,
}

impl Events {
    fn new(control: StdUnixStream) -> std::io::Result<Self> {
        Ok(Self {
            control: UnixStream::from_std(control)?,
            bytes: Vec::with_capacity(64),
        })
    }

    /// The next event; `None` if the supervisor is gone. May be dropped while it waits.
    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some((event, rest)) = self.bytes.split_first_chunk() {
                let event = Event::decode(*event);
                self.bytes = rest.to_vec();
                return event;
            }
            self.control.readable().await.ok()?;
            match self.control.try_read_buf(&mut self.bytes) {
                Ok(0) => return None,
                Ok(_) => {}
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(_) => return None,
            }
        }
    }

    /// Lets the supervisor go; what it still holds lives on.
    fn release(&self) {
        // If it is gone already, all the better.
        let _ = self.control.try_write(&[RELEASE]);
    }
}
