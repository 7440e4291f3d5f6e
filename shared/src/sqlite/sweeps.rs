//! What the sweeps walk, across all tenants, and what monitors count.

use jiff::Timestamp;
use rusqlite::{Connection, Rows, params};
use serde::de::value::{Error as NameError, StrDeserializer};
use serde::de::{Deserialize, IntoDeserializer};

use super::rows;
use crate::environment::{Environment, Phase};
use crate::ids::{EnvironmentId, EnvironmentRef, Fence, JobId, JobRef, TenantId};
use crate::job::{JobKind, JobState, QueueLane};
use crate::ports::{Activity, HeldJob, StoreCounts, StoreError};

pub(super) const ENVIRONMENTS_IN: &str = "SELECT tenant, id, record FROM environments \
     WHERE phase = ?1 AND (tenant, id) > (?2, ?3) ORDER BY tenant, id LIMIT ?4";

/// Environments of every tenant that are in a phase.
pub(super) fn environments_in(
    db: &Connection,
    phase: Phase,
    after: Option<&EnvironmentRef>,
    limit: u32,
) -> Result<Vec<Environment>, StoreError> {
    let (tenant, id) = after.map_or(("", ""), |at| (at.tenant.as_str(), at.environment.as_str()));
    let mut statement = db.prepare_cached(ENVIRONMENTS_IN)?;
    read_environments(statement.query(params![phase.as_str(), tenant, id, limit])?)
}

/// Rows of tenant, id and record.
fn read_environments(mut found: Rows<'_>) -> Result<Vec<Environment>, StoreError> {
    let mut environments = Vec::new();
    while let Some(row) = found.next()? {
        let tenant: TenantId = rows::text_id(row, 0, "environments")?;
        let id: EnvironmentId = rows::text_id(row, 1, "environments")?;
        environments.push(rows::from_json(
            row.get_ref(2)?,
            "environments",
            format_args!("{tenant}/{id}"),
        )?);
    }
    Ok(environments)
}

pub(super) const EXPIRED: &str = "SELECT tenant, id, record FROM environments \
     WHERE expires_at <= ?1 ORDER BY expires_at LIMIT ?2";

/// Environments whose lifetime is over.
pub(super) fn expired(
    db: &Connection,
    now: Timestamp,
    limit: u32,
) -> Result<Vec<Environment>, StoreError> {
    let mut statement = db.prepare_cached(EXPIRED)?;
    read_environments(statement.query(params![rows::micros(now), limit])?)
}

pub(super) const LAST_END: &str = "SELECT max(finished_at) FROM jobs \
     WHERE tenant = ?1 AND environment = ?2 AND finished_at IS NOT NULL";

/// When an environment last had something to do.
pub(super) fn activity(db: &Connection, at: &EnvironmentRef) -> Result<Activity, StoreError> {
    let last_end: Option<i64> = db.prepare_cached(LAST_END)?.query_row(
        params![at.tenant.as_str(), at.environment.as_str()],
        |row| row.get(0),
    )?;
    Ok(Activity {
        busy: rows::count_open_jobs(db, at)? > 0,
        last_end: last_end.and_then(|micros| Timestamp::from_microsecond(micros).ok()),
    })
}

pub(super) const RUNNABLE: &str = "SELECT tenant, id FROM jobs \
     WHERE waiting = 1 AND lane = ?1 AND id > ?2 ORDER BY id LIMIT ?3";

/// Jobs that are runnable and not leased, oldest first.
pub(super) fn runnable(
    db: &Connection,
    lane: QueueLane,
    after: Option<JobId>,
    limit: u32,
) -> Result<Vec<JobRef>, StoreError> {
    let after = after.map_or(Vec::new(), |id| rows::job_key(&id).to_vec());
    let mut statement = db.prepare_cached(RUNNABLE)?;
    let mut found = statement.query(params![rows::lane_number(lane), after, limit])?;
    let mut jobs = Vec::new();
    while let Some(row) = found.next()? {
        jobs.push(JobRef {
            tenant: rows::text_id(row, 0, "jobs")?,
            job: rows::job_id(row, 1, "jobs")?,
        });
    }
    Ok(jobs)
}

pub(super) const HELD: &str = "SELECT tenant, id, lane, owner, fence FROM jobs \
     WHERE owner IS NOT NULL AND id > ?1 ORDER BY id LIMIT ?2";

/// Jobs that are leased.
pub(super) fn held(
    db: &Connection,
    after: Option<JobId>,
    limit: u32,
) -> Result<Vec<HeldJob>, StoreError> {
    let after = after.map_or(Vec::new(), |id| rows::job_key(&id).to_vec());
    let mut statement = db.prepare_cached(HELD)?;
    let mut found = statement.query(params![after, limit])?;
    let mut jobs = Vec::new();
    while let Some(row) = found.next()? {
        let lane: i64 = rows::column(row, 2, "jobs")?;
        let fence: i64 = rows::column(row, 4, "jobs")?;
        jobs.push(HeldJob {
            at: JobRef {
                tenant: rows::text_id(row, 0, "jobs")?,
                job: rows::job_id(row, 1, "jobs")?,
            },
            lane: if lane == rows::lane_number(QueueLane::Lifecycle) {
                QueueLane::Lifecycle
            } else {
                QueueLane::Work
            },
            owner: rows::text_id(row, 3, "jobs")?,
            fence: Fence(fence.unsigned_abs()),
        });
    }
    Ok(jobs)
}

pub(super) const JOB_COUNTS: &str =
    "SELECT kind, state, count(*) FROM jobs WHERE finished_at IS NULL GROUP BY kind, state";

pub(super) const ENVIRONMENT_COUNTS: &str =
    "SELECT phase, '', count(*) FROM environments GROUP BY phase";

/// Numbers of what has not ended, and of environments.
pub(super) fn counts(db: &Connection) -> Result<StoreCounts, StoreError> {
    let mut counts = StoreCounts::default();
    for (kind, state, count) in grouped(db, JOB_COUNTS)? {
        match (JobKind::parse(&kind), JobState::parse(&state)) {
            (Some(kind), Some(state)) => counts.jobs.push((kind, state, count)),
            _ => {
                return Err(rows::corrupt(
                    "jobs",
                    format_args!("{kind} {state}"),
                    "no such kind or state",
                ));
            }
        }
    }
    for (phase, _, count) in grouped(db, ENVIRONMENT_COUNTS)? {
        let name: StrDeserializer<'_, NameError> = phase.as_str().into_deserializer();
        let known = Phase::deserialize(name)
            .map_err(|_| rows::corrupt("environments", &phase, "no such phase"))?;
        counts.environments.push((known, count));
    }
    Ok(counts)
}

fn grouped(db: &Connection, sql: &str) -> Result<Vec<(String, String, u64)>, StoreError> {
    let mut statement = db.prepare_cached(sql)?;
    let mut found = statement.query([])?;
    let mut groups = Vec::new();
    while let Some(row) = found.next()? {
        let count: i64 = row.get(2)?;
        groups.push((row.get(0)?, row.get(1)?, count.unsigned_abs()));
    }
    Ok(groups)
}
