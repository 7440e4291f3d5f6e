//! Room on the disk that is kept for what gives room back.
//!
//! ```text
//!   -wal   ├── written, now or before ──┤── allocated, never written: the reserve ──┤
//! ```
//!
//! Every commit goes through the write-ahead log, so a commit fits wherever the log has a place for it. The blocks behind
//! its end are taken from the disk ahead of time, and nobody else can have them, however fast an environment fills the
//! disk. Invariant: while fewer than a whole reserve are there, no commit is begun but those that end environments or keep
//! the service itself alive; all others are refused as on a full disk. As soon as there is room the reserve is made whole
//! again.
//!
//! A file system that cannot take blocks ahead of time has no reserve: there every commit is tried.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::Path;

use rustix::fs::{FallocateFlags, fallocate, fstatvfs};
use rustix::io::Errno;

use super::schema::beside;

/// The reserve takes one of so many parts of the disk,
const PART: u64 = 20;

/// but no more than what some hundred commits need,
const MOST_BYTES: u64 = 16 << 20;

/// and on a very small one what a few need.
const LEAST_BYTES: u64 = 1 << 20;

/// The log is lengthened by this part of a reserve at a time.
const STEP: u64 = 4;

/// Bytes of the index of the log: enough for one of 64 MiB. A log that grows must not fail for want of room for its index.
const INDEX_BYTES: u64 = 128 << 10;

/// The reserve of one database. It is kept as long as the connections: a file of the index that is closed before them takes
/// their locks along.
pub(super) struct Reserve {
    log: File,
    _index: Option<File>,
    /// Bytes of a whole reserve; none where the file system cannot keep one.
    size: u64,
    /// Where the log ended when it was looked at.
    written: u64,
    /// Where the blocks end that it has.
    allocated: u64,
    /// Whether it was whole when it was looked at.
    whole: bool,
}

impl Reserve {
    /// Takes the reserve of a database that is open and has a write-ahead log. One that there is no room for is made later.
    pub(super) fn open(db: &Path) -> io::Result<Self> {
        let open = |suffix| {
            OpenOptions::new()
                .read(true)
                .write(true)
                .open(beside(db, suffix))
        };
        let log = open("-wal")?;
        let index = open("-shm").ok();
        let disk = fstatvfs(&log)?;
        let part = disk.f_blocks.saturating_mul(disk.f_frsize) / PART;
        let mut reserve = Self {
            log,
            // A file system that has no size, as some in memory have none, is large.
            size: if part == 0 {
                MOST_BYTES
            } else {
                part.clamp(LEAST_BYTES, MOST_BYTES)
            },
            _index: index.inspect(|index| {
                // Where this fails the reserve is the smaller for it.
                let _ = fallocate(index, FallocateFlags::empty(), 0, INDEX_BYTES);
            }),
            written: 0,
            allocated: 0,
            whole: true,
        };
        reserve.is_whole()?;
        Ok(reserve)
    }

    /// Whether there is a whole reserve beyond what commits have needed so far; it is made whole where there is room.
    pub(super) fn is_whole(&mut self) -> io::Result<bool> {
        if self.size == 0 {
            return Ok(true);
        }
        let written = self.log.metadata()?.len();
        if written < self.written {
            // It was cut down, and what was behind its end went with that.
            self.allocated = written;
        }
        self.written = written;
        let was_whole = self.whole;
        self.whole = self.allocated >= written + self.size || self.refill()?;
        match (was_whole, self.whole) {
            (true, false) => tracing::warn!(
                "the disk of the database is full: until there is room only environments are ended"
            ),
            (false, true) => tracing::info!("the disk of the database has room again"),
            _ => {}
        }
        Ok(self.whole)
    }

    /// Takes blocks for a reserve and a step more, or only for a reserve; false where there is no room for that.
    fn refill(&mut self) -> io::Result<bool> {
        for length in [self.size + self.size / STEP, self.size] {
            let missing = (self.written + length).saturating_sub(self.allocated.max(self.written));
            let disk = fstatvfs(&self.log)?;
            if disk.f_bfree.saturating_mul(disk.f_frsize) < missing && disk.f_blocks > 0 {
                continue;
            }
            match fallocate(&self.log, FallocateFlags::KEEP_SIZE, self.written, length) {
                Ok(()) => {
                    self.allocated = self.written + length;
                    return Ok(true);
                }
                Err(Errno::NOSPC | Errno::DQUOT | Errno::FBIG) => {}
                Err(error) => {
                    tracing::warn!(%error, "the disk of the database can keep no room for when it is full");
                    self.size = 0;
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    #[test]
    fn the_reserve_lies_behind_the_end_of_the_log_and_moves_with_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let db = folder.path().join("store.db");
        for suffix in ["-wal", "-shm"] {
            File::create(beside(&db, suffix)).expect("made");
        }
        let mut reserve = Reserve::open(&db).expect("taken");
        if reserve.size == 0 {
            // This file system cannot keep one.
            return;
        }
        let size = reserve.size;
        let mut log = OpenOptions::new()
            .append(true)
            .open(beside(&db, "-wal"))
            .expect("opened");
        for _ in 0..3 {
            log.write_all(&vec![1; usize::try_from(size / 2).expect("small")])
                .expect("written");
            assert!(reserve.is_whole().expect("looked at"));
            let there = log.metadata().expect("there");
            assert!(there.blocks() * 512 >= there.len() + size, "{there:?}");
        }
        log.set_len(0).expect("cut");
        assert!(reserve.is_whole().expect("looked at"));
        let there = log.metadata().expect("there");
        assert_eq!(there.len(), 0);
        assert!(there.blocks() * 512 >= size, "{there:?}");
    }
}
