//! A job's output: two byte streams, each addressed by the offset of its bytes.
//!
//! ```text
//!   0                    head            tail_start         total
//!   ├──── kept ───────────┤─── dropped ───┤────── kept ───────┤
//! ```
//!
//! Nothing was dropped where `head == tail_start`. Chunks are immutable: a chunk of the same job, stream and start is
//! the same chunk, so that writing it again changes nothing.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// Which of the two streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// Bytes of one stream from an offset on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunk {
    /// The stream.
    pub stream: Stream,
    /// Offset of the first byte in the stream.
    pub start: u64,
    /// The bytes; never empty.
    pub data: Bytes,
}

impl Chunk {
    /// Offset after the last byte.
    pub fn end(&self) -> u64 {
        self.start + self.data.len() as u64
    }
}

/// An offset in each stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash, Serialize, Deserialize)]
pub struct Offsets {
    /// In standard output, in bytes.
    pub stdout: u64,
    /// In standard error, in bytes.
    pub stderr: u64,
}

impl Offsets {
    /// The offset in one stream.
    pub fn of(&self, stream: Stream) -> u64 {
        match stream {
            Stream::Stdout => self.stdout,
            Stream::Stderr => self.stderr,
        }
    }

    /// The offset in one stream, to be set.
    pub fn of_mut(&mut self, stream: Stream) -> &mut u64 {
        match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        }
    }
}

/// What is known of one stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct StreamCounts {
    /// Bytes that the job wrote, as far as is known.
    pub total: u64,
    /// Bytes that the limit dropped.
    pub dropped: u64,
}

/// What is known of a job's output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct OutputCounts {
    /// Standard output.
    pub stdout: StreamCounts,
    /// Standard error.
    pub stderr: StreamCounts,
    /// The rest of the output cannot be known any more: the environment went before all of it was read.
    #[serde(default)]
    pub incomplete: bool,
}

impl OutputCounts {
    /// Whether the limit dropped anything.
    pub fn truncated(&self) -> bool {
        self.stdout.dropped > 0 || self.stderr.dropped > 0
    }

    /// The counts of one stream, to be changed.
    pub fn of_mut(&mut self, stream: Stream) -> &mut StreamCounts {
        match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        }
    }
}
