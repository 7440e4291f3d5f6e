//! Files with holes: which of their bytes an archive holds.

use super::header::{self, Block};
use super::pax::decimal;
use super::{BLOCK, Flaw};

/// Segments of one file at most.
const MAX_SEGMENTS: usize = 100_000;

/// Bytes that the archive holds, by their place in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Segment {
    pub(super) offset: u64,
    pub(super) length: u64,
}

/// A map that is being read.
#[derive(Debug, Default)]
pub(super) struct Map {
    pub(super) segments: Vec<Segment>,
    /// Of a map before the content: its text so far, and how many numbers are still to come.
    digits: Vec<u8>,
    number: Option<u64>,
    expected: Option<u64>,
}

impl Map {
    /// Reads GNU's table out of a header (4 places) or out of an extension of it (21 places).
    pub(super) fn take_table(
        &mut self,
        block: &Block,
        at: usize,
        places: usize,
    ) -> Result<(), Flaw> {
        for place in block[at..at + places * 24].chunks(24) {
            if place[0] == 0 {
                break;
            }
            self.push(Segment {
                offset: header::number(&place[..12])?,
                length: header::number(&place[12..])?,
            })?;
        }
        Ok(())
    }

    /// Reads a block of the map that stands before the content; true with its last one.
    pub(super) fn take_text(&mut self, block: &[u8]) -> Result<bool, Flaw> {
        for byte in block {
            match (byte, self.is_complete()) {
                // What is left of the block is padding.
                (_, true) => return Ok(true),
                (b'\n', false) => {
                    let number = decimal(&std::mem::take(&mut self.digits))?;
                    self.take_number(number)?;
                }
                (digit, false) if self.digits.len() < 20 => self.digits.push(*digit),
                _ => return Err(wrong()),
            }
        }
        Ok(self.is_complete())
    }

    fn is_complete(&self) -> bool {
        self.expected == Some(self.segments.len() as u64)
    }

    fn take_number(&mut self, number: u64) -> Result<(), Flaw> {
        match (self.expected, self.number.take()) {
            (None, _) if number > MAX_SEGMENTS as u64 => Err(too_many()),
            (None, _) => {
                self.expected = Some(number);
                Ok(())
            }
            (Some(_), None) => {
                self.number = Some(number);
                Ok(())
            }
            (Some(_), Some(offset)) => self.push(Segment {
                offset,
                length: number,
            }),
        }
    }

    fn push(&mut self, segment: Segment) -> Result<(), Flaw> {
        if self.segments.len() >= MAX_SEGMENTS {
            return Err(too_many());
        }
        self.segments.push(segment);
        Ok(())
    }
}

/// The map of a PAX record: `offset,length,offset,length…`.
pub(super) fn of_list(text: &[u8]) -> Result<Vec<Segment>, Flaw> {
    let mut map = Map::default();
    let mut numbers = text.split(|byte| *byte == b',');
    while let Some(offset) = numbers.next() {
        let length = numbers.next().ok_or_else(wrong)?;
        map.push(Segment {
            offset: decimal(offset)?,
            length: decimal(length)?,
        })?;
    }
    Ok(map.segments)
}

/// Checks that a map is in order, within the file, and holds as much as the archive has.
pub(super) fn check(segments: &[Segment], size: u64, held: u64) -> Result<(), Flaw> {
    let (mut end, mut sum) = (0_u64, 0_u64);
    for segment in segments {
        let after = segment
            .offset
            .checked_add(segment.length)
            .ok_or_else(wrong)?;
        if segment.offset < end || after > size {
            return Err(wrong());
        }
        end = after;
        sum += segment.length;
    }
    if sum == held { Ok(()) } else { Err(wrong()) }
}

/// Whether another extension of GNU's table follows; `at` is the place of the mark.
pub(super) fn continues(block: &Block, at: usize) -> bool {
    block
        .get(at..BLOCK)
        .and_then(|rest| rest.first())
        .is_some_and(|mark| *mark != 0)
}

fn wrong() -> Flaw {
    Flaw::new("the map of a sparse file cannot be: the archive is damaged")
}

fn too_many() -> Flaw {
    Flaw::new("a sparse file has more pieces than are taken")
}
