//! A job's standard input: bytes are taken in by offset and written to the pipe as the command reads.
//!
//! The offset counts from the first byte of `StartRequest.stdin`. What was taken in once is not taken in again, so a
//! repeated call is a no-op. At most [`MAX_QUEUED`] bytes (and one call's) wait in memory; a call beyond waits itself.

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::{Buf, Bytes};
use tokio::io::AsyncWriteExt;
use tokio::net::unix::pipe;
use tokio::sync::Notify;

const MAX_QUEUED: usize = 1024 * 1024;

/// Why input was not taken in.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum StdinError {
    #[error("a gap: the next offset is {0}")]
    Gap(u64),
    #[error("standard input is closed")]
    Closed,
}

/// One job's standard input.
pub(crate) struct Stdin {
    queue: Mutex<Queue>,
    /// There is something to write, or the end was reached.
    more: Notify,
    /// There is room again, or nobody reads any more.
    room: Notify,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Bytes>,
    queued: usize,
    /// Bytes taken in since the start.
    accepted: u64,
    /// The end of file was asked for.
    at_end: bool,
    /// Nobody reads any more: the command closed it or ended.
    broken: bool,
}

impl Stdin {
    /// Input that starts with `first`, and ends with it unless it is left `open`.
    pub(crate) fn new(first: Bytes, open: bool) -> Self {
        let mut queue = Queue {
            at_end: !open,
            ..Queue::default()
        };
        queue.push(first);
        Self {
            queue: Mutex::new(queue),
            more: Notify::new(),
            room: Notify::new(),
        }
    }

    /// Input that takes nothing.
    pub(crate) fn closed() -> Self {
        let stdin = Self::new(Bytes::new(), false);
        stdin.end();
        stdin
    }

    /// Whether a command would see anything but an end of file at once.
    pub(crate) fn is_empty(&self) -> bool {
        let queue = self.queue();
        queue.waiting.is_empty() && queue.at_end
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        // Nothing that holds the lock panics.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in bytes at an offset; answers the next offset. Waits while too much is queued. Dropping the call takes
    /// in nothing.
    pub(crate) async fn write(
        &self,
        offset: u64,
        data: &Bytes,
        eof: bool,
    ) -> Result<u64, StdinError> {
        loop {
            let room = self.room.notified();
            if let Some(next) = self.queue().offer(offset, data, eof)? {
                self.more.notify_one();
                return Ok(next);
            }
            room.await;
        }
    }

    /// Nobody reads any more.
    pub(crate) fn end(&self) {
        let mut queue = self.queue();
        queue.broken = true;
        queue.waiting.clear();
        drop(queue);
        self.more.notify_one();
        self.room.notify_waiters();
    }

    /// Feeds the pipe until the end of the input, or until the command reads no more.
    pub(crate) async fn feed(&self, pipe: OwnedFd) -> io::Result<()> {
        let mut pipe = pipe::Sender::from_owned_fd(pipe)?;
        while let Some(piece) = self.next_piece().await {
            if pipe.write_all(&piece).await.is_err() {
                self.end();
                break;
            }
            self.queue().queued -= piece.len();
            self.room.notify_waiters();
        }
        Ok(())
    }

    async fn next_piece(&self) -> Option<Bytes> {
        loop {
            {
                let mut queue = self.queue();
                if let Some(piece) = queue.waiting.pop_front() {
                    return Some(piece);
                }
                if queue.at_end || queue.broken {
                    return None;
                }
            }
            self.more.notified().await;
        }
    }
}

impl Queue {
    fn push(&mut self, data: Bytes) {
        if !data.is_empty() {
            self.accepted += data.len() as u64;
            self.queued += data.len();
            self.waiting.push_back(data);
        }
    }

    /// The next offset if the bytes are in now, `None` if there is no room for them yet.
    fn offer(&mut self, offset: u64, data: &Bytes, eof: bool) -> Result<Option<u64>, StdinError> {
        if self.broken {
            return Err(StdinError::Closed);
        }
        let Some(known) = self.accepted.checked_sub(offset) else {
            return Err(StdinError::Gap(self.accepted));
        };
        let mut news = data.clone();
        news.advance(usize::try_from(known).unwrap_or(usize::MAX).min(data.len()));
        if self.at_end && !news.is_empty() {
            return Err(StdinError::Closed);
        }
        if !news.is_empty() && self.queued > MAX_QUEUED {
            return Ok(None);
        }
        self.push(news);
        self.at_end |= eof;
        Ok(Some(self.accepted))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offer(
        queue: &mut Queue,
        offset: u64,
        data: &'static str,
        eof: bool,
    ) -> Result<Option<u64>, StdinError> {
        queue.offer(offset, &Bytes::from(data), eof)
    }

    #[test]
    fn a_repeated_call_is_a_no_op_and_a_gap_is_refused() {
        let mut queue = Queue::default();
        assert_eq!(offer(&mut queue, 0, "abc", false), Ok(Some(3)));
        assert_eq!(offer(&mut queue, 0, "abc", false), Ok(Some(3)));
        assert_eq!(offer(&mut queue, 1, "bcde", false), Ok(Some(5)));
        assert_eq!(offer(&mut queue, 7, "x", false), Err(StdinError::Gap(5)));
        assert_eq!(offer(&mut queue, 5, "f", true), Ok(Some(6)));
        assert_eq!(offer(&mut queue, 5, "f", true), Ok(Some(6)));
        assert_eq!(offer(&mut queue, 6, "g", false), Err(StdinError::Closed));
        assert_eq!(
            queue.waiting.iter().flatten().copied().collect::<Vec<_>>(),
            b"abcdef"
        );
    }

    #[test]
    fn a_full_queue_makes_calls_wait() {
        let mut queue = Queue::default();
        let piece = Bytes::from(vec![0; MAX_QUEUED + 1]);
        assert_eq!(queue.offer(0, &piece, false), Ok(Some(piece.len() as u64)));
        assert_eq!(queue.offer(piece.len() as u64, &piece, false), Ok(None));
        assert_eq!(queue.offer(0, &piece, false), Ok(Some(piece.len() as u64)));
    }
}
