//! A window of a job's output: consecutive bytes of each stream, cut so that text stays text.
//!
//! ```text
//!   asked     start            cut      stored end
//!   ├─ dropped ─┤──── window ────┤─ held ──┤
//! ```
//!
//! Invariants: the windows that follow each other's next offsets give every stored byte once; a window that could be
//! cut so that it is text is text; a window is empty only where nothing more is there yet.

use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use data_encoding::BASE64;
use shared::output::{Chunk, Stream};
use utoipa::ToSchema;

use crate::views::preview::split_start;
use crate::views::quoted;

/// Bytes of a window's JSON beside its streams, about.
const OTHER_BYTES: usize = 512;

/// Bytes of both streams from the asked offsets on.
#[derive(Debug, ToSchema)]
pub(crate) struct OutputWindow {
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    /// Offset of the first byte of `stdout`: later than asked for where the limit dropped bytes.
    pub(crate) stdout_offset: u64,
    /// Offset of the first byte of `stderr`: later than asked for where the limit dropped bytes.
    pub(crate) stderr_offset: u64,
    /// Where to ask on.
    pub(crate) next_stdout_offset: u64,
    /// Where to ask on.
    pub(crate) next_stderr_offset: u64,
    /// Whether the job has ended and nothing follows.
    pub(crate) done: bool,
    /// Whether the limit dropped bytes of the output.
    pub(crate) truncated: bool,
    /// Whether the rest of the output cannot be known any more, because the environment went.
    pub(crate) incomplete: bool,
    /// `utf-8`, or `base64` where the bytes of either stream are not: then both are base64.
    pub(crate) encoding: &'static str,
}

/// What is wanted of a stream of which some was read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted {
    /// The offset to begin at.
    pub(crate) from: u64,
    /// Bytes at most.
    pub(crate) limit: u64,
    /// Where the stored stream ends, if the job has ended.
    pub(crate) end: Option<u64>,
    /// Whether it was read from that offset on: else reading again may give more of what is there.
    pub(crate) fresh: bool,
}

/// The bytes of one stream that a window shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Window {
    /// Offset of the first byte.
    pub(crate) start: u64,
    /// The bytes.
    pub(crate) data: Vec<u8>,
    text: bool,
}

impl Window {
    /// Cuts it from the chunks of one stream.
    pub(crate) fn cut(chunks: &[Chunk], stream: Stream, wanted: &Wanted) -> Self {
        let (start, mut data, gap) = consecutive(chunks, stream, wanted);
        let end = wanted.end;
        let after = start + data.len() as u64;
        let last = end.is_some_and(|end| after >= end);
        let stuck = gap || wanted.fresh && end.is_some_and(|end| after < end);
        let (length, text) = text_length(&data, last, stuck);
        data.truncate(length);
        Self { start, data, text }
    }

    /// Where to ask on.
    pub(crate) fn next(&self) -> u64 {
        self.start + self.data.len() as u64
    }

    /// The bytes as an event of a stream.
    pub(crate) fn event(self) -> OutputEvent {
        let offset = self.start;
        let (data, encoding) = match self.into_text() {
            Ok(text) => (text, None),
            Err(bytes) => (BASE64.encode(&bytes), Some(crate::views::BASE64)),
        };
        OutputEvent {
            offset,
            data,
            encoding,
        }
    }

    /// The bytes as they are where they are text, without a copy.
    fn into_text(self) -> Result<String, Vec<u8>> {
        if !self.text {
            return Err(self.data);
        }
        String::from_utf8(self.data).map_err(std::string::FromUtf8Error::into_bytes)
    }
}

/// Bytes of one stream, as an event carries them.
#[derive(Debug, ToSchema)]
pub(crate) struct OutputEvent {
    /// Offset of the first byte: later than the end of the one before where the limit dropped bytes.
    offset: u64,
    /// The bytes.
    data: String,
    /// `base64` where they are not UTF-8.
    #[schema(nullable = false)]
    encoding: Option<&'static str>,
}

