//! What workers commit: leases, ends, what they saw of an environment; their heartbeats and roles.

use std::collections::HashSet;

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, params};

use super::writer::Commit;
use super::{output, rows};
use crate::admission;
use crate::environment::{Environment, EnvironmentEvent};
use crate::ids::{EnvironmentRef, Fence, Generation, JobId, JobRef, WorkerId};
use crate::job::{CancelRequest, Job, JobKind, JobRefusal, Progress};
use crate::lease::Beat;
use crate::output::Chunk;
use crate::ports::{Completion, Effects, LeaseAttempt, Leased, RoleHolder, StoreError};

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
    now: Timestamp,
) -> Result<Effects, StoreError> {
    let free = held_job(commit.db, at)?.hand_back(fence).map_err(fenced)?;
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

/// Ends a job with all that belongs to it.
pub(super) fn finish(
    commit: &mut Commit<'_>,
    at: &JobRef,
    fence: Fence,
    completion: Completion,
    now: Timestamp,
) -> Result<Effects, StoreError> {
    let job = held_job(commit.db, at)?
        .finish(fence, completion.outcome, now)
        .map_err(fenced)?;
    output::insert(commit, at, &completion.chunks)?;
    if let Some(artifact) = &completion.artifact {
        rows::put_artifact(commit, artifact)?;
    }
    rows::update_job(commit, &job)?;
    conclude(commit, &job, completion.event.as_ref(), now)
}

/// Applies what a worker saw.
pub(super) fn environment_event(
    commit: &mut Commit<'_>,
    at: &EnvironmentRef,
    generation: Generation,
    event: &EnvironmentEvent,
    now: Timestamp,
) -> Result<Effects, StoreError> {
    let mut effects = Effects::default();
    let Some(environment) = rows::environment(commit.db, at)? else {
        return Ok(effects);
    };
    if let Ok(changed) = environment.apply(generation, event, now) {
        rows::put_environment(commit, &changed)?;
        settle(commit, &changed, now, &mut effects)?;
    }
    Ok(effects)
}

/// Asks for a job's end.
pub(super) fn cancel(
    commit: &mut Commit<'_>,
    at: &JobRef,
    request: CancelRequest,
    now: Timestamp,
) -> Result<Option<Job>, StoreError> {
    let Some(job) = rows::job(commit.db, at)? else {
        return Ok(None);
    };
    let Ok(changed) = job.request_cancel(request, now) else {
        return Ok(Some(job));
    };
    if changed != job {
        rows::update_job(commit, &changed)?;
    }
    if changed.state.is_terminal() {
        conclude(commit, &changed, None, now)?;
    }
    Ok(Some(changed))
}

/// What the end of a job means for its environment and the environment's other jobs.
fn conclude(
    commit: &mut Commit<'_>,
    ended: &Job,
    event: Option<&EnvironmentEvent>,
    now: Timestamp,
) -> Result<Effects, StoreError> {
    let mut effects = Effects::default();
    let is_work = ended.input.kind().lifecycle().is_none();
    if is_work && event.is_none() {
        return Ok(effects);
    }
    let environment = environment_of(commit.db, ended)?;
    let changed = admission::conclude(&environment, ended, event, now);
    if let Some(changed) = &changed {
        rows::put_environment(commit, changed)?;
    }
    // Even where nothing changed, a lifecycle job that ended makes room for the next one.
    settle(
        commit,
        changed.as_ref().unwrap_or(&environment),
        now,
        &mut effects,
    )?;
    Ok(effects)
}

fn settle(
    commit: &mut Commit<'_>,
    environment: &Environment,
    now: Timestamp,
    effects: &mut Effects,
) -> Result<(), StoreError> {
    let jobs = rows::open_jobs(commit.db, &environment.at())?;
    let waited: HashSet<JobId> = jobs
        .iter()
        .filter(|job| !job.runnable)
        .map(|job| job.id)
        .collect();
    for job in admission::settle(environment, &jobs, now) {
        rows::update_job(commit, &job)?;
        if job.runnable && waited.contains(&job.id) {
            effects.runnable.push((job.at(), job.input.kind().lane()));
        }
    }
    Ok(())
}

fn environment_of(db: &Connection, job: &Job) -> Result<Environment, StoreError> {
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
fn held_job(db: &Connection, at: &JobRef) -> Result<Job, StoreError> {
    rows::job(db, at)?.ok_or(StoreError::Fenced)
}

fn fenced(refusal: JobRefusal) -> StoreError {
    match refusal {
        JobRefusal::NotTerminal => StoreError::Corrupt(refusal.to_string()),
        _ => StoreError::Fenced,
    }
}

/// Changes a worker's heartbeat.
pub(super) fn beat(db: &Connection, worker: &WorkerId) -> Result<(), StoreError> {
    db.prepare_cached(
        "INSERT INTO beats (worker, count) VALUES (?1, 1) \
         ON CONFLICT (worker) DO UPDATE SET count = count + 1",
    )?
    .execute([worker.as_str()])?;
    Ok(())
}

/// All heartbeats.
pub(super) fn beats(db: &Connection) -> Result<Vec<Beat>, StoreError> {
    let mut statement = db.prepare_cached("SELECT worker, count FROM beats ORDER BY worker")?;
    let mut rows = statement.query([])?;
    let mut beats = Vec::new();
    while let Some(row) = rows.next()? {
        let count: i64 = rows::column(row, 1, "beats")?;
        beats.push(Beat {
            worker: rows::text_id(row, 0, "beats")?,
            count: count.unsigned_abs(),
        });
    }
    Ok(beats)
}

/// Removes a worker's heartbeat.
pub(super) fn retire(db: &Connection, worker: &WorkerId) -> Result<(), StoreError> {
    db.prepare_cached("DELETE FROM beats WHERE worker = ?1")?
        .execute([worker.as_str()])?;
    Ok(())
}

/// Who has a role.
pub(super) fn role(db: &Connection, role: &str) -> Result<Option<RoleHolder>, StoreError> {
    db.prepare_cached("SELECT owner, fence FROM roles WHERE role = ?1")?
        .query_row([role], |row| {
            let owner = rows::text_id(row, 0, "roles");
            let fence = rows::column::<i64>(row, 1, "roles");
            Ok(owner.and_then(|owner| {
                Ok(RoleHolder {
                    owner,
                    fence: Fence(fence?.unsigned_abs()),
                })
            }))
        })
        .optional()?
        .transpose()
}

/// Takes a role from the holder that was read.
pub(super) fn take_role(
    db: &Connection,
    name: &str,
    owner: &WorkerId,
    from: Option<&RoleHolder>,
) -> Result<bool, StoreError> {
    let held = role(db, name)?;
    if held.as_ref() != from {
        return Ok(false);
    }
    let fence = held.map(|holder| holder.fence).unwrap_or_default().next();
    db.prepare_cached(
        "INSERT INTO roles (role, owner, fence) VALUES (?1, ?2, ?3) \
         ON CONFLICT (role) DO UPDATE SET owner = excluded.owner, fence = excluded.fence",
    )?
    .execute(params![name, owner.as_str(), rows::number(fence.0)])?;
    Ok(true)
}
