//! Lists: pages in a stable order, and what the sweeps walk.
//!
//! A page ends with the key of its last item, and the next begins after that key, so that rows which come or go between
//! two pages neither repeat nor hide another.

use rusqlite::{Connection, ToSql, params};
use serde::de::value::{Error as NameError, StrDeserializer};
use serde::de::{Deserialize, IntoDeserializer};

use super::rows;
use super::tokens::ListKey;
use crate::artifact::Artifact;
use crate::environment::{Environment, Phase};
use crate::ids::{ArtifactId, EnvironmentId, EnvironmentRef, Fence, JobId, JobRef, TenantId};
use crate::job::{Job, JobKind, JobState, QueueLane};
use crate::ports::{
    EnvironmentFilter, HeldJob, JobFilter, ListError, Page, PageRequest, StoreCounts, StoreError,
};

/// Items of a page at most.
const LARGEST_PAGE: u32 = 1000;

/// Sorts after every job.
const AFTER_ALL_JOBS: [u8; 17] = [0xff; 17];

impl From<rusqlite::Error> for ListError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Store(error.into())
    }
}

fn page_size(page: &PageRequest) -> usize {
    page.size.clamp(1, LARGEST_PAGE) as usize
}

/// Cuts what was read, one more than the page holds, down to the page.
fn cut<T>(mut items: Vec<T>, size: usize, token: impl FnOnce(&T) -> Option<String>) -> Page<T> {
    let more = items.len() > size;
    items.truncate(size);
    let next = items.last().filter(|_| more).and_then(token);
    Page { items, next }
}

/// The statement of a job list; its conditions and their values stand in the same order.
pub(super) fn jobs_statement(filter: &JobFilter) -> String {
    let mut sql = String::from("SELECT id, record FROM jobs WHERE tenant = ? AND id < ?");
    if filter.environment.is_some() {
        sql.push_str(" AND environment = ?");
    }
    if filter.kind.is_some() {
        sql.push_str(" AND kind = ?");
    } else {
        sql.push_str(" AND hidden = 0");
    }
    if filter.state.is_some() {
        sql.push_str(" AND state = ?");
    }
    sql.push_str(" ORDER BY id DESC LIMIT ?");
    sql
}

/// Jobs, newest first.
pub(super) fn jobs(
    db: &Connection,
    tenant: &TenantId,
    filter: &JobFilter,
    page: &PageRequest,
) -> Result<Page<Job>, ListError> {
    let environment = filter.environment.as_ref().map(EnvironmentId::as_str);
    let kind = filter.kind.map(JobKind::as_str);
    let state = filter.state.map(JobState::as_str);
    let list = ListKey::new(&[
        "jobs",
        tenant.as_str(),
        environment.unwrap_or_default(),
        kind.unwrap_or_default(),
        state.unwrap_or_default(),
    ]);
    let before = list
        .read::<JobId>(page.token.as_ref())?
        .map_or(AFTER_ALL_JOBS.to_vec(), |id| rows::job_key(&id).to_vec());
    let size = page_size(page);
    let (tenant_name, limit) = (tenant.as_str(), size + 1);
    let mut values: Vec<&dyn ToSql> = vec![&tenant_name, &before];
    values.extend(environment.as_ref().map(|value| value as &dyn ToSql));
    values.extend(kind.as_ref().map(|value| value as &dyn ToSql));
    values.extend(state.as_ref().map(|value| value as &dyn ToSql));
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    values.push(&limit);
    let mut statement = db.prepare_cached(&jobs_statement(filter))?;
    let mut found = statement.query(values.as_slice())?;
    let mut items = Vec::new();
    while let Some(row) = found.next()? {
        let id = rows::job_id(row, 0, "jobs")?;
        items.push(rows::job_of(row, 1, tenant, &id)?);
    }
    Ok(cut(items, size, |job| list.token(job.id)))
}

/// The statement of an environment list.
pub(super) fn environments_statement(filter: &EnvironmentFilter) -> &'static str {
    match filter.phase {
        Some(_) => {
            "SELECT id, record FROM environments WHERE tenant = ? AND id > ? AND phase = ? \
             ORDER BY id LIMIT ?"
        }
        None => {
            "SELECT id, record FROM environments WHERE tenant = ? AND id > ? \
             AND phase <> 'deleted' ORDER BY id LIMIT ?"
        }
    }
}

