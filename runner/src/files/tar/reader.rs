//! Reading an archive piece by piece, as it comes in.
//!
//! ```text
//!            ┌────────────────── extension ◀──┐
//!            ▼                                │
//!   ──▶ header ──▶ (sparse map) ──▶ content ──┴──▶ header …
//!            └──▶ zeros: the end
//! ```

use super::header::{self, Block, Header};
use super::pax::Pax;
use super::sparse::{self, Map, Segment};
use super::{BLOCK, Flaw, padding};

/// Bytes of the names and records before one entry, at most.
const MAX_EXTENSION: u64 = 1024 * 1024;

/// One entry of an archive.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::files) struct Entry {
    pub(in crate::files) name: Vec<u8>,
    pub(in crate::files) mode: u32,
    /// Seconds since 1970.
    pub(in crate::files) mtime: i64,
    pub(in crate::files) content: Content,
}

/// What an entry is.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::files) enum Content {
    /// A file of that size; its bytes follow, those of holes do not.
    File {
        size: u64,
    },
    Folder,
    /// Another name of a file.
    HardLink {
        target: Vec<u8>,
    },
    Symlink {
        target: Vec<u8>,
    },
    /// A device, a FIFO, or something that nobody knows.
    Other,
}

/// What is done with the entries.
pub(in crate::files) trait Sink {
    /// How it goes wrong.
    type Error: From<Flaw>;

    /// An entry begins.
    fn begin(&mut self, entry: Entry) -> Result<(), Self::Error>;

    /// Bytes of the file that began last, in order, at their place in it.
    fn data(&mut self, offset: u64, bytes: &[u8]) -> Result<(), Self::Error>;

    /// The file that began last is whole.
    fn end(&mut self) -> Result<(), Self::Error>;
}

#[derive(Debug)]
enum State {
    Header,
    /// A name or records for the entry that follows.
    Extension {
        kind: u8,
        left: u64,
        bytes: Vec<u8>,
    },
    /// GNU's table of a sparse file goes on in this block.
    Table {
        entry: Entry,
        map: Map,
        held: u64,
    },
    /// The map of a sparse file stands in these blocks.
    Text {
        entry: Entry,
        map: Map,
        held: u64,
    },
    Content(Body),
    Padding {
        left: u64,
    },
    /// Zeros were found where a header would be.
    End,
}

/// The content of a file on its way.
#[derive(Debug)]
struct Body {
    /// What is still to come, the last first.
    segments: Vec<Segment>,
    /// Bytes in the archive, for the padding behind them.
    held: u64,
}

/// An archive that is being read.
#[derive(Debug)]
pub(in crate::files) struct Reader {
    state: State,
    block: Vec<u8>,
    /// Of the entry that follows.
    pax: Pax,
    long_name: Option<Vec<u8>>,
    long_link: Option<Vec<u8>>,
    /// Of all entries that follow.
    global: Pax,
    extended: u64,
}

impl Reader {
    pub(in crate::files) fn new() -> Self {
        Self {
            state: State::Header,
            block: Vec::with_capacity(BLOCK),
            pax: Pax::default(),
            long_name: None,
            long_link: None,
            global: Pax::default(),
            extended: 0,
        }
    }

