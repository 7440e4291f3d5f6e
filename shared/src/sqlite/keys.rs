//! The keys that open the service.

use rusqlite::{Connection, params};

use super::rows;
use crate::ids::TenantId;
use crate::key::Key;
use crate::ports::StoreError;

/// All of them, by tenant and name.
pub(super) fn keys(db: &Connection) -> Result<Vec<Key>, StoreError> {
    let mut statement =
        db.prepare_cached("SELECT record, tenant, name FROM keys ORDER BY tenant, name")?;
    let mut found = statement.query([])?;
    let mut keys = Vec::new();
    while let Some(row) = found.next()? {
        let tenant: String = rows::column(row, 1, "keys")?;
        let name: String = rows::column(row, 2, "keys")?;
        let key = format!("{tenant}/{name}");
        keys.push(rows::from_json(row.get_ref(0)?, "keys", key)?);
    }
    Ok(keys)
}

/// Adds a key, or puts it in the place of the one of its name.
pub(super) fn put(db: &Connection, key: &Key) -> Result<(), StoreError> {
    db.prepare_cached(
        "INSERT INTO keys (tenant, name, record) VALUES (?1, ?2, ?3) \
         ON CONFLICT (tenant, name) DO UPDATE SET record = excluded.record",
    )?
    .execute(params![key.tenant.as_str(), key.name, rows::to_json(key)?])?;
    Ok(())
}

/// Takes a key away; false if there is none of that name.
pub(super) fn remove(db: &Connection, tenant: &TenantId, name: &str) -> Result<bool, StoreError> {
    let removed = db
        .prepare_cached("DELETE FROM keys WHERE tenant = ?1 AND name = ?2")?
        .execute(params![tenant.as_str(), name])?;
    Ok(removed > 0)
}
