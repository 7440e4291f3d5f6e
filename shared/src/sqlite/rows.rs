//! Records as rows: what stands in the columns, and how a record is read back.

use jiff::Timestamp;
use rusqlite::types::{FromSql, ValueRef};
use rusqlite::{Connection, OptionalExtension, Row, params};
use serde::Serialize;
use serde::de::DeserializeOwned;
use uuid::Uuid;

use super::stdin;
use super::writer::Commit;
use crate::artifact::Artifact;
use crate::environment::{Environment, Phase};
use crate::ids::{ArtifactId, EnvironmentRef, JobId, JobRef, TenantId};
use crate::job::{Job, JobInput, QueueLane};
use crate::ports::StoreError;

/// A record that cannot be read. The record's content never stands in it: it may be a secret.
pub(super) fn corrupt(
    table: &str,
    key: impl std::fmt::Display,
    why: impl std::fmt::Display,
) -> StoreError {
    StoreError::Corrupt(format!("{table} {key}: {why}"))
}

/// The record's JSON.
pub(super) fn to_json<T: Serialize>(record: &T) -> Result<String, StoreError> {
    serde_json::to_string(record)
        .map_err(|error| StoreError::Corrupt(format!("a record cannot be written: {error}")))
}

/// A record from its JSON.
pub(super) fn from_json<T: DeserializeOwned>(
    json: ValueRef<'_>,
    table: &str,
    key: impl std::fmt::Display,
) -> Result<T, StoreError> {
    let text = json
        .as_bytes()
        .map_err(|_| corrupt(table, &key, "the record is no text"))?;
    serde_json::from_slice(text).map_err(|error| {
        let (line, column) = (error.line(), error.column());
        corrupt(
            table,
            &key,
            format!("the record is no valid JSON of its kind (line {line}, column {column})"),
        )
    })
}

/// Microseconds since 1970.
pub(super) fn micros(time: Timestamp) -> i64 {
    time.as_microsecond()
}

