//! What the sweep saw without a record.

use rusqlite::{Connection, params};

use super::rows;
use crate::orphan::Orphan;
use crate::ports::StoreError;

/// All of them, by uid.
pub(super) fn orphans(db: &Connection) -> Result<Vec<Orphan>, StoreError> {
    let mut statement = db.prepare_cached("SELECT record, uid FROM orphans ORDER BY uid, kind")?;
    let mut found = statement.query([])?;
    let mut orphans = Vec::new();
    while let Some(row) = found.next()? {
        let uid: String = rows::column(row, 1, "orphans")?;
        orphans.push(rows::from_json(row.get_ref(0)?, "orphans", uid)?);
    }
    Ok(orphans)
}

/// Makes these all that there are.
pub(super) fn note(db: &Connection, orphans: &[Orphan]) -> Result<(), StoreError> {
    db.prepare_cached("DELETE FROM orphans")?.execute([])?;
    let mut statement =
        db.prepare_cached("INSERT INTO orphans (uid, kind, record) VALUES (?1, ?2, ?3)")?;
    for orphan in orphans {
        statement.execute(params![
            orphan.uid.as_str(),
            orphan.kind.as_str(),
            rows::to_json(orphan)?
        ])?;
    }
    Ok(())
}
