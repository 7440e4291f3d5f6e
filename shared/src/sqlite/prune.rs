//! Removing what is past its time, in small commits.
//!
//! A job's output goes first, some pieces a commit, its record last, so that the writer is never held up for long and a
//! prune that is cut short goes on with the next one. What has ended never changes, so its removal needs no
//! guard. A deleted environment goes after the last job that tells of it; one that was created again meanwhile stays.

use rusqlite::{Connection, params};

use super::writer::Commit;
use super::{rows, stdin};
use crate::ids::{EnvironmentRef, JobRef};
use crate::ports::{Cutoffs, StoreError};

/// Pieces of output that one commit removes: at most 16 MiB.
const PIECES: i64 = 64;

/// Idempotency records that one commit removes.
const KEYS: i64 = 1000;

pub(super) const PAST: &str = "SELECT tenant, id FROM jobs \
     WHERE finished_at IS NOT NULL AND hidden = ?1 AND finished_at < ?2 \
     AND NOT (kind = 'create' AND EXISTS (SELECT 1 FROM environments AS living \
         WHERE living.tenant = jobs.tenant AND living.id = jobs.environment \
         AND living.created_by = jobs.id AND living.phase <> 'deleted')) \
     ORDER BY finished_at LIMIT ?3";

/// SQLite reads times in milliseconds.
pub(super) const GONE: &str = "SELECT tenant, id FROM environments AS gone \
     WHERE phase = 'deleted' \
     AND NOT EXISTS (SELECT 1 FROM jobs \
         WHERE jobs.tenant = gone.tenant AND jobs.environment = gone.id) \
     AND round(unixepoch(json_extract(record, '$.since'), 'subsec') * 1000) < ?1 LIMIT ?2";

/// Jobs that are past their time, oldest first.
pub(super) fn past(
    db: &Connection,
    cutoffs: Cutoffs,
    limit: u32,
) -> Result<Vec<JobRef>, StoreError> {
    let mut jobs = Vec::new();
    let mut statement = db.prepare_cached(PAST)?;
    for (hidden, before) in [(true, cutoffs.reads_before), (false, cutoffs.jobs_before)] {
        let left = i64::from(limit) - i64::try_from(jobs.len()).unwrap_or(i64::MAX);
        let mut found = statement.query(params![hidden, rows::micros(before), left])?;
        while let Some(row) = found.next()? {
            jobs.push(JobRef {
                tenant: rows::text_id(row, 0, "jobs")?,
                job: rows::job_id(row, 1, "jobs")?,
            });
        }
    }
    Ok(jobs)
}

/// Removes some pieces of a job's output; whether there may be more.
pub(super) fn remove_output(commit: &mut Commit<'_>, at: &JobRef) -> Result<bool, StoreError> {
    let removed = commit
        .db
        .prepare_cached(
            "DELETE FROM output WHERE rowid IN (SELECT rowid FROM output \
             WHERE tenant = ?1 AND job = ?2 LIMIT ?3)",
        )?
        .execute(params![at.tenant.as_str(), rows::job_key(&at.job), PIECES])?;
    Ok(i64::try_from(removed).is_ok_and(|removed| removed == PIECES))
}

/// Removes a job's record; false if another did.
pub(super) fn remove_job(commit: &mut Commit<'_>, at: &JobRef) -> Result<bool, StoreError> {
    commit
        .db
        .prepare_cached("DELETE FROM job_labels WHERE tenant = ?1 AND job = ?2")?
        .execute(params![at.tenant.as_str(), rows::job_key(&at.job)])?;
    stdin::forget(commit, at)?;
    let removed = commit
        .db
        .prepare_cached("DELETE FROM jobs WHERE tenant = ?1 AND id = ?2")?
        .execute(params![at.tenant.as_str(), rows::job_key(&at.job)])?;
    commit.touch(at.clone());
    Ok(removed > 0)
}

/// Environments that were deleted before `jobs_before` and have no job left.
pub(super) fn gone(
    db: &Connection,
    cutoffs: Cutoffs,
    limit: u32,
) -> Result<Vec<EnvironmentRef>, StoreError> {
    let mut statement = db.prepare_cached(GONE)?;
    let mut found = statement.query(params![cutoffs.jobs_before.as_millisecond(), limit])?;
    let mut environments = Vec::new();
    while let Some(row) = found.next()? {
        environments.push(EnvironmentRef {
            tenant: rows::text_id(row, 0, "environments")?,
            environment: rows::text_id(row, 1, "environments")?,
        });
    }
    Ok(environments)
}

/// Removes the record of an environment, unless it was created again since it was found.
pub(super) fn remove_environment(
    commit: &mut Commit<'_>,
    at: &EnvironmentRef,
) -> Result<(), StoreError> {
    commit
        .db
        .prepare_cached(
            "DELETE FROM environments WHERE tenant = ?1 AND id = ?2 AND phase = 'deleted' \
             AND NOT EXISTS (SELECT 1 FROM jobs WHERE tenant = ?1 AND environment = ?2)",
        )?
        .execute(params![at.tenant.as_str(), at.environment.as_str()])?;
    Ok(())
}

/// Removes some idempotency records that are past their time; whether there may be more.
pub(super) fn remove_keys(commit: &mut Commit<'_>, cutoffs: Cutoffs) -> Result<bool, StoreError> {
    let removed = commit
        .db
        .prepare_cached(
            "DELETE FROM idempotency WHERE (tenant, scope, key) IN \
             (SELECT tenant, scope, key FROM idempotency WHERE created_at < ?1 \
              ORDER BY created_at LIMIT ?2)",
        )?
        .execute(params![rows::micros(cutoffs.keys_before), KEYS])?;
    Ok(i64::try_from(removed).is_ok_and(|removed| removed == KEYS))
}
