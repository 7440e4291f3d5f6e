//! Lists: pages in a stable order.
//!
//! A page ends with the key of its last item, and the next begins after that key, so that rows which come or go between
//! two pages neither repeat nor hide another.

use rusqlite::{Connection, ToSql, params};

use super::rows;
use super::tokens::ListKey;
use crate::artifact::Artifact;
use crate::environment::{Environment, Phase};
use crate::ids::{ArtifactId, EnvironmentId, JobId, TenantId};
use crate::job::{Job, JobKind, JobState};
use crate::ports::{EnvironmentFilter, JobFilter, Label, ListError, Page, PageRequest};

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
    if filter.label.is_some() {
        let environment = match filter.environment {
            Some(_) => " AND marked.environment = ?",
            None => "",
        };
        return format!(
            "SELECT jobs.id, jobs.record FROM job_labels AS marked CROSS JOIN jobs \
             ON jobs.tenant = marked.tenant AND jobs.id = marked.job \
             WHERE marked.tenant = ? AND marked.job < ?{environment} \
             AND marked.name = ? AND marked.value = ? AND jobs.hidden = 0 \
             ORDER BY marked.job DESC LIMIT ?"
        );
    }
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

/// Jobs, newest first. A label counts before kind and state, which callers do not combine with it.
pub(super) fn jobs(
    db: &Connection,
    tenant: &TenantId,
    filter: &JobFilter,
    page: &PageRequest,
) -> Result<Page<Job>, ListError> {
    let environment = filter.environment.as_ref().map(EnvironmentId::as_str);
    let label = label_parts(filter.label.as_ref());
    let kind = filter.kind.map(JobKind::as_str);
    let state = filter.state.map(JobState::as_str);
    let list = ListKey::new(&[
        "jobs",
        tenant.as_str(),
        environment.unwrap_or_default(),
        kind.unwrap_or_default(),
        state.unwrap_or_default(),
        label.map_or("", |(name, _)| name),
        label.map_or("", |(_, value)| value),
    ]);
    let before = list
        .read::<JobId>(page.token.as_ref())?
        .map_or(AFTER_ALL_JOBS.to_vec(), |id| rows::job_key(&id).to_vec());
    let size = page_size(page);
    let (tenant_name, limit) = (tenant.as_str(), size + 1);
    let mut values: Vec<&dyn ToSql> = vec![&tenant_name, &before];
    values.extend(environment.as_ref().map(|value| value as &dyn ToSql));
    if let Some((name, value)) = &label {
        values.extend([name as &dyn ToSql, value as &dyn ToSql]);
    } else {
        values.extend(kind.as_ref().map(|value| value as &dyn ToSql));
        values.extend(state.as_ref().map(|value| value as &dyn ToSql));
    }
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

fn label_parts(label: Option<&Label>) -> Option<(&str, &str)> {
    label.map(|label| (label.name.as_str(), label.value.as_str()))
}

/// The statement of an environment list.
pub(super) fn environments_statement(filter: &EnvironmentFilter) -> &'static str {
    match (&filter.label, filter.phase) {
        (Some(_), _) => {
            "SELECT environments.id, environments.record FROM environment_labels AS marked \
             CROSS JOIN environments \
             ON environments.tenant = marked.tenant AND environments.id = marked.id \
             WHERE marked.tenant = ? AND marked.id > ? AND marked.name = ? AND marked.value = ? \
             ORDER BY marked.id LIMIT ?"
        }
        (None, Some(_)) => {
            "SELECT id, record FROM environments WHERE tenant = ? AND id > ? AND phase = ? \
             ORDER BY id LIMIT ?"
        }
        (None, None) => {
            "SELECT id, record FROM environments WHERE tenant = ? AND id > ? \
             AND phase <> 'deleted' ORDER BY id LIMIT ?"
        }
    }
}

/// Environments by id. A label counts before a phase, which callers do not combine with it.
pub(super) fn environments(
    db: &Connection,
    tenant: &TenantId,
    filter: &EnvironmentFilter,
    page: &PageRequest,
) -> Result<Page<Environment>, ListError> {
    let phase = filter.phase.map(Phase::as_str);
    let label = label_parts(filter.label.as_ref());
    let list = ListKey::new(&[
        "environments",
        tenant.as_str(),
        phase.unwrap_or_default(),
        label.map_or("", |(name, _)| name),
        label.map_or("", |(_, value)| value),
    ]);
    let after = list.read::<EnvironmentId>(page.token.as_ref())?;
    let after = after.as_ref().map_or("", EnvironmentId::as_str);
    let size = page_size(page);
    let (tenant_name, limit) = (tenant.as_str(), i64::try_from(size + 1).unwrap_or(i64::MAX));
    let mut values: Vec<&dyn ToSql> = vec![&tenant_name, &after];
    if let Some((name, value)) = &label {
        values.extend([name as &dyn ToSql, value as &dyn ToSql]);
    } else {
        values.extend(phase.as_ref().map(|value| value as &dyn ToSql));
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sqlite::{prune, schema, sweeps};

    /// Every statement that must not slow down with what has ended: answered by an index in its order.
    #[test]
    fn no_list_scans_or_sorts() {
        let folder = tempfile::tempdir().expect("a folder");
        let db = schema::open_writer(&folder.path().join("db")).expect("opens");
        let environments = [None, Some(EnvironmentId::new("e").expect("an id"))];
        let label = Label {
            name: "a".to_owned(),
            value: "b".to_owned(),
        };
        let mut statements: Vec<String> = Vec::new();
        for environment in environments {
            for (kind, state, label) in [
                (None, None, None),
                (Some(JobKind::Exec), None, None),
                (None, Some(JobState::Failed), None),
                (None, None, Some(label.clone())),
            ] {
                statements.push(jobs_statement(&JobFilter {
                    environment: environment.clone(),
                    kind,
                    state,
                    label,
                }));
            }
        }
        for (phase, label) in [
            (None, None),
            (Some(Phase::Running), None),
            (None, Some(label)),
        ] {
            let filter = EnvironmentFilter { phase, label };
            statements.push(environments_statement(&filter).to_owned());
        }
        let swept = [
            sweeps::ENVIRONMENTS_IN,
            sweeps::EXPIRED,
            sweeps::LAST_END,
            sweeps::RUNNABLE,
            sweeps::HELD,
            prune::PAST,
            prune::GONE,
        ];
        statements.extend(swept.map(str::to_owned));
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
