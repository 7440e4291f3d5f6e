//! What must outlive PID 1, so that a later incarnation can say what became of the jobs of this one.
//!
//! ```text
//! journal      one line per fact, appended: CHECK FACT
//!              FACT   base64 of what is known of one id: floor, tombstone, mark, record
//!              CHECK  the first 16 digits of the SHA-256 of FACT
//! jobs/ID.out  the logs: see `log`
//! jobs/ID.err
//! ```
//! Later lines of an id complete earlier ones: floors rise, a tombstone stays, a record replaces the one before. Lines
//! that do not check (a torn last one, too) are passed over. One small write is a tenth of the time that a file of its
//! own for each record takes, and just as whole. Nothing is synced: what ends the machine ends the environment.
//! When the file has grown large it is written anew with what is known by then, and replaced by a rename.

use std::collections::HashMap;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use data_encoding::{BASE64, HEXLOWER};
use prost::Message;
use sha2::{Digest, Sha256};

use crate::ids::{Fence, JobId};
use crate::proto::JobRecord;

/// Bytes below which a journal is not worth rewriting.
const SMALL: u64 = 1024 * 1024;

const CHECK_DIGITS: usize = 16;

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

/// What is known of one id.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Fact {
    #[prost(string, tag = "1")]
    pub(crate) job_id: String,
    /// Nothing below this fence is accepted; 0 if that is not said here.
    #[prost(uint64, tag = "2")]
    pub(crate) floor: u64,
    /// The job was started and forgotten.
    #[prost(bool, tag = "3")]
    pub(crate) forgotten: bool,
    #[prost(message, optional, tag = "4")]
    pub(crate) stored: Option<StoredJob>,
    /// The incarnation in which a mutation of files has begun under this id; empty if that is not said here.
    #[prost(string, tag = "5")]
    pub(crate) begun: String,
}

/// The open journal.
#[derive(Debug)]
pub(crate) struct Journal {
    path: PathBuf,
    file: File,
    size: u64,
    /// The size from which on it is written anew.
    large: u64,
}

impl Fact {
    /// That nothing of an id is accepted below a fence.
    pub(crate) fn floor(job: &JobId, floor: Fence) -> Self {
        Self {
            job_id: job.to_string(),
            floor: floor.get(),
            ..Self::default()
        }
    }

    /// That a job was started and forgotten.
    pub(crate) fn tombstone(job: &JobId, floor: Fence) -> Self {
        Self {
            forgotten: true,
            ..Self::floor(job, floor)
        }
    }

    /// That a mutation of files has begun.
    pub(crate) fn begun(job: &JobId, incarnation: &str) -> Self {
        Self {
            job_id: job.to_string(),
            begun: incarnation.to_owned(),
            ..Self::default()
        }
    }

    /// What a job's record is now.
    pub(crate) fn record(job: &JobId, stored: StoredJob) -> Self {
        Self {
            job_id: job.to_string(),
            stored: Some(stored),
            ..Self::default()
        }
    }

    fn line(&self) -> Vec<u8> {
        let fact = BASE64.encode(&self.encode_to_vec());
        format!("{} {fact}\n", check(fact.as_bytes())).into_bytes()
    }

    fn parse(line: &[u8]) -> Option<(JobId, Self)> {
        let (digits, fact) = line.split_at_checked(CHECK_DIGITS)?;
        let fact = fact.strip_prefix(b" ")?;
        if check(fact).as_bytes() != digits {
            return None;
        }
        let fact = Self::decode(&*BASE64.decode(fact).ok()?).ok()?;
        Some((JobId::new(&fact.job_id).ok()?, fact))
    }

    fn complete(&mut self, later: Self) {
        self.floor = self.floor.max(later.floor);
        self.forgotten |= later.forgotten;
        if !later.begun.is_empty() {
            self.begun = later.begun;
        }
        if later.stored.is_some() {
            self.stored = later.stored;
        }
    }
}

fn check(fact: &[u8]) -> String {
    let mut digits = HEXLOWER.encode(&Sha256::digest(fact));
    digits.truncate(CHECK_DIGITS);
    digits
}

impl Journal {
    /// Opens the journal in the state folder, making it if it is missing, for this user alone; answers what is in it.
    pub(crate) fn open(state: &Path) -> io::Result<(Self, HashMap<JobId, Fact>)> {
        let path = state.join("journal");
        let mut journal = Self {
            file: open(&path)?,
            path,
            size: 0,
            large: SMALL,
        };
        let bytes = fs::read(&journal.path)?;
        // The next line must not continue a torn one.
        let whole = bytes
            .iter()
            .rposition(|byte| *byte == b'\n')
            .map_or(0, |end| end + 1);
        journal.size = whole as u64;
        if whole < bytes.len() {
            journal.file.set_len(journal.size)?;
        }
        let mut known: HashMap<JobId, Fact> = HashMap::new();
        for (job, fact) in bytes.split(|byte| *byte == b'\n').filter_map(Fact::parse) {
            known.entry(job).or_default().complete(fact);
        }
        Ok((journal, known))
    }

    /// Writes a fact down, whole or not at all.
    pub(crate) fn append(&mut self, fact: &Fact) -> io::Result<()> {
        self.write(&fact.line())
    }

    fn write(&mut self, line: &[u8]) -> io::Result<()> {
        let written = self.file.write_all(line);
        match &written {
            Ok(()) => self.size += line.len() as u64,
            // A full disk may have taken a part. If even that cannot be undone, the check tells.
            Err(_) => drop(self.file.set_len(self.size)),
        }
        written
    }

