//! What a request or an environment's change does to records: pure, so that every store commits the same.
//!
//! ```text
//!   admit(environment?, request) ──▶ the environment's change + the new job     one commit
//!                                        │
//!   settle(environment, its jobs) ◀──────┤ ──▶ jobs that became runnable, ended or must end
//!                                        │
//!   conclude(environment, ended job) ────┘ ◀── the end of a job, with the event that it brought
//! ```
//!
//! Invariants: after `settle` a waiting job of a ready environment is runnable, one of an environment that is on its way
//! waits, and one of an environment that went has ended. Lifecycle jobs run one at a time, in order of generation. An
//! environment is on its way only while the lifecycle job that leads it there has not ended, so that nothing waits for
//! ever. What `settle` decides of a job that is no lifecycle job depends on the environment and on that job alone.

use std::collections::BTreeMap;

use jiff::Timestamp;

use crate::environment::{
    Environment, EnvironmentEvent, EnvironmentSpec, Lifecycle, Phase, PhaseRefusal, Reason,
};
use crate::ids::{EnvironmentRef, EnvironmentUid, Fence, Generation, JobId};
use crate::job::{CancelRequest, Job, JobInput, JobState, Outcome};

/// Seconds between TERM and KILL for jobs that end because their environment does.
const ENDING_GRACE_SECONDS: u64 = 2;

/// A job that somebody asks for.
#[derive(Debug, Clone)]
pub struct JobRequest {
    /// Its id, made beforehand, so that staged bytes can be named after it.
    pub id: JobId,
    /// On which environment.
    pub at: EnvironmentRef,
    /// What to do.
    pub input: JobInput,
    /// The caller's own marks.
    pub labels: BTreeMap<String, String>,
    /// Of a create: what the environment shall be.
    pub spec: Option<EnvironmentSpec>,
}

/// What a request is answered with.
#[derive(Debug, Clone)]
pub enum Admitted {
    /// A new job, and the environment's change that belongs to the same commit.
    New {
        /// The environment as it is from then on, where the job changes it.
        environment: Option<Box<Environment>>,
        /// The job.
        job: Box<Job>,
    },
    /// A create of an environment that lives with the same spec: the job that began its life.
    Existing(JobId),
}

/// Why a request is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Nothing of that name.
    #[error("there is no environment {0}")]
    NoSuchEnvironment(String),
    /// It exists with another spec.
    #[error("the environment exists with another spec")]
    DifferentSpec,
    /// Its phase does not allow it.
    #[error("the environment is {phase}{reason}")]
    NotAllowed {
        /// The phase.
        phase: &'static str,
        /// `: ` and why, or nothing.
        reason: String,
    },
    /// It is going or gone.
    #[error("the environment is {0}")]
    Gone(&'static str),
    /// What a sweep wanted to end is not as the sweep saw it any more.
    #[error("the environment has changed meanwhile")]
    Overtaken,
}

/// What must still be so when a sweep's request is committed: what it saw may have changed since.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    /// The life that it saw.
    pub uid: EnvironmentUid,
    /// What is over.
    pub over: Over,
}

/// Why a sweep ends an environment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Over {
    /// Its lifetime.
    Lifetime,
    /// Its idle time: no job of it is open.
    IdleTime,
}

impl Condition {
    /// Whether it still holds for the environment's record; `open` is the number of its jobs that have not ended.
    pub fn holds(&self, environment: Option<&Environment>, open: usize, now: Timestamp) -> bool {
        let Some(environment) = environment.filter(|found| found.uid == self.uid) else {
            return false;
        };
        match self.over {
            Over::Lifetime => environment.expires_at().is_some_and(|at| at <= now),
            Over::IdleTime => {
                environment.phase == Phase::Running
                    && environment.spec.idle_timeout_seconds.is_some()
                    && open == 0
            }
        }
    }
}

