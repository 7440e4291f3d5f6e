//! How jobs end, and what that and what workers see means for an environment and its other jobs.

use std::collections::HashSet;

use jiff::Timestamp;

use super::leases::{environment_of, fenced, held_job, needs_room};
use super::writer::Commit;
use super::{output, rows};
use crate::admission;
use crate::environment::{Environment, EnvironmentEvent};
use crate::ids::{EnvironmentRef, Fence, Generation, JobId, JobRef};
use crate::job::{CancelRequest, Job};
use crate::ports::{Completion, Effects, StoreError};

/// Ends a job with all that belongs to it.
pub(super) fn finish(
    commit: &mut Commit<'_>,
    at: &JobRef,
    fence: Fence,
    completion: Completion,
    now: Timestamp,
) -> Result<Effects, StoreError> {
    let job = held_job(commit.db, at)?;
    needs_room(commit, &job)?;
    let job = job.finish(fence, completion.outcome, now).map_err(fenced)?;
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