    /// Whether it is time to write it anew.
    pub(crate) fn is_large(&self) -> bool {
        self.size >= self.large
    }

    /// Writes it anew with these facts alone. On failure the old one stays, and is left to grow further.
    pub(crate) fn rewrite(&mut self, facts: &[Fact]) -> io::Result<()> {
        let bytes: Vec<u8> = facts.iter().flat_map(Fact::line).collect();
        let temporary = self.path.with_extension("new");
        // One that was not finished.
        let _ = fs::remove_file(&temporary);
        let written = open(&temporary).and_then(|mut file| {
            file.write_all(&bytes)?;
            fs::rename(&temporary, &self.path)?;
            Ok(file)
        });
        match written {
            Ok(file) => {
                (self.file, self.size) = (file, bytes.len() as u64);
                self.large = SMALL.max(self.size.saturating_mul(2));
                Ok(())
            }
            Err(error) => {
                self.large = self.size.saturating_mul(2);
                Err(error)
            }
        }
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path)
}

/// The folder of logs.
#[derive(Clone, Debug)]
pub(crate) struct Folder(PathBuf);

impl Folder {
    /// Opens the folder below the state folder, making what is missing, for this user alone.
    pub(crate) fn open(state: &Path) -> io::Result<Self> {
        let path = state.join("jobs");
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&path)?;
        Ok(Self(path))
    }

    /// Where the log of a stream is: `kind` is `out` or `err`.
    pub(crate) fn log(&self, job: &JobId, kind: &str) -> PathBuf {
        self.0.join(format!("{job}.{kind}"))
    }

    /// The jobs that have a log. Foreign files are passed over.
    pub(crate) fn jobs_with_logs(&self) -> io::Result<Vec<JobId>> {
        let mut jobs = Vec::new();
        for entry in fs::read_dir(&self.0)? {
            let name = entry?.file_name();
            let id = name.to_str().and_then(|name| {
                name.strip_suffix(".out")
                    .or_else(|| name.strip_suffix(".err"))
            });
            jobs.extend(id.and_then(|id| JobId::new(id).ok()));
        }
        jobs.sort();
        jobs.dedup();
        Ok(jobs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(id: &str) -> JobId {
        JobId::new(id).unwrap()
    }

    fn fence(fence: u64) -> Fence {
        Fence::new(fence).unwrap()
    }

    fn stored(duration_ms: u64) -> StoredJob {
        let record = JobRecord {
            duration_ms,
            ..JobRecord::default()
        };
        StoredJob {
            record: Some(record),
            stdout_released: 3,
            stderr_released: 0,
        }
    }

    #[test]
    fn facts_add_up_and_survive_torn_and_garbled_lines() {
        let state = tempfile::tempdir().unwrap();
        let (mut journal, known) = Journal::open(state.path()).unwrap();
        assert!(known.is_empty());
        let written = [
            Fact::floor(&job("a"), fence(9)),
            Fact::floor(&job("a"), fence(4)),
            Fact::record(&job("a"), stored(1)),
            Fact::record(&job("a"), stored(2)),
            Fact::tombstone(&job("b"), fence(2)),
            Fact::record(&job("torn"), stored(5)),
        ];
        for fact in &written {
            journal.append(fact).unwrap();
        }
        let mut bytes = fs::read(&journal.path).unwrap();
        bytes.truncate(bytes.len() - 3);
        let mut garbled = Fact::floor(&job("garbled"), fence(1)).line();
        garbled[20] ^= 1;
        fs::write(
            &journal.path,
            [garbled, b"nonsense\n\n".to_vec(), bytes].concat(),
        )
        .unwrap();

        let (mut journal, _) = Journal::open(state.path()).unwrap();
        journal.append(&Fact::floor(&job("c"), fence(1))).unwrap();
        let (mut journal, known) = Journal::open(state.path()).unwrap();
        let a = Fact {
            floor: 9,
            stored: Some(stored(2)),
            ..Fact::floor(&job("a"), fence(9))
        };
        let mut expected = HashMap::from([(job("a"), a), (job("b"), written[4].clone())]);
        expected.insert(job("c"), Fact::floor(&job("c"), fence(1)));
        for (id, fact) in &known {
            assert_eq!(
                (fact.floor, fact.forgotten),
                (expected[id].floor, expected[id].forgotten),
                "{id}"
            );
            assert_eq!(fact.stored, expected[id].stored, "{id}");
        }
        assert_eq!(known.len(), expected.len());

        journal.rewrite(&written[4..5]).unwrap();
        journal.append(&written[0]).unwrap();
        let (_, known) = Journal::open(state.path()).unwrap();
        assert_eq!(
            (
                known.len(),
                known[&job("a")].floor,
                known[&job("b")].forgotten
            ),
            (2, 9, true)
        );
    }

    #[test]
    fn it_asks_to_be_rewritten_when_it_is_large() {
        let state = tempfile::tempdir().unwrap();
        let (mut journal, _) = Journal::open(state.path()).unwrap();
        let fact = Fact::record(&job("a"), stored(1));
        while !journal.is_large() {
            journal.append(&fact).unwrap();
        }
        assert!(fs::metadata(&journal.path).unwrap().len() >= SMALL);
        journal.rewrite(std::slice::from_ref(&fact)).unwrap();
        assert!(!journal.is_large());
        assert_eq!(fs::read(&journal.path).unwrap(), fact.line());
    }
}