impl OutputEvent {
    /// Its JSON.
    pub(crate) fn write(&self, json: &mut Vec<u8>) {
        json.extend_from_slice(format!(r#"{{"offset":{},"data":"#, self.offset).as_bytes());
        quoted::write(json, &self.data);
        if let Some(encoding) = self.encoding {
            json.extend_from_slice(format!(r#","encoding":"{encoding}""#).as_bytes());
        }
        json.push(b'}');
    }
}

impl IntoResponse for OutputWindow {
    /// As JSON, of which nearly all is the two streams.
    fn into_response(self) -> Response {
        let length = self.stdout.len() + self.stderr.len();
        let mut json = Vec::with_capacity(length + length / 8 + OTHER_BYTES);
        json.extend_from_slice(br#"{"stdout":"#);
        quoted::write(&mut json, &self.stdout);
        json.extend_from_slice(br#","stderr":"#);
        quoted::write(&mut json, &self.stderr);
        let numbers = format!(
            r#","stdout_offset":{},"stderr_offset":{},"next_stdout_offset":{},"next_stderr_offset":{}"#,
            self.stdout_offset,
            self.stderr_offset,
            self.next_stdout_offset,
            self.next_stderr_offset,
        );
        let marks = format!(
            r#","done":{},"truncated":{},"incomplete":{},"encoding":"{}"}}"#,
            self.done, self.truncated, self.incomplete, self.encoding,
        );
        json.extend_from_slice(numbers.as_bytes());
        json.extend_from_slice(marks.as_bytes());
        ([(CONTENT_TYPE, "application/json")], json).into_response()
    }
}

impl OutputWindow {
    /// Both streams as text, or both as base64.
    pub(crate) fn encoded(stdout: Window, stderr: Window) -> Self {
        let (stdout_offset, stderr_offset) = (stdout.start, stderr.start);
        let (next_stdout_offset, next_stderr_offset) = (stdout.next(), stderr.next());
        let as_text = stdout.text && stderr.text;
        let show = |window: Window| match window.into_text() {
            Ok(text) if as_text => text,
            Ok(text) => BASE64.encode(text.as_bytes()),
            Err(bytes) => BASE64.encode(&bytes),
        };
        Self {
            stdout: show(stdout),
            stderr: show(stderr),
            stdout_offset,
            stderr_offset,
            next_stdout_offset,
            next_stderr_offset,
            done: false,
            truncated: false,
            incomplete: false,
            encoding: if as_text {
                "utf-8"
            } else {
                crate::views::BASE64
            },
        }
    }
}

/// The bytes from the first chunk on up to a gap, where they begin, and whether the gap is what ended them.
fn consecutive(chunks: &[Chunk], stream: Stream, wanted: &Wanted) -> (u64, Vec<u8>, bool) {
    let asked = wanted.from;
    let mut of_stream = chunks
        .iter()
        .filter(|chunk| chunk.stream == stream && chunk.end() > asked)
        .peekable();
    let start = of_stream
        .peek()
        .map_or(asked, |first| first.start.max(asked));
    let limit = usize::try_from(wanted.limit).unwrap_or(usize::MAX);
    let (mut pieces, mut length, mut gap) = (Vec::new(), 0, false);
    for chunk in of_stream {
        let next = start + length as u64;
        gap = chunk.start > next;
        if gap || length >= limit {
            break;
        }
        let known = usize::try_from(next - chunk.start).unwrap_or(usize::MAX);
        let fresh = chunk.data.get(known..).unwrap_or_default();
        let fresh = &fresh[..fresh.len().min(limit - length)];
        pieces.push(fresh);
        length += fresh.len();
    }
    (start, pieces.concat(), gap)
}

/// How many of the bytes to show, and whether they are text. `last`: nothing follows. `stuck`: asking again from the same
/// offset gives no more than these bytes.
fn text_length(data: &[u8], last: bool, stuck: bool) -> (usize, bool) {
    let Err(error) = std::str::from_utf8(data) else {
        return (data.len(), true);
    };
    let split_at_end = error.error_len().is_none();
    if split_at_end && !last && (error.valid_up_to() > 0 || !stuck) {
        return (error.valid_up_to(), true);
    }
    // Behind dropped bytes, or at an offset of the caller's own, a window begins with the rest of a character.
    let rest = split_start(data);
    let text_follows = rest < data.len()
        && std::str::from_utf8(&data[rest..]).map_or_else(
            |error| error.error_len().is_none() && !last && error.valid_up_to() > 0,
            |_| true,
        );
    let length = if rest > 0 && text_follows {
        rest
    } else {
        data.len()
    };
    (length, false)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn chunk(start: u64, data: &[u8]) -> Chunk {
        Chunk {
            stream: Stream::Stdout,
            start,
            data: data.to_vec().into(),
        }
    }

    fn cut(chunks: &[Chunk], asked: u64, end: Option<u64>) -> (u64, Vec<u8>, bool) {
        let wanted = Wanted {
            from: asked,
            limit: u64::MAX,
            end,
            fresh: true,
        };
        let window = Window::cut(chunks, Stream::Stdout, &wanted);
        (window.start, window.data, window.text)
    }

    #[test]
    fn a_split_character_waits_for_its_rest() {
        let half = "aä".as_bytes()[..2].to_vec();
        assert_eq!(cut(&[chunk(0, &half)], 0, None), (0, b"a".to_vec(), true));
        assert_eq!(cut(&[chunk(0, &half)], 1, None), (1, vec![], true));
        assert_eq!(
            cut(&[chunk(0, &half)], 0, Some(9)),
            (0, b"a".to_vec(), true)
        );
        // Nothing follows: it will never be whole.
        assert_eq!(cut(&[chunk(0, &half)], 0, Some(2)), (0, half, false));
    }

    #[test]
    fn dropped_bytes_end_a_window_and_show_in_its_offset() {
        let chunks = [chunk(0, b"head"), chunk(10, b"tail")];
        assert_eq!(cut(&chunks, 0, None), (0, b"head".to_vec(), true));
        assert_eq!(cut(&chunks, 4, None), (10, b"tail".to_vec(), true));
        assert_eq!(cut(&chunks, 12, None), (12, b"il".to_vec(), true));
        assert_eq!(cut(&chunks, 14, None), (14, vec![], true));
        assert_eq!(cut(&[], 99, Some(14)), (99, vec![], true));
    }

    #[test]
    fn other_bytes_are_not_text() {
        assert_eq!(
            cut(&[chunk(0, b"a\xffb")], 0, None),
            (0, b"a\xffb".to_vec(), false)
        );
    }

    /// What the store has from an offset on, `limit` bytes at most.
    fn read(stored: &[Chunk], offset: u64, limit: usize) -> Vec<Chunk> {
        let mut left = limit;
        let rest = stored.iter().filter(|chunk| chunk.end() > offset);
        let taken = rest.map_while(|whole| {
            let from = usize::try_from(offset.saturating_sub(whole.start)).expect("small");
            let take = left.min(whole.data.len() - from);
            left -= take;
            (take > 0).then(|| chunk(whole.start + from as u64, &whole.data[from..from + take]))
        });
        taken.collect()
    }

    /// Reads so many windows at a time on until the end, as a client or a stream would; the number of windows is bounded.
    fn read_all(
        stored: &[Chunk],
        end: u64,
        limit: usize,
        at_once: usize,
    ) -> (Vec<(u64, Vec<u8>)>, usize) {
        let (mut offset, mut windows, mut base64) = (0, Vec::new(), 0);
        for _ in 0..10_000 {
            if offset >= end {
                return (windows, base64);
            }
            let chunks = read(stored, offset, limit * at_once);
            let began = offset;
            loop {
                let wanted = Wanted {
                    from: offset,
                    limit: limit as u64,
                    end: Some(end),
                    fresh: offset == began,
                };
                let window = Window::cut(&chunks, Stream::Stdout, &wanted);
                if window.data.is_empty() {
                    break;
                }
                offset = window.next();
                base64 += usize::from(!window.text);
                windows.push((window.start, window.data));
            }
            assert!(offset > began, "stuck at {offset}");
        }
        panic!("no end");
    }

    proptest! {
        #[test]
        fn windows_give_every_stored_byte_once(
            pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..20), 0..10),
            gap_at in 0usize..10,
            limit in 1usize..30,
            at_once in 1usize..5,
        ) {
            let mut start = 0;
            let mut stored = Vec::new();
            for (index, piece) in pieces.iter().enumerate() {
                if index == gap_at { start += 5; }
                stored.push(chunk(start, piece));
                start += piece.len() as u64;
            }
            let (windows, _) = read_all(&stored, start, limit, at_once);
            let read: Vec<(u64, u8)> = windows.iter()
                .flat_map(|(at, data)| data.iter().enumerate().map(move |(i, b)| (at + i as u64, *b)))
                .collect();
            let written: Vec<(u64, u8)> = stored.iter()
                .flat_map(|c| c.data.iter().enumerate().map(move |(i, b)| (c.start + i as u64, *b)))
                .collect();
            prop_assert_eq!(read, written);
        }

        #[test]
        fn text_is_read_as_text(text in "[aäグ🦀\n]{1,80}", sizes in prop::collection::vec(1usize..7, 1..80), limit in 4usize..20, at_once in 1usize..5) {
            let (mut stored, mut at) = (Vec::new(), 0);
            for size in sizes.iter().cycle() {
                if at >= text.len() { break; }
                let to = (at + size).min(text.len());
                stored.push(chunk(at as u64, &text.as_bytes()[at..to]));
                at = to;
            }
            let (windows, base64) = read_all(&stored, text.len() as u64, limit, at_once);
            prop_assert_eq!(base64, 0);
            let read: Vec<u8> = windows.into_iter().flat_map(|(_, data)| data).collect();
            prop_assert_eq!(read, text.into_bytes());
        }
    }
}
