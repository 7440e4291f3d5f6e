//! Where file content waits between the API and a worker: one prefix of the blobs per job.

use crate::ids::JobRef;
use crate::ports::{BlobError, BlobName};

/// The bucket of staged content. Callers cannot publish into it.
pub const STAGING_BUCKET: &str = "staging";

/// Bytes up to which content travels in the job itself.
pub const INLINE_BYTES: usize = 256 * 1024;

/// Bytes of a download's part.
pub const PART_BYTES: usize = 4 * 1024 * 1024;

/// The common beginning of all names that belong to a job.
pub fn prefix(at: &JobRef) -> String {
    format!("{}/{}/", at.tenant, at.job)
}

/// One part of a job's content; an upload has only part 0.
pub fn part(at: &JobRef, number: u32) -> Result<BlobName, BlobError> {
    BlobName::new(STAGING_BUCKET, format!("{}{number:08}", prefix(at)))
}