/// Decides on a request against the environment's record, if there is one.
pub fn admit(
    environment: Option<&Environment>,
    request: JobRequest,
    now: Timestamp,
) -> Result<Admitted, Refusal> {
    let lifecycle = request.input.kind().lifecycle();
    if lifecycle == Some(Lifecycle::Create) {
        return admit_create(environment, request, now);
    }
    let Some(environment) = environment else {
        return Err(Refusal::NoSuchEnvironment(
            request.at.environment.to_string(),
        ));
    };
    match lifecycle {
        Some(lifecycle) => {
            let changed = environment
                .accept(lifecycle, now)
                .map_err(|refusal| refused(refusal, environment))?;
            let job = new_job(&changed, request, now);
            Ok(Admitted::New {
                environment: Some(Box::new(changed)),
                job: Box::new(job),
            })
        }
        None => {
            let refusal = match environment.phase {
                Phase::Pending | Phase::Creating | Phase::Running | Phase::Stopping => None,
                Phase::Stopped | Phase::Failed => {
                    Some(PhaseRefusal::NotAllowed(environment.phase.as_str()))
                }
                Phase::Deleting | Phase::Deleted => {
                    Some(PhaseRefusal::Gone(environment.phase.as_str()))
                }
            };
            match refusal {
                Some(refusal) => Err(refused(refusal, environment)),
                None => Ok(Admitted::New {
                    environment: None,
                    job: Box::new(new_job(environment, request, now)),
                }),
            }
        }
    }
}

fn admit_create(
    environment: Option<&Environment>,
    request: JobRequest,
    now: Timestamp,
) -> Result<Admitted, Refusal> {
    let spec = request.spec.clone().ok_or(Refusal::DifferentSpec)?;
    if let Some(living) = environment
        && matches!(
            living.phase,
            Phase::Pending | Phase::Creating | Phase::Running
        )
    {
        return if living.spec == spec {
            Ok(Admitted::Existing(living.created_by))
        } else {
            Err(Refusal::DifferentSpec)
        };
    }
    let created = Environment::create(request.at.clone(), environment, spec, request.id, now)
        .map_err(|refusal| match environment {
            Some(environment) => refused(refusal, environment),
            None => Refusal::DifferentSpec,
        })?;
    let job = new_job(&created, request, now);
    Ok(Admitted::New {
        environment: Some(Box::new(created)),
        job: Box::new(job),
    })
}

fn refused(refusal: PhaseRefusal, environment: &Environment) -> Refusal {
    match refusal {
        PhaseRefusal::Gone(phase) => Refusal::Gone(phase),
        PhaseRefusal::NotAllowed(phase) => {
            let reason = environment
                .reason
                .as_ref()
                .map(|reason| format!(": {}", reason.message))
                .unwrap_or_default();
            Refusal::NotAllowed { phase, reason }
        }
    }
}

fn new_job(environment: &Environment, request: JobRequest, now: Timestamp) -> Job {
    Job {
        id: request.id,
        tenant: environment.tenant.clone(),
        environment: environment.id.clone(),
        uid: environment.uid.clone(),
        generation: environment.generation,
        runnable: false,
        input: request.input,
        labels: request.labels,
        state: JobState::Queued,
        created_at: now,
        started_at: None,
        finished_at: None,
        attempts: 0,
        fence: Fence::default(),
        lease: None,
        incarnation: None,
        cancel: None,
        progress: None,
        result: None,
        error: None,
        output: crate::output::OutputCounts::default(),
    }
}

/// What an environment's state means for its jobs: the changed ones. `jobs` are those of it that have not ended.
pub fn settle(environment: &Environment, jobs: &[Job], now: Timestamp) -> Vec<Job> {
    // What ends by this very step holds nobody up any more.
    let stays = |job: &Job| match job.state {
        JobState::Queued => ending(environment, job).is_none(),
        state => !state.is_terminal(),
    };
    let head = jobs
        .iter()
        .filter(|job| is_lifecycle(job) && stays(job))
        .map(|job| job.generation)
        .min();
    jobs.iter()
        .filter_map(|job| settled(environment, job, head, now).filter(|changed| changed != job))
        .collect()
}

