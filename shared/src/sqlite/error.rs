//! SQLite's errors in the words of the port.

use rusqlite::ErrorCode;

use crate::ports::StoreError;

/// `SQLITE_IOERR_FSYNC` and `SQLITE_IOERR_DIR_FSYNC`: written whole, but perhaps not to the disk.
const SYNC_FAILURES: [i32; 2] = [1034, 1290];

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        use rusqlite::Error;
        match &error {
            Error::FromSqlConversionFailure(..)
            | Error::IntegralValueOutOfRange(..)
            | Error::InvalidColumnType(..)
            | Error::Utf8Error(..) => Self::Corrupt(error.to_string()),
            Error::SqliteFailure(failure, _) => match failure.code {
                ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase => {
                    Self::Corrupt(error.to_string())
                }
                _ => Self::Unavailable(error.to_string()),
            },
            _ => Self::Unavailable(error.to_string()),
        }
    }
}

/// Why a whole batch of commits failed; it is told to everybody in it.
#[derive(Debug)]
pub(super) enum Failure {
    /// Nothing of it is there.
    Failed(String),
    /// It was written, but may not outlast a crash.
    Unknown(String),
}

impl Failure {
    /// What a failed COMMIT means.
    pub(super) fn of_commit(error: &rusqlite::Error) -> Self {
        match error {
            rusqlite::Error::SqliteFailure(failure, _)
                if SYNC_FAILURES.contains(&failure.extended_code) =>
            {
                Self::Unknown(error.to_string())
            }
            _ => Self::Failed(error.to_string()),
        }
    }

    /// The failure in the words of the port.
    pub(super) fn told(&self) -> StoreError {
        match self {
            Self::Failed(why) => StoreError::Unavailable(why.clone()),
            Self::Unknown(why) => StoreError::Unknown(why.clone()),
        }
    }
}

impl From<rusqlite::Error> for Failure {
    fn from(error: rusqlite::Error) -> Self {
        Self::Failed(error.to_string())
    }
}
