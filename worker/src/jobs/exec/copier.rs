//! What of a command's output has arrived, what of it waits to be written, and its preview.
//!
//! Nothing that the runner says is trusted: offsets only grow, frames are bounded, there is no more output than the job
//! may keep, and the final counts must be those of the bytes that arrived.

use std::time::Instant;

use bytes::{Bytes, BytesMut};
use runner::proto::{self, JobRecord};
use runner::{MAX_FRAME_BYTES, TAIL_BYTES};
use shared::job::{PREVIEW_BYTES, Preview};
use shared::output::{Chunk, Offsets, OutputCounts, Stream, StreamCounts};
use shared::ports::StoreError;

use crate::execute::Task;

/// Bytes of a stream's head, and of its tail, in a preview.
const HALF: usize = PREVIEW_BYTES / 2;

/// Adjacent output is joined into chunks of at most this many bytes.
const CHUNK_BYTES: usize = 256 * 1024;

/// The largest count that a runner may claim: beyond it numbers lose precision in JSON.
pub(super) const MAX_COUNT: u64 = 1 << 53;

#[derive(Default)]
pub(super) struct Copier {
    /// Bytes that may still arrive.
    room: u64,
    next: Offsets,
    gaps: Offsets,
    waiting: Vec<Chunk>,
    waiting_since: Option<Instant>,
    released: Offsets,
    stdout: Keeper,
    stderr: Keeper,
}

/// Head and tail of one stream.
#[derive(Default)]
struct Keeper {
    head: Vec<u8>,
    tail: Vec<u8>,
}

impl Keeper {
    /// Takes bytes that begin at `start`.
    fn push(&mut self, start: u64, data: &[u8]) {
        if start == self.head.len() as u64 && self.head.len() < HALF {
            let room = HALF - self.head.len();
            self.head.extend_from_slice(&data[..data.len().min(room)]);
        }
        let data = &data[data.len().saturating_sub(HALF)..];
        // Cut rarely: the tail may grow to twice what is shown.
        if self.tail.len() + data.len() > 2 * HALF {
            self.tail.drain(
                ..(self.tail.len() + data.len())
                    .saturating_sub(HALF)
                    .min(self.tail.len()),
            );
        }
        self.tail.extend_from_slice(data);
    }

    fn preview(&self, total: u64) -> Preview {
        Preview::new(
            &self.head,
            &self.tail[self.tail.len().saturating_sub(HALF)..],
            total,
        )
    }
}

impl Copier {
    /// Of a command whose output begins now, and of which this many bytes are kept beside the tails.
    pub(super) fn fresh(output_limit: u64) -> Self {
        Self {
            room: output_limit.saturating_add(2 * TAIL_BYTES),
            ..Self::default()
        }
    }

    /// Of a command of whose output the store holds a part.
    pub(super) async fn resumed(task: &Task, output_limit: u64) -> Result<Self, StoreError> {
        let store = &task.context.store;
        let end = store.output_end(&task.at).await?;
        let mut copier = Self {
            next: end,
            released: end,
            ..Self::fresh(output_limit)
        };
        let tail_from = Offsets {
            stdout: end.stdout.saturating_sub(HALF as u64),
            stderr: end.stderr.saturating_sub(HALF as u64),
        };
        for chunk in store
            .output(&task.at, Offsets::default(), HALF as u64)
            .await?
        {
            let head = &mut copier.keeper(chunk.stream).head;
            if chunk.start == head.len() as u64 {
                let room = HALF - head.len();
                head.extend_from_slice(&chunk.data[..chunk.data.len().min(room)]);
            }
        }
        for chunk in store.output(&task.at, tail_from, HALF as u64).await? {
            copier
                .keeper(chunk.stream)
                .tail
                .extend_from_slice(&chunk.data);
        }
        Ok(copier)
    }

    /// Where the output that arrived ends.
    pub(super) fn next(&self) -> Offsets {
        self.next
    }

    /// Takes a frame; the error says what is wrong with it.
    pub(super) fn push(&mut self, output: proto::Output, now: Instant) -> Result<(), String> {
        let stream = match output.stream() {
            proto::Stream::Stdout => Stream::Stdout,
            proto::Stream::Stderr => Stream::Stderr,
            proto::Stream::Unspecified => return Err("output of no stream".to_owned()),
        };
        let next = self.next.of(stream);
        if output.data.is_empty() || output.data.len() > MAX_FRAME_BYTES {
            return Err(format!("a frame of {} bytes", output.data.len()));
        }
        if output.offset < next || output.offset > MAX_COUNT {
            return Err(format!("output at {} where {next} follows", output.offset));
        }
        let room = self.room.checked_sub(output.data.len() as u64);
        self.room = room.ok_or("more output than it was told to keep")?;
        *self.gaps.of_mut(stream) += output.offset - next;
        *self.next.of_mut(stream) = output.offset + output.data.len() as u64;
        self.keeper(stream).push(output.offset, &output.data);
        self.waiting_since.get_or_insert(now);
        self.waiting.push(Chunk {
            stream,
            start: output.offset,
            data: output.data,
        });
        Ok(())
    }

