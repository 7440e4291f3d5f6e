//! What workers commit while a job runs: leases, output, progress.

use jiff::Timestamp;
use rusqlite::{Connection, params};

use super::writer::Commit;
use super::{output, rows};
use crate::admission;
use crate::environment::{Environment, EnvironmentEvent};
use crate::ids::{EnvironmentRef, Fence, JobRef, WorkerId};
use crate::job::{Begun, Job, JobKind, JobRefusal, Progress};
use crate::output::Chunk;
use crate::ports::{Effects, LeaseAttempt, Leased, StoreError};

/// Leases a job, with its environment as of the same commit.
pub(super) fn lease(
    commit: &mut Commit<'_>,
    at: &JobRef,
    owner: WorkerId,
    replaces: Option<Fence>,
    now: Timestamp,
) -> Result<LeaseAttempt, StoreError> {
    let Some(job) = rows::job(commit.db, at)? else {
        return Ok(LeaseAttempt::Ended);
    };
    let mut environment = environment_of(commit.db, &job)?;
    let is_work = job.input.kind().lifecycle().is_none();
    let incarnation = (is_work && environment.uid == job.uid)
        .then(|| environment.incarnation.clone())
        .flatten();
    let leased = match job.lease(owner, incarnation, replaces, now) {
        Ok(leased) => leased,
        Err(JobRefusal::Held) => return Ok(LeaseAttempt::Held),
        Err(JobRefusal::NotRunnable) => return Ok(LeaseAttempt::NotRunnable),
        Err(_) => return Ok(LeaseAttempt::Ended),
    };
    needs_room(commit, &job)?;
    rows::update_job(commit, &leased)?;
    // To jobs that wait, pending and creating are the same: nothing is to be settled.
    if job.input.kind() == JobKind::Create
        && let Ok(creating) = environment.apply(job.generation, &EnvironmentEvent::Creating, now)
    {
        rows::put_environment(commit, &creating)?;
        environment = creating;
    }
    Ok(LeaseAttempt::Leased(Box::new(Leased {
        job: leased,
        environment,
    })))
}

/// Gives a job back and settles it. No other job of its environment is touched: nothing of theirs depends on a lease.
pub(super) fn hand_back(
    commit: &mut Commit<'_>,
    at: &JobRef,
    fence: Fence,
    begun: Begun,
    now: Timestamp,
) -> Result<Effects, StoreError> {
    let held = held_job(commit.db, at)?;
    needs_room(commit, &held)?;
    let free = held.hand_back(fence, begun).map_err(fenced)?;
    let environment = environment_of(commit.db, &free)?;
    let settled = admission::settle(&environment, std::slice::from_ref(&free), now);
    let job = settled.into_iter().next().unwrap_or(free);
    rows::update_job(commit, &job)?;
    let mut effects = Effects::default();
    if job.runnable {
        effects.runnable.push((job.at(), job.input.kind().lane()));
    }
    Ok(effects)
}

/// Adds output under a lease.
pub(super) fn append_output(
    commit: &mut Commit<'_>,
    at: &JobRef,
    fence: Fence,
    chunks: &[Chunk],
) -> Result<(), StoreError> {
    // The same as `Job::guard`, without reading a record that may be large.
    let guarded = commit
        .db
        .prepare_cached(
            "SELECT 1 FROM jobs WHERE tenant = ?1 AND id = ?2 AND fence = ?3 \
             AND owner IS NOT NULL AND finished_at IS NULL",
        )?
        .exists(params![
            at.tenant.as_str(),
            rows::job_key(&at.job),
            rows::number(fence.0)
        ])?;
    if !guarded {
        return Err(StoreError::Fenced);
    }
    output::insert(commit, at, chunks)?;
    commit.touch(at.clone());
    Ok(())
}

/// Notes how far a download is.
pub(super) fn progress(
    commit: &mut Commit<'_>,
    at: &JobRef,
    fence: Fence,
    progress: Progress,
) -> Result<(), StoreError> {
    let mut job = held_job(commit.db, at)?;
    job.guard(fence).map_err(fenced)?;
    job.progress = Some(progress);
    rows::update_job_record(commit, &job)
}

/// Refuses to go on with a job for which no room is kept, while there is no other.
pub(super) fn needs_room(commit: &Commit<'_>, job: &Job) -> Result<(), StoreError> {
    if job.input.kind().ends_environment() {
        return Ok(());
    }
    commit.needs_room()
}

/// The environment of a job; it is there as long as its jobs are.
pub(super) fn environment_of(db: &Connection, job: &Job) -> Result<Environment, StoreError> {
    let at = EnvironmentRef {
        tenant: job.tenant.clone(),
        environment: job.environment.clone(),
    };
    rows::environment(db, &at)?.ok_or_else(|| {
        rows::corrupt(
            "jobs",
            format_args!("{}/{}", job.tenant, job.id),
            "its environment is not there",
        )
    })
}

/// The job for a write under its lease; one that is not there any more has ended.
pub(super) fn held_job(db: &Connection, at: &JobRef) -> Result<Job, StoreError> {
    rows::job(db, at)?.ok_or(StoreError::Fenced)
}

/// A refusal of the domain in the words of the port.
pub(super) fn fenced(refusal: JobRefusal) -> StoreError {
    match refusal {
        JobRefusal::NotTerminal => StoreError::Corrupt(refusal.to_string()),
        _ => StoreError::Fenced,
    }
}
