//! Accepting a job: its record, its idempotency record and its environment's change in one commit.

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, params};

use super::rows;
use super::writer::Commit;
use crate::admission::{self, Admitted, Refusal};
use crate::environment::Environment;
use crate::ids::{EnvironmentRef, JobId, JobRef, TenantId};
use crate::job::Job;
use crate::ports::{Idempotency, StoreError, Submission, SubmitError, Submitted};

/// Commits a submission, or finds the job that an equal one made before.
pub(super) fn submit(
    commit: &mut Commit<'_>,
    submission: Submission,
    now: Timestamp,
) -> Result<Submitted, SubmitError> {
    let Submission {
        request,
        idempotency,
        condition,
    } = submission;
    let at = request.at.clone();
    if let Some(key) = &idempotency
        && let Some(job) = job_of_key(commit.db, &at.tenant, key)?
    {
        return Ok(replayed(job));
    }
    // A caller that did not hear whether its commit happened asks again with the same id.
    let own = JobRef {
        tenant: at.tenant.clone(),
        job: request.id,
    };
    if let Some(job) = rows::job(commit.db, &own)? {
        return Ok(replayed(job));
    }
    if !request.input.kind().ends_environment() {
        commit.needs_room()?;
    }
    let environment = rows::environment(commit.db, &at)?;
    if let Some(condition) = condition {
        let open = rows::count_open_jobs(commit.db, &at)?;
        if !condition.holds(environment.as_ref(), open, now) {
            return Err(Refusal::Overtaken.into());
        }
    }
    let submitted = match admission::admit(environment.as_ref(), request, now)? {
        Admitted::Existing(creator) => replayed(creator_of(commit.db, &at, creator)?),
        Admitted::New {
            environment: changed,
            job,
        } => {
            let job = accept(
                commit,
                &at,
                environment,
                changed.map(|changed| *changed),
                *job,
                now,
            )?;
            Submitted {
                publish: job.runnable,
                job,
                replayed: false,
            }
        }
    };
    if let Some(key) = &idempotency {
        remember(commit.db, &at.tenant, key, &submitted.job.id, now)?;
    }
    Ok(submitted)
}

fn replayed(job: Job) -> Submitted {
    Submitted {
        job,
        replayed: true,
        publish: false,
    }
}

/// Writes the environment's change and the new job, settled.
///
/// A job that changes its environment settles all of that environment's jobs. Of others the rest is settled already, and
/// what is decided of them depends on themselves alone ([`admission`]): an environment with many waiting jobs takes the
/// next one as fast as the first.
fn accept(
    commit: &mut Commit<'_>,
    at: &EnvironmentRef,
    environment: Option<Environment>,
    changed: Option<Environment>,
    job: Job,
    now: Timestamp,
) -> Result<Job, StoreError> {
    let mut jobs = Vec::new();
    if let Some(changed) = &changed {
        rows::put_environment(commit, changed)?;
        jobs = rows::open_jobs(commit.db, at)?;
    }
    let Some(environment) = changed.or(environment) else {
        return Err(rows::corrupt(
            "environments",
            &at.environment,
            "it is not there",
        ));
    };
    jobs.push(job.clone());
    let mut accepted = job;
    for settled in admission::settle(&environment, &jobs, now) {
        if settled.id == accepted.id {
            accepted = settled;
        } else {
            rows::update_job(commit, &settled)?;
        }
    }
    rows::insert_job(commit, &accepted)?;
    Ok(accepted)
}

fn creator_of(db: &Connection, at: &EnvironmentRef, creator: JobId) -> Result<Job, StoreError> {
    let creator = JobRef {
        tenant: at.tenant.clone(),
        job: creator,
    };
    rows::job(db, &creator)?.ok_or_else(|| {
        rows::corrupt(
            "environments",
            format_args!("{}/{}", at.tenant, at.environment),
            "the job that created it is not there",
        )
    })
}

/// The job of a key that was used with the same request. A key whose job is past its time counts as unused.
fn job_of_key(
    db: &Connection,
    tenant: &TenantId,
    key: &Idempotency,
) -> Result<Option<Job>, SubmitError> {
    let found = db
        .prepare_cached(
            "SELECT job, fingerprint FROM idempotency \
             WHERE tenant = ?1 AND scope = ?2 AND key = ?3",
        )
        .map_err(StoreError::from)?
        .query_row(params![tenant.as_str(), key.scope, key.key], |row| {
            Ok((
                rows::job_id(row, 0, "idempotency"),
                rows::column::<[u8; 32]>(row, 1, "idempotency"),
            ))
        })
        .optional()
        .map_err(StoreError::from)?;
    let Some((job, fingerprint)) = found else {
        return Ok(None);
    };
    let at = JobRef {
        tenant: tenant.clone(),
        job: job?,
    };
    let Some(job) = rows::job(db, &at)? else {
        return Ok(None);
    };
    if fingerprint? == key.fingerprint {
        Ok(Some(job))
    } else {
        Err(SubmitError::KeyReused)
    }
}

fn remember(
    db: &Connection,
    tenant: &TenantId,
    key: &Idempotency,
    job: &JobId,
    now: Timestamp,
) -> Result<(), StoreError> {
    db.prepare_cached(
        "INSERT INTO idempotency (tenant, scope, key, fingerprint, job, created_at) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6) \
         ON CONFLICT (tenant, scope, key) DO UPDATE SET fingerprint = excluded.fingerprint, \
         job = excluded.job, created_at = excluded.created_at",
    )?
    .execute(params![
        tenant.as_str(),
        key.scope,
        key.key,
        key.fingerprint,
        rows::job_key(job),
        rows::micros(now),
    ])?;
    Ok(())
}