/// What the end of a job means for its environment: the changed environment, if it changes.
///
/// That is the event that the job brought. Where the job that led its environment somewhere ends without having brought
/// it there (it was cancelled, or given up), the environment has failed.
pub fn conclude(
    environment: &Environment,
    ended: &Job,
    event: Option<&EnvironmentEvent>,
    now: Timestamp,
) -> Option<Environment> {
    let arrived = event.and_then(|event| environment.apply(ended.generation, event, now).ok());
    let at = arrived.as_ref().unwrap_or(environment);
    let on_its_way = matches!(
        at.phase,
        Phase::Pending | Phase::Creating | Phase::Stopping | Phase::Deleting
    );
    if !on_its_way || !is_lifecycle(ended) || !ended.state.is_terminal() {
        return arrived;
    }
    let reason = ended.error.as_ref().map_or_else(
        || {
            Reason::new(
                "incomplete",
                "the job ended before the environment was ready",
            )
        },
        |error| Reason::new(error.code.as_str(), error.message.as_str()),
    );
    at.apply(ended.generation, &EnvironmentEvent::Failed(reason), now)
        .ok()
        .or(arrived)
}

fn is_lifecycle(job: &Job) -> bool {
    job.input.kind().lifecycle().is_some()
}

fn settled(
    environment: &Environment,
    job: &Job,
    head: Option<Generation>,
    now: Timestamp,
) -> Option<Job> {
    if job.state.is_terminal() {
        return None;
    }
    if let Some(ending) = ending(environment, job) {
        return match ending {
            Ending::Cancel(request) => job.request_cancel(request, now).ok(),
            Ending::Fail(code, message) => {
                job.end_unstarted(Outcome::failure(code, message), now).ok()
            }
        };
    }
    if job.lease.is_some() {
        return None;
    }
    let runnable = if is_lifecycle(job) {
        Some(job.generation) == head
    } else {
        // One that was started stays takeable whatever its environment does: somebody has to end it.
        environment.phase == Phase::Running || job.state == JobState::Running
    };
    Some(Job {
        runnable,
        ..job.clone()
    })
}

enum Ending {
    Cancel(CancelRequest),
    Fail(&'static str, String),
}

/// Whether the environment's state ends the job.
fn ending(environment: &Environment, job: &Job) -> Option<Ending> {
    let cancel = |code: &str, message: &str| {
        Some(Ending::Cancel(CancelRequest {
            signal: 0,
            grace_seconds: ENDING_GRACE_SECONDS,
            code: code.to_owned(),
            message: message.to_owned(),
        }))
    };
    if job.uid != environment.uid {
        return cancel("environment_deleted", "the environment was deleted");
    }
    if is_lifecycle(job) {
        let overtaken = job.generation < environment.generation;
        let going = matches!(environment.phase, Phase::Deleting | Phase::Deleted);
        return if overtaken && going {
            cancel("environment_deleted", "the environment was deleted")
        } else {
            None
        };
    }
    match (environment.phase, job.state) {
        (Phase::Deleting | Phase::Deleted, _) => {
            cancel("environment_deleted", "the environment was deleted")
        }
        (Phase::Stopping | Phase::Stopped, JobState::Running) => {
            cancel("environment_stopped", "the environment was stopped")
        }
        (Phase::Stopped, JobState::Queued) => Some(Ending::Fail(
            "environment_stopped",
            "the environment was stopped before the job began".to_owned(),
        )),
        (Phase::Failed, JobState::Queued) => {
            let why = environment
                .reason
                .as_ref()
                .map_or("it failed", |reason| reason.message.as_str());
            Some(Ending::Fail(
                "environment_failed",
                format!("the environment cannot run the job: {why}"),
            ))
        }
        _ => None,
    }
}