    /// Since when output waits to be written.
    pub(super) fn waiting_since(&self) -> Option<Instant> {
        self.waiting_since
    }

    /// Bytes that wait to be written.
    pub(super) fn waiting_bytes(&self) -> usize {
        self.waiting.iter().map(|chunk| chunk.data.len()).sum()
    }

    /// What waits, joined into few chunks.
    pub(super) fn take(&mut self) -> Vec<Chunk> {
        self.waiting_since = None;
        join(&std::mem::take(&mut self.waiting))
    }

    /// Puts back what could not be written.
    pub(super) fn put_back(&mut self, mut chunks: Vec<Chunk>, now: Instant) {
        self.waiting_since = Some(now);
        chunks.append(&mut self.waiting);
        self.waiting = chunks;
    }

    /// Offsets up to which the runner may free its copy, if that is worth a call.
    pub(super) fn releasable(&mut self, at_least: u64) -> Option<Offsets> {
        let written = |offsets: &Offsets| offsets.stdout + offsets.stderr;
        let worth =
            self.waiting.is_empty() && written(&self.next) - written(&self.released) >= at_least;
        worth.then(|| {
            self.released = self.next;
            self.released
        })
    }

    /// Checks the runner's final counts against what arrived.
    pub(super) fn matches(&self, record: &JobRecord) -> Result<(), String> {
        for (stream, counts) in [
            (Stream::Stdout, record.stdout),
            (Stream::Stderr, record.stderr),
        ] {
            let counts = counts.unwrap_or_default();
            let ordered = counts.head <= counts.tail_start
                && counts.tail_start <= counts.total
                && counts.total <= MAX_COUNT;
            if !ordered {
                return Err("counts of output that cannot be".to_owned());
            }
            let dropped = counts.tail_start - counts.head;
            let trailing_gap = counts.total - self.next.of(stream).min(counts.total);
            if self.next.of(stream) > counts.total || self.gaps.of(stream) + trailing_gap > dropped
            {
                return Err(format!(
                    "it counts {} bytes of {stream:?}, {} arrived",
                    counts.total,
                    self.next.of(stream)
                ));
            }
        }
        Ok(())
    }

    /// What arrived, where no record tells the counts.
    pub(super) fn arrived(&self) -> OutputCounts {
        let counts = |stream| StreamCounts {
            total: self.next.of(stream),
            dropped: self.gaps.of(stream),
        };
        OutputCounts {
            stdout: counts(Stream::Stdout),
            stderr: counts(Stream::Stderr),
            incomplete: false,
        }
    }

    /// Previews of standard output and standard error as far as they arrived.
    pub(super) fn previews(&self) -> (Preview, Preview) {
        (
            self.stdout.preview(self.next.stdout),
            self.stderr.preview(self.next.stderr),
        )
    }

    fn keeper(&mut self, stream: Stream) -> &mut Keeper {
        match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        }
    }
}

