//! A command's standard input on its way from callers to its environment, addressed by the offset of its bytes.
//!
//! ```text
//!   0            taken            accepted
//!   ├── inside ────┤── in the store ──┤── the next byte
//! ```
//!
//! It begins with the input that came with the command. Invariants: `taken` never passes `accepted`, and both only grow;
//! what was accepted once is not accepted again, so that a repeated write is a no-op, also after the job's end; at most
//! [`BACKLOG_BYTES`] wait for the environment, however slowly the command reads.

use bytes::{Buf as _, Bytes};

use crate::job::{Job, JobInput};

/// Bytes that may wait for the environment.
pub const BACKLOG_BYTES: u64 = 4 << 20;

/// The largest write, in bytes.
pub const PIECE_BYTES: usize = 256 * 1024;

/// Bytes that a caller adds.
#[derive(Debug, Clone, Default)]
pub struct StdinWrite {
    /// Offset of the first byte; after the last accepted one where it is not given.
    pub offset: Option<u64>,
    /// The bytes: at most [`PIECE_BYTES`].
    pub data: Bytes,
    /// Whether nothing follows them.
    pub eof: bool,
}

/// Why a write is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum StdinRefusal {
    /// The job takes no input beyond what came with it.
    #[error("the job's standard input is not open: ask for it with \"stdin_open\": true")]
    NotOpen,
    /// The job has ended.
    #[error("the job has ended")]
    Ended,
    /// The end was written, or the command reads no more.
    #[error("the job's standard input is closed")]
    Closed,
    /// Bytes between are missing.
    #[error("bytes are missing before that offset: the next one is {0}")]
    Gap(u64),
    /// The command reads more slowly than it is written to: there is room again later.
    #[error("the command has not read what it was sent before")]
    Full,
}

/// How far the input of one job is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Intake {
    /// Offset after the last byte that was accepted.
    pub accepted: u64,
    /// Offset after the last byte that the environment has.
    pub taken: u64,
    /// Whether the end was written.
    pub closed: bool,
    /// Whether nobody reads any more.
    pub broken: bool,
}

/// A write that is accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accepted {
    /// How far the input is then.
    pub intake: Intake,
    /// Those of the bytes that are new; they begin where the input ended before.
    pub news: Bytes,
}

impl Intake {
    /// Of a job to which nobody has written yet: what came with it is the environment's to take.
    pub fn at_first(job: &Job) -> Self {
        let first = match &job.input {
            JobInput::Exec(exec) => exec.stdin.as_ref().map_or(0, |stdin| stdin.len() as u64),
            _ => 0,
        };
        Self {
            accepted: first,
            taken: first,
            closed: false,
            broken: false,
        }
    }

    /// Takes a write to `job`.
    pub fn offer(&self, job: &Job, write: StdinWrite) -> Result<Accepted, StdinRefusal> {
        let open = matches!(&job.input, JobInput::Exec(exec) if exec.stdin_open);
        if !open {
            return Err(StdinRefusal::NotOpen);
        }
        if job.state.is_terminal() && !self.knows(&write) {
            return Err(StdinRefusal::Ended);
        }
        let offset = write.offset.unwrap_or(self.accepted);
        let Some(known) = self.accepted.checked_sub(offset) else {
            return Err(StdinRefusal::Gap(self.accepted));
        };
        let mut news = write.data;
        news.advance(usize::try_from(known).unwrap_or(usize::MAX).min(news.len()));
        let accepted = self.accepted.saturating_add(news.len() as u64);
        if !news.is_empty() {
            if self.closed || self.broken {
                return Err(StdinRefusal::Closed);
            }
            if accepted - self.taken > BACKLOG_BYTES {
                return Err(StdinRefusal::Full);
            }
        }
        let intake = Self {
            accepted,
            closed: self.closed || write.eof,
            ..*self
        };
        Ok(Accepted { intake, news })
    }

    /// Whether there is nothing new in a write.
    fn knows(&self, write: &StdinWrite) -> bool {
        let end = write
            .offset
            .map(|offset| offset.saturating_add(write.data.len() as u64));
        end.is_some_and(|end| end <= self.accepted) && (self.closed || !write.eof)
    }

    /// The environment has all bytes below an offset; `broken` where nobody there reads any more.
    #[must_use]
    pub fn took(&self, upto: u64, broken: bool) -> Self {
        let broken = self.broken || broken;
        let taken = if broken { self.accepted } else { upto };
        Self {
            taken: taken.clamp(self.taken, self.accepted),
            broken,
            ..*self
        }
    }
}

/// Bytes that wait for the environment.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Waiting {
    /// Offset of the first of them: where it was asked for, or later where the environment has more already.
    pub start: u64,
    /// The bytes.
    pub data: Bytes,
    /// Whether the input ends with them.
    pub closed: bool,
}
