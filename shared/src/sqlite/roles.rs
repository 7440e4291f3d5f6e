//! Heartbeats, and roles of which there is one holder.

use rusqlite::{Connection, OptionalExtension, params};

use super::rows;
use crate::ids::{Fence, WorkerId};
use crate::lease::Beat;
use crate::ports::{RoleHolder, StoreError};

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