    /// Takes the next bytes of the archive.
    pub(in crate::files) fn push<S: Sink>(
        &mut self,
        mut bytes: &[u8],
        sink: &mut S,
    ) -> Result<(), S::Error> {
        while !bytes.is_empty() {
            match &mut self.state {
                State::Header | State::Table { .. } | State::Text { .. } => {
                    let missing = (BLOCK - self.block.len()).min(bytes.len());
                    self.block.extend_from_slice(&bytes[..missing]);
                    bytes = &bytes[missing..];
                    if self.block.len() == BLOCK {
                        self.take_block(sink)?;
                        self.block.clear();
                    }
                }
                State::Extension {
                    left, bytes: kept, ..
                } => {
                    let taken = within(*left, bytes);
                    kept.extend_from_slice(&bytes[..taken]);
                    *left -= taken as u64;
                    bytes = &bytes[taken..];
                    if *left == 0 {
                        self.take_extension()?;
                    }
                }
                State::Content(body) => {
                    let taken = body.take(bytes, sink)?;
                    bytes = &bytes[taken..];
                    if body.segments.is_empty() {
                        let left = padding(body.held);
                        self.state = after(left);
                        sink.end()?;
                    }
                }
                State::Padding { left } => {
                    let taken = within(*left, bytes);
                    *left -= taken as u64;
                    bytes = &bytes[taken..];
                    if *left == 0 {
                        self.state = State::Header;
                    }
                }
                State::End => {
                    if bytes.iter().any(|byte| *byte != 0) {
                        return Err(Flaw::new("bytes follow the end of the archive").into());
                    }
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Checks that all of the archive was there.
    pub(in crate::files) fn finish(&self) -> Result<(), Flaw> {
        match self.state {
            State::End => Ok(()),
            _ => Err(Flaw::new("the archive ends early: it was cut")),
        }
    }

    fn take_block<S: Sink>(&mut self, sink: &mut S) -> Result<(), S::Error> {
        let mut block: Block = [0; BLOCK];
        block.copy_from_slice(&self.block);
        match std::mem::replace(&mut self.state, State::Header) {
            State::Table {
                entry,
                mut map,
                held,
            } => {
                map.take_table(&block, 0, 21)?;
                if sparse::continues(&block, 504) {
                    self.state = State::Table { entry, map, held };
                    return Ok(());
                }
                self.begin_file(entry, map.segments, held, sink)
            }
            State::Text {
                entry,
                mut map,
                held,
            } => {
                let held = held.checked_sub(BLOCK as u64).ok_or_else(|| {
                    Flaw::new("the map of a sparse file cannot be: the archive is damaged")
                })?;
                if map.take_text(&block)? {
                    return self.begin_file(entry, map.segments, held, sink);
                }
                self.state = State::Text { entry, map, held };
                Ok(())
            }
            _ => match header::parse(&block)? {
                Some(header) => self.take_header(header, &block, sink),
                None => {
                    self.state = State::End;
                    Ok(())
                }
            },
        }
    }

    fn take_header<S: Sink>(
        &mut self,
        header: Header,
        block: &Block,
        sink: &mut S,
    ) -> Result<(), S::Error> {
        if matches!(header.kind, b'x' | b'g' | b'L' | b'K') {
            self.extended = self.extended.saturating_add(header.size);
            if self.extended > MAX_EXTENSION {
                return Err(Flaw::new("an entry has a longer name than is taken").into());
            }
            self.state = State::Extension {
                kind: header.kind,
                left: header.size,
                bytes: Vec::new(),
            };
            if header.size == 0 {
                self.take_extension()?;
            }
            return Ok(());
        }
        self.extended = 0;
        let (pax, global) = (std::mem::take(&mut self.pax), self.global.clone());
        let (long_name, long_link) = (self.long_name.take(), self.long_link.take());
        let held = pax.size.or(global.size).unwrap_or(header.size);
        let size = pax.sparse_size.unwrap_or(held);
        let is_file = matches!(header.kind, 0 | b'0' | b'7' | b'S');
        // A name that ends in a slash was a folder before there was a kind for it.
        let old_folder = header.kind == 0 && header.name.ends_with(b"/");
        let target = || {
            let link = pax
                .link
                .clone()
                .or(global.link.clone())
                .or(long_link.clone());
            link.unwrap_or_else(|| header.link.clone())
        };
        let content = match header.kind {
            _ if old_folder => Content::Folder,
            _ if is_file => Content::File { size },
            b'1' => Content::HardLink { target: target() },
            b'2' => Content::Symlink { target: target() },
            b'5' => Content::Folder,
            _ => Content::Other,
        };
        let entry = Entry {
            name: pax
                .sparse_name
                .or(pax.path)
                .or(global.path)
                .or(long_name)
                .unwrap_or(header.name),
            mode: header.mode,
            mtime: pax.mtime.or(global.mtime).unwrap_or(header.mtime),
            content,
        };
        if !matches!(entry.content, Content::File { .. }) {
            // Links and folders have no content, whatever their size says; of what nobody knows it is passed over.
            let length = if matches!(entry.content, Content::Other) {
                held
            } else {
                0
            };
            self.state = after(length.saturating_add(padding(length)));
            return sink.begin(entry);
        }
        if header.kind == b'S' {
            let mut map = Map::default();
            map.take_table(block, 386, 4)?;
            let entry = Entry {
                content: Content::File {
                    size: header::number(&block[483..495])?,
                },
                ..entry
            };
            if sparse::continues(block, 482) {
                self.state = State::Table { entry, map, held };
                return Ok(());
            }
            return self.begin_file(entry, map.segments, held, sink);
        }
        if pax.map_in_content {
            self.state = State::Text {
                entry,
                map: Map::default(),
                held,
            };
            return Ok(());
        }
        let whole = || {
            vec![Segment {
                offset: 0,
                length: held,
            }]
        };
        let segments = pax.sparse_map.unwrap_or_else(whole);
        self.begin_file(entry, segments, held, sink)
    }

    fn begin_file<S: Sink>(
        &mut self,
        entry: Entry,
        mut segments: Vec<Segment>,
        held: u64,
        sink: &mut S,
    ) -> Result<(), S::Error> {
        if let Content::File { size } = entry.content {
            sparse::check(&segments, size, held)?;
        }
        sink.begin(entry)?;
        segments.retain(|segment| segment.length > 0);
        segments.reverse();
        if segments.is_empty() {
            self.state = after(padding(held));
            return sink.end();
        }
        self.state = State::Content(Body { segments, held });
        Ok(())
    }

    /// Takes in what was said of the entry that follows.
    fn take_extension(&mut self) -> Result<(), Flaw> {
        let State::Extension { kind, bytes, .. } =
            std::mem::replace(&mut self.state, State::Header)
        else {
            return Ok(());
        };
        let left = padding(bytes.len() as u64);
        match kind {
            b'x' => self.pax.read(&bytes)?,
            b'g' => self.global.read(&bytes)?,
            b'L' => self.long_name = Some(without_nul(bytes)),
            _ => self.long_link = Some(without_nul(bytes)),
        }
        self.state = after(left);
        Ok(())
    }
}

impl Body {
    /// Takes bytes of the segment that is due; how many.
    fn take<S: Sink>(&mut self, bytes: &[u8], sink: &mut S) -> Result<usize, S::Error> {
        let Some(segment) = self.segments.last_mut() else {
            return Ok(0);
        };
        let taken = within(segment.length, bytes);
        sink.data(segment.offset, &bytes[..taken])?;
        segment.offset += taken as u64;
        segment.length -= taken as u64;
        if segment.length == 0 {
            self.segments.pop();
        }
        Ok(taken)
    }
}

fn after(left: u64) -> State {
    match left {
        0 => State::Header,
        left => State::Padding { left },
    }
}

/// How many of the bytes belong to the `left` ones that are still to come.
fn within(left: u64, bytes: &[u8]) -> usize {
    usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len())
}

fn without_nul(mut bytes: Vec<u8>) -> Vec<u8> {
    if let Some(end) = bytes.iter().position(|byte| *byte == 0) {
        bytes.truncate(end);
    }
    bytes
}