/// Environments by id.
pub(super) fn environments(
    db: &Connection,
    tenant: &TenantId,
    filter: &EnvironmentFilter,
    page: &PageRequest,
) -> Result<Page<Environment>, ListError> {
    let phase = filter.phase.map(Phase::as_str);
    let list = ListKey::new(&["environments", tenant.as_str(), phase.unwrap_or_default()]);
    let after = list.read::<EnvironmentId>(page.token.as_ref())?;
    let after = after.as_ref().map_or("", EnvironmentId::as_str);
    let size = page_size(page);
    let (tenant_name, limit) = (tenant.as_str(), i64::try_from(size + 1).unwrap_or(i64::MAX));
    let mut values: Vec<&dyn ToSql> = vec![&tenant_name, &after];
    values.extend(phase.as_ref().map(|value| value as &dyn ToSql));
    values.push(&limit);
    let mut statement = db.prepare_cached(environments_statement(filter))?;
    let mut found = statement.query(values.as_slice())?;
    let mut items: Vec<Environment> = Vec::new();
    while let Some(row) = found.next()? {
        let id: EnvironmentId = rows::text_id(row, 0, "environments")?;
        items.push(rows::from_json(
            row.get_ref(1)?,
            "environments",
            format_args!("{tenant}/{id}"),
        )?);
    }
    Ok(cut(items, size, |environment| list.token(&environment.id)))
}

/// Artifacts, newest first.
pub(super) fn artifacts(
    db: &Connection,
    tenant: &TenantId,
    page: &PageRequest,
) -> Result<Page<Artifact>, ListError> {
    let list = ListKey::new(&["artifacts", tenant.as_str()]);
    let before = list.read::<(i64, ArtifactId)>(page.token.as_ref())?;
    let (time, id) = before
        .as_ref()
        .map_or((i64::MAX, ""), |(time, id)| (*time, id.as_str()));
    let size = page_size(page);
    let mut statement = db.prepare_cached(
        "SELECT id, record FROM artifacts WHERE tenant = ?1 AND (created_at, id) < (?2, ?3) \
         ORDER BY created_at DESC, id DESC LIMIT ?4",
    )?;
    let limit = i64::try_from(size + 1).unwrap_or(i64::MAX);
    let mut found = statement.query(params![tenant.as_str(), time, id, limit])?;
    let mut items: Vec<Artifact> = Vec::new();
    while let Some(row) = found.next()? {
        let id: ArtifactId = rows::text_id(row, 0, "artifacts")?;
        items.push(rows::from_json(
            row.get_ref(1)?,
            "artifacts",
            format_args!("{tenant}/{id}"),
        )?);
    }
    Ok(cut(items, size, |artifact| {
        list.token((rows::micros(artifact.created_at), &artifact.id))
    }))
}

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
    let mut found = statement.query(params![phase.as_str(), tenant, id, limit])?;
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sqlite::{prune, schema};

    /// Every statement that must not slow down with what has ended: answered by an index in its order.
    #[test]
    fn no_list_scans_or_sorts() {
        let folder = tempfile::tempdir().expect("a folder");
        let db = schema::open_writer(&folder.path().join("db")).expect("opens");
        let environments = [None, Some(EnvironmentId::new("e").expect("an id"))];
        let mut statements: Vec<String> = Vec::new();
        for environment in environments {
            for (kind, state) in [
                (None, None),
                (Some(JobKind::Exec), None),
                (None, Some(JobState::Failed)),
            ] {
                statements.push(jobs_statement(&JobFilter {
                    environment: environment.clone(),
                    kind,
                    state,
                }));
            }
        }
        for phase in [None, Some(Phase::Running)] {
            statements.push(environments_statement(&EnvironmentFilter { phase }).to_owned());
        }
        statements.extend([ENVIRONMENTS_IN, RUNNABLE, HELD, prune::PAST].map(str::to_owned));
        for sql in statements {
            let mut explained = db
                .prepare(&format!("EXPLAIN QUERY PLAN {sql}"))
                .expect("a statement");
            let values = vec![rusqlite::types::Null; explained.parameter_count()];
            let steps: Vec<String> = explained
                .query_map(rusqlite::params_from_iter(values), |row| row.get(3))
                .expect("a plan")
                .collect::<Result<_, _>>()
                .expect("a plan");
            let plan = steps.join("; ");
            assert!(
                !plan.contains("SCAN") && !plan.contains("TEMP B-TREE"),
                "{sql}: {plan}"
            );
        }
    }
}
