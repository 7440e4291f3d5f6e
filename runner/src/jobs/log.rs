//! The kept output of one stream of one job.
//!
//! ```text
//! stream   0 ─────────── head ┄┄┄ dropped ┄┄┄ tail_start ─── total
//! file     0 ─────────── head ─────────────── head + (total - tail_start)
//!          └ released ┘ (holes)               └ appended when the job ends
//! ```
//! While the job runs, bytes beyond the head are only in a ring of [`TAIL_BYTES`]. The head stops growing for good when
//! the budget that both streams share is used up, or when the disk refuses a write; the job notices neither.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use rustix::fs::FallocateFlags;

use crate::TAIL_BYTES;
use crate::proto::StreamCounts;

/// Bytes that both streams of a job may still keep in their heads.
pub(crate) struct Budget(AtomicU64);

impl Budget {
    pub(crate) fn new(bytes: u64) -> Self {
        Self(AtomicU64::new(bytes))
    }

    /// Takes up to `wanted` bytes; answers how many it got.
    fn take(&self, wanted: u64) -> u64 {
        let before = self
            .0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
                Some(left.saturating_sub(wanted))
            });
        before.unwrap_or_else(|unchanged| unchanged).min(wanted)
    }
}

/// Why nothing can be read at an offset.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LogError {
    #[error("output below offset {0} was released")]
    Released(u64),
    #[error("offset is beyond the output, which ends at {0}")]
    Beyond(u64),
    #[error("the log cannot be read: {0}")]
    Io(#[from] io::Error),
}

/// One stream's log.
pub(crate) struct Log {
    path: PathBuf,
    state: Mutex<State>,
}

struct State {
    head: u64,
    total: u64,
    /// The head grows no more.
    frozen: bool,
    /// No more bytes come, and the tail is readable.
    finished: bool,
    /// Bytes of the file that are the tail; the ring is empty then.
    tail_in_file: u64,
    ring: VecDeque<u8>,
    released: u64,
    file: Option<Arc<File>>,
}

impl Log {
    /// A log without output. The file is made with the first byte.
    pub(crate) fn new(path: PathBuf) -> Self {
        Self::with(path, 0, 0, 0, 0, false)
    }

    /// The log that an earlier incarnation left. Counts are corrected by what is in the file; without counts, all of
    /// the file is head.
    pub(crate) fn recovered(path: PathBuf, counts: Option<StreamCounts>, released: u64) -> Self {
        let in_file = std::fs::metadata(&path).map_or(0, |metadata| metadata.len());
        let counts = counts.unwrap_or(StreamCounts {
            total: in_file,
            head: in_file,
            tail_start: in_file,
        });
        let head = counts.head.min(in_file);
        let total = counts.total.max(head);
        let whole_tail = total - counts.tail_start.clamp(head, total);
        let tail = if head == counts.head && in_file - head >= whole_tail {
            whole_tail
        } else {
            0
        };
        Self::with(path, head, total, tail, released, true)
    }

