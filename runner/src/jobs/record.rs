//! Job records on disk, so that a later incarnation can say what became of the jobs of this one.
//!
//! One file per job, `ID.rec`: the SHA-256 of the rest, then the record. It is replaced by a rename, so a reader sees an
//! old or a new one. Nothing is synced: what ends the machine ends the environment.
//! A file that cannot be read still says that its job was started, which is what matters most.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use prost::Message;
use sha2::{Digest, Sha256};

use crate::ids::JobId;
use crate::proto::JobRecord;

const DIGEST_BYTES: usize = 32;

/// A record with what only the runner needs to know.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct StoredJob {
    #[prost(message, optional, tag = "1")]
    pub(crate) record: Option<JobRecord>,
    #[prost(uint64, tag = "2")]
    pub(crate) stdout_released: u64,
    #[prost(uint64, tag = "3")]
    pub(crate) stderr_released: u64,
}

/// The folder of records and logs.
#[derive(Clone, Debug)]
pub(crate) struct Folder(PathBuf);

impl Folder {
    /// Opens the folder below the state folder, making what is missing, for this user alone.
    pub(crate) fn open(state: &Path) -> io::Result<Self> {
        let path = state.join("jobs");
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&path)?;
        Ok(Self(path))
    }

    /// Where the log of a stream is: `kind` is `out` or `err`.
    pub(crate) fn log(&self, job: &JobId, kind: &str) -> PathBuf {
        self.0.join(format!("{job}.{kind}"))
    }

    fn record(&self, job: &JobId) -> PathBuf {
        self.0.join(format!("{job}.rec"))
    }

    /// Replaces the record of a job.
    pub(crate) fn write(&self, job: &JobId, stored: &StoredJob) -> io::Result<()> {
        let body = stored.encode_to_vec();
        let mut bytes = Sha256::digest(&body).to_vec();
        bytes.extend(body);
        let temporary = self.0.join(format!("{job}.new"));
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600);
        let written = options
            .open(&temporary)
            .and_then(|mut file| file.write_all(&bytes));
        let replaced = written.and_then(|()| fs::rename(&temporary, self.record(job)));
        if replaced.is_err() {
            // The error that matters is the first one.
            let _ = fs::remove_file(&temporary);
        }
        replaced
    }

    /// Deletes the record of a job, if there is one.
    pub(crate) fn delete(&self, job: &JobId) {
        // A leftover is deleted at the next start, when its tombstone is found.
        let _ = fs::remove_file(self.record(job));
    }

    /// All jobs with a record. What is in a record that cannot be read is `None`. Foreign files are passed over.
    pub(crate) fn read_all(&self) -> io::Result<Vec<(JobId, Option<StoredJob>)>> {
        let mut jobs = Vec::new();
        for entry in fs::read_dir(&self.0)? {
            let name = entry?.file_name();
            let id = name
                .to_str()
                .and_then(|name| name.strip_suffix(".rec"))
                .and_then(|id| JobId::new(id).ok());
            if let Some(id) = id {
                let stored = read(&self.record(&id)).filter(|stored| names(stored, &id));
                jobs.push((id, stored));
            }
        }
        Ok(jobs)
    }
}

fn names(stored: &StoredJob, id: &JobId) -> bool {
    stored
        .record
        .as_ref()
        .is_some_and(|record| record.job_id == id.as_str())
}

fn read(path: &Path) -> Option<StoredJob> {
    let bytes = fs::read(path).ok()?;
    let (digest, body) = bytes.split_at_checked(DIGEST_BYTES)?;
    if Sha256::digest(body).as_slice() != digest {
        return None;
    }
    StoredJob::decode(body).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_come_back_and_garbage_still_names_its_job() {
        let state = tempfile::tempdir().unwrap();
        let folder = Folder::open(state.path()).unwrap();
        let stored = |id: &JobId| StoredJob {
            record: Some(JobRecord {
                job_id: id.to_string(),
                fence: 7,
                ..JobRecord::default()
            }),
            stdout_released: 3,
            stderr_released: 0,
        };
        let ids = ["good", "torn", "empty", "other"].map(|id| JobId::new(id).unwrap());
        for id in &ids {
            folder.write(id, &stored(id)).unwrap();
        }
        let torn = fs::read(folder.record(&ids[1])).unwrap();
        fs::write(folder.record(&ids[1]), &torn[..torn.len() - 1]).unwrap();
        fs::write(folder.record(&ids[2]), "").unwrap();
        fs::copy(folder.record(&ids[0]), folder.record(&ids[3])).unwrap();
        fs::write(folder.0.join("README"), "foreign").unwrap();
        fs::write(folder.0.join("a b.rec"), "foreign").unwrap();

        let mut found = folder.read_all().unwrap();
        found.sort_by(|one, other| one.0.cmp(&other.0));
        let expected = [
            ("empty", None),
            ("good", Some(stored(&ids[0]))),
            ("other", None),
            ("torn", None),
        ];
        assert_eq!(
            found,
            expected.map(|(id, stored)| (JobId::new(id).unwrap(), stored))
        );
        folder.delete(&ids[0]);
        assert_eq!(folder.read_all().unwrap().len(), 3);
    }
}
