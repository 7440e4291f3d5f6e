//! Standard input that waits for an environment: pieces by offset, and how far they are.
//!
//! Pieces follow each other without a gap from `taken` or before it to `accepted`.

use bytes::{Bytes, BytesMut};
use rusqlite::{Connection, OptionalExtension, params};

use super::writer::Commit;
use super::{leases, rows};
use crate::ids::{Fence, JobRef};
use crate::ports::{StdinError, StoreError};
use crate::stdin::{Intake, StdinWrite, Waiting};

impl From<rusqlite::Error> for StdinError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Store(error.into())
    }
}

/// Accepts bytes; the offset after the last one accepted.
pub(super) fn write(
    commit: &mut Commit<'_>,
    at: &JobRef,
    write: StdinWrite,
) -> Result<u64, StdinError> {
    let job = rows::job(commit.db, at)?.ok_or(StdinError::NoSuchJob)?;
    let before = intake(commit.db, at)?.unwrap_or_else(|| Intake::at_first(&job));
    let accepted = before.offer(&job, write)?;
    if !accepted.news.is_empty() {
        commit
            .db
            .prepare_cached(
                "INSERT INTO stdin (tenant, job, start, finish, data) VALUES (?1, ?2, ?3, ?4, ?5)",
            )?
            .execute(params![
                at.tenant.as_str(),
                rows::job_key(&at.job),
                rows::number(before.accepted),
                rows::number(accepted.intake.accepted),
                accepted.news.as_ref(),
            ])?;
    }
    if accepted.intake != before {
        put_intake(commit, at, accepted.intake)?;
        commit.touch(at.clone());
    }
    Ok(accepted.intake.accepted)
}

/// What waits from an offset on.
pub(super) fn waiting(
    db: &Connection,
    at: &JobRef,
    from: u64,
    limit: u64,
) -> Result<Waiting, StoreError> {
    let intake = match intake(db, at)? {
        Some(intake) => intake,
        None => match rows::job(db, at)? {
            Some(job) => Intake::at_first(&job),
            None => return Ok(Waiting::default()),
        },
    };
    let start = from.max(intake.taken);
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let mut data = BytesMut::new();
    let mut statement = db.prepare_cached(
        "SELECT start, data FROM stdin WHERE tenant = ?1 AND job = ?2 AND start >= coalesce(\
             (SELECT max(start) FROM stdin WHERE tenant = ?1 AND job = ?2 AND start <= ?3), 0) \
         ORDER BY start",
    )?;
    let mut found = statement.query(params![
        at.tenant.as_str(),
        rows::job_key(&at.job),
        rows::number(start)
    ])?;
    while data.len() < limit
        && let Some(row) = found.next()?
    {
        let piece_start = rows::column::<i64>(row, 0, "stdin")?.unsigned_abs();
        let piece: Vec<u8> = rows::column(row, 1, "stdin")?;
        let next = start + data.len() as u64;
        let skip = usize::try_from(next.saturating_sub(piece_start)).unwrap_or(usize::MAX);
        let piece = piece.get(skip..).unwrap_or_default();
        data.extend_from_slice(&piece[..piece.len().min(limit - data.len())]);
    }
    let end = start + data.len() as u64;
    Ok(Waiting {
        start,
        data: Bytes::from(data),
        closed: intake.closed && end >= intake.accepted,
    })
}

/// Notes what the environment has, and drops it.
pub(super) fn taken(
    commit: &mut Commit<'_>,
    at: &JobRef,
    fence: Fence,
    upto: u64,
    broken: bool,
) -> Result<(), StoreError> {
    let job = leases::held_job(commit.db, at)?;
    job.guard(fence).map_err(leases::fenced)?;
    let before = intake(commit.db, at)?.unwrap_or_else(|| Intake::at_first(&job));
    let after = before.took(upto, broken);
    if after == before {
        return Ok(());
    }
    commit
        .db
        .prepare_cached("DELETE FROM stdin WHERE tenant = ?1 AND job = ?2 AND finish <= ?3")?
        .execute(params![
            at.tenant.as_str(),
            rows::job_key(&at.job),
            rows::number(after.taken)
        ])?;
    put_intake(commit, at, after)?;
    commit.touch(at.clone());
    Ok(())
}

/// Drops what waits of the input of a job that has ended. How far it was stays as long as the job, so that a repeated
/// write is known.
pub(super) fn drop_waiting(commit: &mut Commit<'_>, at: &JobRef) -> Result<(), StoreError> {
    let waiting = "DELETE FROM stdin WHERE tenant = ?1 AND job = ?2";
    remove(commit, at, waiting)
}

/// Drops all that is kept of a job's input.
pub(super) fn forget(commit: &mut Commit<'_>, at: &JobRef) -> Result<(), StoreError> {
    drop_waiting(commit, at)?;
    let intake = "DELETE FROM stdin_intakes WHERE tenant = ?1 AND job = ?2";
    remove(commit, at, intake)
}

fn remove(commit: &mut Commit<'_>, at: &JobRef, sql: &str) -> Result<(), StoreError> {
    commit
        .db
        .prepare_cached(sql)?
        .execute(params![at.tenant.as_str(), rows::job_key(&at.job)])?;
    Ok(())
}

fn intake(db: &Connection, at: &JobRef) -> Result<Option<Intake>, StoreError> {
    let number = |row: &rusqlite::Row<'_>, index| row.get(index).map(i64::unsigned_abs);
    Ok(db
        .prepare_cached(
            "SELECT accepted, taken, closed, broken FROM stdin_intakes \
             WHERE tenant = ?1 AND job = ?2",
        )?
        .query_row(params![at.tenant.as_str(), rows::job_key(&at.job)], |row| {
            Ok(Intake {
                accepted: number(row, 0)?,
                taken: number(row, 1)?,
                closed: row.get(2)?,
                broken: row.get(3)?,
            })
        })
        .optional()?)
}

fn put_intake(commit: &mut Commit<'_>, at: &JobRef, intake: Intake) -> Result<(), StoreError> {
    commit
        .db
        .prepare_cached(
            "INSERT INTO stdin_intakes (tenant, job, accepted, taken, closed, broken) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6) ON CONFLICT (tenant, job) DO UPDATE SET \
             accepted = excluded.accepted, taken = excluded.taken, \
             closed = excluded.closed, broken = excluded.broken",
        )?
        .execute(params![
            at.tenant.as_str(),
            rows::job_key(&at.job),
            rows::number(intake.accepted),
            rows::number(intake.taken),
            intake.closed,
            intake.broken,
        ])?;
    Ok(())
}