    fn with(
        path: PathBuf,
        head: u64,
        total: u64,
        tail_in_file: u64,
        released: u64,
        finished: bool,
    ) -> Self {
        let ring = VecDeque::new();
        let state = State {
            head,
            total,
            frozen: finished,
            finished,
            tail_in_file,
            ring,
            released,
            file: None,
        };
        Self {
            path,
            state: Mutex::new(state),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing that holds the lock panics; were it poisoned, its numbers would still be the truth.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is kept and what was written so far.
    pub(crate) fn counts(&self) -> StreamCounts {
        self.state().counts()
    }

    /// How far the holder of the output has let go.
    pub(crate) fn released(&self) -> u64 {
        self.state().released
    }

    /// Adds what the job wrote. Never fails: what cannot be kept is counted.
    pub(crate) fn append(&self, chunk: &[u8], budget: &Budget) {
        let mut state = self.state();
        let length = chunk.len() as u64;
        let mut kept = 0;
        if !state.frozen {
            let granted = budget.take(length);
            kept = self.grow_head(&mut state, chunk.get(..granted as usize).unwrap_or(chunk));
            state.frozen = (kept as u64) < length;
        }
        state.total += length;
        state.keep_in_ring(chunk.get(kept..).unwrap_or_default());
    }

    /// Writes to the end of the head; answers how many bytes the disk took.
    fn grow_head(&self, state: &mut State, chunk: &[u8]) -> usize {
        let mut written = 0;
        while let Some(rest) = chunk.get(written..).filter(|rest| !rest.is_empty()) {
            match self
                .open(state)
                .and_then(|file| file.write_at(rest, state.head))
            {
                Ok(0) => break,
                Ok(count) => {
                    written += count;
                    state.head += count as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
        written
    }

    fn open(&self, state: &mut State) -> io::Result<Arc<File>> {
        if let Some(file) = &state.file {
            return Ok(Arc::clone(file));
        }
        let mut options = OpenOptions::new();
        options
            .read(true)
            .write(true)
            .create(!state.finished)
            .mode(0o600);
        let file = Arc::new(options.open(&self.path)?);
        if !state.finished {
            state.file = Some(Arc::clone(&file));
        }
        Ok(file)
    }

    /// No more bytes come: moves the tail from memory to the file, where it fits, and makes it readable.
    pub(crate) fn finish(&self) {
        let mut state = self.state();
        let ring: Vec<u8> = state.ring.iter().copied().collect();
        if !ring.is_empty() {
            let moved = self
                .open(&mut state)
                .and_then(|file| file.write_all_at(&ring, state.head));
            // On a full disk the tail stays in memory, for as long as this incarnation lasts.
            if moved.is_ok() {
                state.tail_in_file = ring.len() as u64;
                state.ring = VecDeque::new();
            }
        }
        (state.finished, state.frozen, state.file) = (true, true, None);
    }

    /// Checks an offset that a reader wants to start from.
    pub(crate) fn check_offset(&self, offset: u64) -> Result<(), LogError> {
        let state = self.state();
        if offset < state.released {
            Err(LogError::Released(state.released))
        } else if offset > state.total {
            Err(LogError::Beyond(state.total))
        } else {
            Ok(())
        }
    }

    /// Whether [`Self::read`] has something to say about this offset.
    pub(crate) fn has_after(&self, offset: u64) -> bool {
        let state = self.state();
        offset < state.released || state.readable(offset).is_some()
    }

    /// Reads up to `most` kept bytes at or after `offset`, with the offset they are at. `None`: nothing there yet, or
    /// (once finished) nothing more. Blocks on the disk.
    pub(crate) fn read(&self, offset: u64, most: usize) -> Result<Option<(u64, Bytes)>, LogError> {
        let mut state = self.state();
        if offset < state.released {
            return Err(LogError::Released(state.released));
        }
        let Some((start, end)) = state.readable(offset) else {
            return Ok(None);
        };
        let length = usize::try_from(end - start).unwrap_or(usize::MAX).min(most);
        if start >= state.head && !state.ring.is_empty() {
            let skip = usize::try_from(start - state.tail_start()).unwrap_or(usize::MAX);
            return Ok(Some((
                start,
                state.ring.iter().skip(skip).take(length).copied().collect(),
            )));
        }
        let (position, file) = (state.position(start), self.open(&mut state)?);
        drop(state);
        let mut data = vec![0; length];
        file.read_exact_at(&mut data, position)?;
        Ok(Some((start, data.into())))
    }

    /// Frees the disk space below `offset`, as far as it is kept by now.
    pub(crate) fn release(&self, offset: u64) -> io::Result<()> {
        let mut state = self.state();
        let most = if state.finished {
            state.total
        } else {
            state.head
        };
        let until = offset.min(most);
        if until <= state.released {
            return Ok(());
        }
        let (from, to) = (state.position(state.released), state.position(until));
        state.released = until;
        if to == from {
            return Ok(());
        }
        let file = self.open(&mut state)?;
        drop(state);
        match rustix::fs::fallocate(
            &file,
            FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE,
            from,
            to - from,
        ) {
            // A file system without holes keeps the bytes a while longer.
            Ok(()) | Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Deletes the file. Readers that are at it fail.
    pub(crate) fn delete(&self) {
        let mut state = self.state();
        (state.ring, state.file) = (VecDeque::new(), None);
        // It may never have been made.
        let _ = std::fs::remove_file(&self.path);
    }
}

impl State {
    fn tail_start(&self) -> u64 {
        self.total - self.ring.len() as u64 - self.tail_in_file
    }

    fn counts(&self) -> StreamCounts {
        StreamCounts {
            total: self.total,
            head: self.head,
            tail_start: self.tail_start(),
        }
    }

    fn keep_in_ring(&mut self, chunk: &[u8]) {
        let most = TAIL_BYTES as usize;
        let chunk = chunk
            .get(chunk.len().saturating_sub(most)..)
            .unwrap_or_default();
        let excess = (self.ring.len() + chunk.len()).saturating_sub(most);
        self.ring.drain(..excess);
        self.ring.extend(chunk);
    }

    /// The range to read next from `offset` on, within one part of the log.
    fn readable(&self, offset: u64) -> Option<(u64, u64)> {
        if offset < self.head {
            return Some((offset, self.head));
        }
        let start = offset.max(self.tail_start());
        (self.finished && start < self.total).then_some((start, self.total))
    }

    /// Where in the file the byte at a kept offset is; offsets in the gap mean its end.
    fn position(&self, offset: u64) -> u64 {
        if offset <= self.head {
            offset
        } else {
            self.head + offset.saturating_sub(self.tail_start())
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Byte N of the made-up output.
    fn byte_at(offset: u64) -> u8 {
        (offset.wrapping_mul(31) ^ (offset >> 8)) as u8
    }

    fn bytes(from: u64, to: u64) -> Vec<u8> {
        (from..to).map(byte_at).collect()
    }

    /// Reads all that is kept from `offset` on, and checks each byte against its offset.
    fn read_all(log: &Log, mut offset: u64, most: usize) -> u64 {
        let mut served = 0;
        while let Some((at, data)) = log.read(offset, most).unwrap() {
            assert!(at >= offset && !data.is_empty() && data.len() <= most);
            assert_eq!(data, bytes(at, at + data.len() as u64));
            offset = at + data.len() as u64;
            served += data.len() as u64;
        }
        served
    }

    fn check_whole(log: &Log, total: u64, most: usize) {
        let counts = log.counts();
        assert_eq!(counts.total, total);
        assert!(counts.head <= counts.tail_start && counts.tail_start <= total);
        assert!(counts.tail_start == counts.head || total - counts.tail_start == TAIL_BYTES);
        assert_eq!(
            read_all(log, 0, most),
            counts.head + (total - counts.tail_start)
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// What is served and the counts add up to what was written, live, at the end, and after a restart.
        #[test]
        fn served_and_counted_is_what_was_written(
            chunks in proptest::collection::vec(0_u64..90_000, 0..8),
            limit in 0_u64..300_000,
            most in 1_000_usize..80_000,
            released in 0_u64..400_000,
        ) {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("log");
            let (log, budget) = (Log::new(path.clone()), Budget::new(limit));
            let mut total = 0;
            for chunk in chunks {
                log.append(&bytes(total, total + chunk), &budget);
                total += chunk;
                prop_assert_eq!(log.counts().head, total.min(limit));
                prop_assert_eq!(read_all(&log, 0, most), total.min(limit));
            }
            let before = log.counts();
            log.finish();
            prop_assert_eq!(&log.counts(), &before);
            check_whole(&log, total, most);

            let again = Log::recovered(path, Some(log.counts()), 0);
            prop_assert_eq!(again.counts(), log.counts());
            check_whole(&again, total, most);

            again.release(released).unwrap();
            let from = again.released();
            prop_assert_eq!(from, released.min(total));
            prop_assert!(from == 0 || matches!(again.read(from - 1, most), Err(LogError::Released(_))));
            read_all(&again, from, most);
        }
    }

    #[test]
    fn two_streams_share_one_budget() {
        let folder = tempfile::tempdir().unwrap();
        let (out, err) = (
            Log::new(folder.path().join("out")),
            Log::new(folder.path().join("err")),
        );
        let budget = Budget::new(10);
        out.append(&bytes(0, 6), &budget);
        err.append(&bytes(0, 6), &budget);
        out.append(&bytes(6, 7), &budget);
        assert_eq!((out.counts().head, err.counts().head), (6, 4));
        assert_eq!((out.counts().tail_start, err.counts().tail_start), (6, 4));
    }

    #[test]
    fn a_disk_that_refuses_costs_the_job_nothing() {
        // Every write to this device fails with ENOSPC.
        let (log, budget) = (Log::new("/dev/full".into()), Budget::new(1 << 20));
        log.append(&bytes(0, 100_000), &budget);
        log.append(&bytes(100_000, 200_000), &budget);
        log.finish();
        let expected = StreamCounts {
            total: 200_000,
            head: 0,
            tail_start: 200_000 - TAIL_BYTES,
        };
        assert_eq!(log.counts(), expected);
        assert_eq!(read_all(&log, 0, 4096), TAIL_BYTES);
    }

    #[test]
    fn a_file_shorter_than_its_record_is_believed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        std::fs::write(&path, bytes(0, 500)).unwrap();
        let counts = StreamCounts {
            total: 900,
            head: 600,
            tail_start: 800,
        };
        let log = Log::recovered(path.clone(), Some(counts), 0);
        assert_eq!(
            log.counts(),
            StreamCounts {
                total: 900,
                head: 500,
                tail_start: 900
            }
        );
        assert_eq!(read_all(&log, 0, 64), 500);
        let without = Log::recovered(path, None, 0);
        assert_eq!(
            without.counts(),
            StreamCounts {
                total: 500,
                head: 500,
                tail_start: 500
            }
        );
    }
}