/// Joins adjacent pieces of a stream. The order of the streams among each other is of no account.
fn join(waiting: &[Chunk]) -> Vec<Chunk> {
    let mut joined = Vec::new();
    for stream in [Stream::Stdout, Stream::Stderr] {
        let mut pieces = waiting
            .iter()
            .filter(|chunk| chunk.stream == stream)
            .peekable();
        while let Some(first) = pieces.next() {
            let mut end = first.end();
            if pieces.peek().is_none_or(|next| {
                next.start != end || first.data.len() + next.data.len() > CHUNK_BYTES
            }) {
                joined.push(first.clone());
                continue;
            }
            let mut data = BytesMut::from(first.data.as_ref());
            while let Some(next) = pieces
                .next_if(|next| next.start == end && data.len() + next.data.len() <= CHUNK_BYTES)
            {
                data.extend_from_slice(&next.data);
                end = next.end();
            }
            joined.push(Chunk {
                stream,
                start: first.start,
                data: Bytes::from(data),
            });
        }
    }
    joined
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frame(stream: proto::Stream, offset: u64, data: &[u8]) -> proto::Output {
        proto::Output {
            stream: stream.into(),
            offset,
            data: Bytes::copy_from_slice(data),
        }
    }

    fn counts(total: u64, head: u64, tail_start: u64) -> proto::StreamCounts {
        proto::StreamCounts {
            total,
            head,
            tail_start,
        }
    }

    proptest! {
        #[test]
        fn what_is_taken_is_what_arrived(pieces in prop::collection::vec((any::<bool>(), prop::collection::vec(any::<u8>(), 1..2000)), 0..60), flush_every in 1usize..9) {
            let mut copier = Copier::fresh(u64::MAX);
            let (mut sent, mut got) = ([Vec::new(), Vec::new()], [Vec::new(), Vec::new()]);
            let mut collect = |copier: &mut Copier| for chunk in copier.take() {
                let stream = &mut got[usize::from(chunk.stream == Stream::Stderr)];
                assert_eq!(chunk.start, stream.len() as u64);
                stream.extend_from_slice(&chunk.data);
            };
            for (number, (stderr, data)) in pieces.iter().enumerate() {
                let stream = if *stderr { proto::Stream::Stderr } else { proto::Stream::Stdout };
                let all = &mut sent[usize::from(*stderr)];
                copier.push(frame(stream, all.len() as u64, data), Instant::now()).expect("in order");
                all.extend_from_slice(data);
                if number % flush_every == 0 { collect(&mut copier); }
            }
            collect(&mut copier);
            prop_assert_eq!(&got, &sent);
            let record = JobRecord {
                stdout: Some(counts(sent[0].len() as u64, sent[0].len() as u64, sent[0].len() as u64)),
                stderr: Some(counts(sent[1].len() as u64, sent[1].len() as u64, sent[1].len() as u64)),
                ..Default::default()
            };
            prop_assert!(copier.matches(&record).is_ok());
            let preview = copier.previews().0;
            prop_assert_eq!(preview.data.len() as u64 + preview.omitted, sent[0].len() as u64);
        }
    }

    #[test]
    fn a_runner_that_skips_or_repeats_bytes_is_noticed() {
        let mut copier = Copier::fresh(u64::MAX);
        let now = Instant::now();
        copier
            .push(frame(proto::Stream::Stdout, 0, b"abc"), now)
            .expect("first");
        assert!(
            copier
                .push(frame(proto::Stream::Stdout, 2, b"cd"), now)
                .is_err(),
            "repeated"
        );
        assert!(
            copier
                .push(frame(proto::Stream::Stdout, 3, b""), now)
                .is_err(),
            "empty"
        );
        copier
            .push(frame(proto::Stream::Stdout, 10, b"xyz"), now)
            .expect("a gap shows in the counts");
        let record = |stdout| JobRecord {
            stdout: Some(stdout),
            ..Default::default()
        };
        assert!(copier.matches(&record(counts(13, 3, 10))).is_ok());
        assert!(
            copier.matches(&record(counts(13, 13, 13))).is_err(),
            "a gap that it does not count"
        );
        assert!(
            copier.matches(&record(counts(20, 3, 10))).is_err(),
            "an end that did not arrive"
        );
        assert!(
            copier.matches(&record(counts(5, 5, 5))).is_err(),
            "less than arrived"
        );
    }

    #[test]
    fn there_is_no_more_output_than_the_job_may_keep() {
        let mut copier = Copier::fresh(10);
        let now = Instant::now();
        let all = 10 + 2 * TAIL_BYTES;
        let data = vec![b'x'; 10 + TAIL_BYTES as usize];
        let mut push =
            |offset, data: &[u8]| copier.push(frame(proto::Stream::Stdout, offset, data), now);
        push(0, &data).expect("the head and one tail");
        push(data.len() as u64, &data[10..]).expect("the other tail");
        assert!(push(all, b"x").is_err());
    }

    #[test]
    fn a_preview_is_head_and_tail() {
        let mut copier = Copier::fresh(u64::MAX);
        let all: Vec<u8> = (0..400_000u32).map(|number| (number % 251) as u8).collect();
        for (number, piece) in all.chunks(10_007).enumerate() {
            copier
                .push(
                    frame(proto::Stream::Stdout, (number * 10_007) as u64, piece),
                    Instant::now(),
                )
                .expect("in order");
        }
        let preview = copier.previews().0;
        assert_eq!(&preview.data.0[..HALF], &all[..HALF]);
        assert_eq!(&preview.data.0[HALF..], &all[all.len() - HALF..]);
        assert_eq!(preview.omitted, (all.len() - 2 * HALF) as u64);
    }
}
