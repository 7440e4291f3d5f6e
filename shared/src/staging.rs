//! Where file content waits between the API and a worker: one prefix of the blobs per job.

use crate::ids::{JobRef, TenantId};
use crate::ports::{BlobError, BlobName};

/// The bucket of staged content. Callers cannot publish into it.
pub const STAGING_BUCKET: &str = "staging";

/// Bytes up to which content travels in the job itself.
pub const INLINE_BYTES: usize = 256 * 1024;

/// Bytes of a download's part.
pub const PART_BYTES: usize = 16 * 1024 * 1024;

/// The common beginning of all names that belong to a job.
pub fn prefix(at: &JobRef) -> String {
    format!("{}/{}/", at.tenant, at.job)
}

/// One part of a job's content; an upload has only part 0.
pub fn part(at: &JobRef, number: u32) -> Result<BlobName, BlobError> {
    BlobName::new(STAGING_BUCKET, format!("{}{number:08}", prefix(at)))
}

/// The job that a staged object belongs to; none if its name is not one of [`part`].
pub fn job_of(name: &BlobName) -> Option<JobRef> {
    let mut parts = name.object().split('/');
    let (tenant, job, number) = (parts.next()?, parts.next()?, parts.next()?);
    let staged =
        name.bucket() == STAGING_BUCKET && parts.next().is_none() && number.parse::<u32>().is_ok();
    let at = JobRef {
        tenant: TenantId::new(tenant).ok()?,
        job: job.parse().ok()?,
    };
    staged.then_some(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_names_its_job() {
        let at = JobRef {
            tenant: TenantId::default_tenant(),
            job: "01920000-0000-7000-8000-000000000001"
                .parse()
                .expect("a job id"),
        };
        assert_eq!(job_of(&part(&at, 7).expect("a name")), Some(at));
        let foreign = BlobName::new(STAGING_BUCKET, "a/b").expect("a name");
        assert_eq!(job_of(&foreign), None);
    }
}