/// A number as SQLite holds it; those beyond its range sort last.
pub(super) fn number(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// A column that must hold a value of its type.
pub(super) fn column<T: FromSql>(
    row: &Row<'_>,
    index: usize,
    table: &str,
) -> Result<T, StoreError> {
    row.get(index)
        .map_err(|error| corrupt(table, format!("column {index}"), error))
}

/// A column that must hold an identifier.
pub(super) fn text_id<T>(row: &Row<'_>, index: usize, table: &str) -> Result<T, StoreError>
where
    T: TryFrom<String>,
    T::Error: std::fmt::Display,
{
    let text: String = column(row, index, table)?;
    T::try_from(text).map_err(|error| corrupt(table, format!("column {index}"), error))
}

/// The key of a job in its tenant.
pub(super) fn job_key(id: &JobId) -> [u8; 16] {
    id.as_uuid().into_bytes()
}

/// A column that must hold a job's key.
pub(super) fn job_id(row: &Row<'_>, index: usize, table: &str) -> Result<JobId, StoreError> {
    let key: [u8; 16] = column(row, index, table)?;
    Ok(JobId::from_uuid(Uuid::from_bytes(key)))
}

/// The lane as it stands in its column.
pub(super) fn lane_number(lane: QueueLane) -> i64 {
    match lane {
        QueueLane::Lifecycle => 0,
        QueueLane::Work => 1,
    }
}

/// A job's record out of a row.
pub(super) fn job_of(
    row: &Row<'_>,
    index: usize,
    tenant: &TenantId,
    id: &JobId,
) -> Result<Job, StoreError> {
    from_json(row.get_ref(index)?, "jobs", format_args!("{tenant}/{id}"))
}

/// A job.
pub(super) fn job(db: &Connection, at: &JobRef) -> Result<Option<Job>, StoreError> {
    db.prepare_cached("SELECT record FROM jobs WHERE tenant = ?1 AND id = ?2")?
        .query_row(params![at.tenant.as_str(), job_key(&at.job)], |row| {
            Ok(job_of(row, 0, &at.tenant, &at.job))
        })
        .optional()?
        .transpose()
}

/// Jobs of an environment that have not ended, oldest first.
pub(super) fn open_jobs(db: &Connection, at: &EnvironmentRef) -> Result<Vec<Job>, StoreError> {
    let mut statement = db.prepare_cached(
        "SELECT id, record FROM jobs \
         WHERE tenant = ?1 AND environment = ?2 AND finished_at IS NULL ORDER BY id",
    )?;
    let mut rows = statement.query(params![at.tenant.as_str(), at.environment.as_str()])?;
    let mut jobs = Vec::new();
    while let Some(row) = rows.next()? {
        let id = job_id(row, 0, "jobs")?;
        jobs.push(job_of(row, 1, &at.tenant, &id)?);
    }
    Ok(jobs)
}

/// How many jobs of an environment have not ended.
pub(super) fn count_open_jobs(db: &Connection, at: &EnvironmentRef) -> Result<usize, StoreError> {
    let count: i64 = db
        .prepare_cached(
            "SELECT count(*) FROM jobs \
             WHERE tenant = ?1 AND environment = ?2 AND finished_at IS NULL",
        )?
        .query_row(
            params![at.tenant.as_str(), at.environment.as_str()],
            |row| row.get(0),
        )?;
    Ok(usize::try_from(count).unwrap_or(usize::MAX))
}

/// Writes a new job.
pub(super) fn insert_job(commit: &mut Commit<'_>, job: &Job) -> Result<(), StoreError> {
    let kind = job.input.kind();
    commit
        .db
        .prepare_cached(
            "INSERT INTO jobs (tenant, id, environment, kind, hidden, lane, \
             state, waiting, fence, owner, finished_at, record) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)",
        )?
        .execute(params![
            job.tenant.as_str(),
            job_key(&job.id),
            job.environment.as_str(),
            kind.as_str(),
            kind.only_reads(),
            lane_number(kind.lane()),
            job.state.as_str(),
            job.runnable && job.lease.is_none(),
            number(job.fence.0),
            job.lease.as_ref().map(|lease| lease.owner.as_str()),
            job.finished_at.map(micros),
            to_json(job)?,
        ])?;
    for (name, value) in &job.labels {
        commit
            .db
            .prepare_cached(
                "INSERT INTO job_labels (tenant, job, environment, name, value) \
                 VALUES (?1, ?2, ?3, ?4, ?5)",
            )?
            .execute(params![
                job.tenant.as_str(),
                job_key(&job.id),
                job.environment.as_str(),
                name,
                value
            ])?;
    }
    commit.touch(job.at());
    Ok(())
}

/// Writes what changed of a job. What of its input nobody will take any more goes with its end.
pub(super) fn update_job(commit: &mut Commit<'_>, job: &Job) -> Result<(), StoreError> {
    commit
        .db
        .prepare_cached(
            "UPDATE jobs SET state = ?3, waiting = ?4, fence = ?5, owner = ?6, \
             finished_at = ?7, record = ?8 WHERE tenant = ?1 AND id = ?2",
        )?
        .execute(params![
            job.tenant.as_str(),
            job_key(&job.id),
            job.state.as_str(),
            job.runnable && job.lease.is_none(),
            number(job.fence.0),
            job.lease.as_ref().map(|lease| lease.owner.as_str()),
            job.finished_at.map(micros),
            to_json(job)?,
        ])?;
    if job.state.is_terminal() && matches!(&job.input, JobInput::Exec(exec) if exec.stdin_open) {
        stdin::drop_waiting(commit, &job.at())?;
    }
    commit.touch(job.at());
    Ok(())
}

/// Writes a job of which nothing changed that stands in a column, such as its progress.
pub(super) fn update_job_record(commit: &mut Commit<'_>, job: &Job) -> Result<(), StoreError> {
    commit
        .db
        .prepare_cached("UPDATE jobs SET record = ?3 WHERE tenant = ?1 AND id = ?2")?
        .execute(params![
            job.tenant.as_str(),
            job_key(&job.id),
            to_json(job)?
        ])?;
    commit.touch(job.at());
    Ok(())
}

/// An environment's record.
pub(super) fn environment(
    db: &Connection,
    at: &EnvironmentRef,
) -> Result<Option<Environment>, StoreError> {
    db.prepare_cached("SELECT record FROM environments WHERE tenant = ?1 AND id = ?2")?
        .query_row(
            params![at.tenant.as_str(), at.environment.as_str()],
            |row| {
                let key = format_args!("{}/{}", at.tenant, at.environment);
                Ok(row
                    .get_ref(0)
                    .map(|json| from_json(json, "environments", key)))
            },
        )
        .optional()?
        .transpose()?
        .transpose()
}

/// Writes an environment, new or changed.
pub(super) fn put_environment(
    commit: &mut Commit<'_>,
    environment: &Environment,
) -> Result<(), StoreError> {
    let going = matches!(environment.phase, Phase::Deleting | Phase::Deleted);
    let expires = environment.expires_at().filter(|_| !going);
    commit
        .db
        .prepare_cached(
            "INSERT INTO environments (tenant, id, phase, created_by, expires_at, record) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6) \
             ON CONFLICT (tenant, id) DO UPDATE SET \
             phase = excluded.phase, created_by = excluded.created_by, \
             expires_at = excluded.expires_at, record = excluded.record",
        )?
        .execute(params![
            environment.tenant.as_str(),
            environment.id.as_str(),
            environment.phase.as_str(),
            job_key(&environment.created_by),
            expires.map(micros),
            to_json(environment)?,
        ])?;
    put_environment_labels(commit, environment)
}

/// Writes an environment's marks. A deleted one is found by none.
fn put_environment_labels(
    commit: &mut Commit<'_>,
    environment: &Environment,
) -> Result<(), StoreError> {
    let (tenant, id) = (environment.tenant.as_str(), environment.id.as_str());
    commit
        .db
        .prepare_cached("DELETE FROM environment_labels WHERE tenant = ?1 AND id = ?2")?
        .execute(params![tenant, id])?;
    if environment.phase == Phase::Deleted {
        return Ok(());
    }
    for (name, value) in &environment.spec.labels {
        commit
            .db
            .prepare_cached(
                "INSERT INTO environment_labels (tenant, id, name, value) VALUES (?1, ?2, ?3, ?4)",
            )?
            .execute(params![tenant, id, name, value])?;
    }
    Ok(())
}

/// An artifact.
pub(super) fn artifact(
    db: &Connection,
    tenant: &TenantId,
    id: &ArtifactId,
) -> Result<Option<Artifact>, StoreError> {
    db.prepare_cached("SELECT record FROM artifacts WHERE tenant = ?1 AND id = ?2")?
        .query_row(params![tenant.as_str(), id.as_str()], |row| {
            let key = format_args!("{tenant}/{id}");
            Ok(row.get_ref(0).map(|json| from_json(json, "artifacts", key)))
        })
        .optional()?
        .transpose()?
        .transpose()
}

/// Writes an artifact. One that was indexed before stays as it is.
pub(super) fn put_artifact(commit: &mut Commit<'_>, artifact: &Artifact) -> Result<(), StoreError> {
    commit
        .db
        .prepare_cached(
            "INSERT INTO artifacts (tenant, id, created_at, record) VALUES (?1, ?2, ?3, ?4) \
             ON CONFLICT (tenant, id) DO NOTHING",
        )?
        .execute(params![
            artifact.tenant.as_str(),
            artifact.id.as_str(),
            micros(artifact.created_at),
            to_json(artifact)?,
        ])?;
    Ok(())
}
