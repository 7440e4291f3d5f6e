//! Opening the file: its mode, its pragmas, its migrations.
//!
//! A migration is a file in `migrations/`, numbered from 1 and never changed once released. Each is applied in one
//! transaction together with `user_version`, so that a crash leaves either the one version or the other.

use std::fs::{File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, OpenFlags, Transaction, TransactionBehavior};

use super::rows;
use crate::ids::InstanceId;
use crate::ports::StoreError;

const MIGRATIONS: [&str; 4] = [
    include_str!("migrations/0001_first.sql"),
    include_str!("migrations/0002_input_labels_lifetimes.sql"),
    include_str!("migrations/0003_orphans.sql"),
    include_str!("migrations/0004_keys.sql"),
];

/// How long a statement waits for another process, such as a backup.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

const STATEMENTS_KEPT: usize = 128;

/// Length of the write-ahead log at which a commit copies it into the file: 16 MiB.
const CHECKPOINT_PAGES: u32 = 4096;

/// What the write-ahead log is cut down to once it was larger, in bytes.
const WAL_KEPT_BYTES: u32 = 64 << 20;

/// Opens the one connection that writes; makes or migrates the database.
pub(super) fn open_writer(path: &Path) -> Result<Connection, StoreError> {
    keep_private(path).map_err(|error| {
        StoreError::Unavailable(format!("{} cannot be opened: {error}", path.display()))
    })?;
    let mut db = connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    let mode: String = db.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0))?;
    if mode != "wal" {
        return Err(StoreError::Unavailable(format!(
            "{} cannot have a write-ahead log: its journal mode stays {mode}",
            path.display()
        )));
    }
    db.pragma_update(None, "synchronous", "FULL")?;
    // What a savepoint may have to undo stays in memory.
    db.pragma_update(None, "temp_store", "MEMORY")?;
    db.pragma_update(None, "cache_size", -8192)?;
    db.pragma_update(None, "wal_autocheckpoint", CHECKPOINT_PAGES)?;
    db.pragma_update(None, "journal_size_limit", WAL_KEPT_BYTES)?;
    migrate(&mut db)?;
    Ok(db)
}

/// Opens a connection that can only read.
pub(super) fn open_reader(path: &Path) -> Result<Connection, StoreError> {
    connect(path, OpenFlags::SQLITE_OPEN_READ_ONLY)
}

fn connect(path: &Path, access: OpenFlags) -> Result<Connection, StoreError> {
    let db = Connection::open_with_flags(path, access | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    db.busy_timeout(BUSY_TIMEOUT)?;
    db.set_prepared_statement_cache_capacity(STATEMENTS_KEPT);
    Ok(db)
}

/// Makes the file, for its owner alone, or makes an existing one so. SQLite gives `-wal` and `-shm` the file's mode.
fn keep_private(path: &Path) -> io::Result<()> {
    let made = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path);
    match made {
        Ok(file) => {
            file.sync_all()?;
            match path.parent() {
                Some(folder) if !folder.as_os_str().is_empty() => File::open(folder)?.sync_all(),
                _ => Ok(()),
            }
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            for file in [path.to_owned(), beside(path, "-wal"), beside(path, "-shm")] {
                match std::fs::set_permissions(&file, Permissions::from_mode(0o600)) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                    _ => {}
                }
            }
            Ok(())
        }
        Err(error) => Err(error),
    }
}

/// The path of a file that SQLite keeps beside the database.
pub(super) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

fn migrate(db: &mut Connection) -> Result<(), StoreError> {
    let version = version(db)?;
    if version > MIGRATIONS.len() {
        return Err(StoreError::Unavailable(format!(
            "the database has schema version {version} and this program knows versions up to {}: use a newer program",
            MIGRATIONS.len()
        )));
    }
    for (index, migration) in MIGRATIONS.iter().enumerate().skip(version) {
        let step = Transaction::new(db, TransactionBehavior::Immediate)?;
        step.execute_batch(migration)?;
        step.pragma_update(
            None,
            "user_version",
            i64::try_from(index + 1).unwrap_or(i64::MAX),
        )?;
        step.commit()?;
    }
    Ok(())
}

fn version(db: &Connection) -> Result<usize, StoreError> {
    let version: i64 = db.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    usize::try_from(version)
        .map_err(|_| StoreError::Corrupt(format!("the database has schema version {version}")))
}

/// The installation's id: the one in the file, or this new one.
pub(super) fn instance(db: &Connection, new: &InstanceId) -> Result<InstanceId, StoreError> {
    db.execute(
        "INSERT INTO meta (name, value) VALUES ('instance', ?1) ON CONFLICT DO NOTHING",
        [new.as_str()],
    )?;
    let kept: String = db.query_row(
        "SELECT value FROM meta WHERE name = 'instance'",
        [],
        |row| row.get(0),
    )?;
    InstanceId::new(kept).map_err(|error| rows::corrupt("meta", "instance", error))
}

/// A write that changes nothing of meaning: it fails where writing does.
pub(super) fn probe(db: &Connection) -> Result<(), StoreError> {
    db.prepare_cached(
        "INSERT INTO meta (name, value) VALUES ('probe', '1') \
         ON CONFLICT (name) DO UPDATE SET value = CASE value WHEN '1' THEN '2' ELSE '1' END",
    )?
    .execute([])?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A kill of the process shows none of this: only a loss of power does.
    #[test]
    fn every_commit_is_on_the_disk_before_it_is_told() {
        let folder = tempfile::tempdir().expect("a folder");
        let db = open_writer(&folder.path().join("store.db")).expect("opens");
        let mode: String = db
            .query_row("PRAGMA journal_mode", [], |row| row.get(0))
            .expect("a mode");
        let synchronous: i64 = db
            .query_row("PRAGMA synchronous", [], |row| row.get(0))
            .expect("a number");
        // 2 is FULL.
        assert_eq!((mode.as_str(), synchronous), ("wal", 2));
    }
}
