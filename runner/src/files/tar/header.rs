//! One header block: fixed fields of ASCII numbers, in the dialects of `ustar`, GNU and the time before both.

use super::{BLOCK, Flaw};

/// The fields of a header that matter here.
#[derive(Debug, Clone, Default)]
pub(super) struct Header {
    pub(super) name: Vec<u8>,
    pub(super) mode: u32,
    pub(super) size: u64,
    pub(super) mtime: i64,
    pub(super) kind: u8,
    pub(super) link: Vec<u8>,
}

/// A block as it stands in the archive.
pub(super) type Block = [u8; BLOCK];

/// Reads a header; none where the block is all zero, which begins the end of the archive.
pub(super) fn parse(block: &Block) -> Result<Option<Header>, Flaw> {
    if block.iter().all(|byte| *byte == 0) {
        return Ok(None);
    }
    check_sum(block)?;
    let mut name = text(&block[..100]).to_vec();
    // GNU's own dialect uses the place of the prefix for other things.
    if &block[257..263] == b"ustar\0" {
        let prefix = text(&block[345..500]);
        if !prefix.is_empty() {
            name = [prefix, b"/", &name].concat();
        }
    }
    Ok(Some(Header {
        name,
        mode: u32::try_from(number(&block[100..108])? & 0o7777).unwrap_or(0),
        size: number(&block[124..136])?,
        mtime: i64::try_from(number(&block[136..148])?).unwrap_or(i64::MAX),
        kind: block[156],
        link: text(&block[157..257]).to_vec(),
    }))
}

/// The bytes of a field up to the first NUL.
fn text(field: &[u8]) -> &[u8] {
    field.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// An octal number, padded with spaces and NUL, or a binary one whose first bit is set.
pub(super) fn number(field: &[u8]) -> Result<u64, Flaw> {
    let wrong = || Flaw::new("a number in a header cannot be read: the archive is damaged");
    if field.first().is_some_and(|byte| byte & 0x80 != 0) {
        let mut value: u64 = u64::from(field[0] & 0x7f);
        if field[0] & 0x40 != 0 {
            // A negative one: a time before 1970, which nobody needs exactly.
            return Ok(0);
        }
        for byte in &field[1..] {
            value = value
                .checked_mul(256)
                .and_then(|value| value.checked_add(u64::from(*byte)))
                .ok_or_else(wrong)?;
        }
        return Ok(value);
    }
    let digits = field
        .split(|byte| *byte == 0)
        .next()
        .unwrap_or_default()
        .trim_ascii();
    digits.iter().try_fold(0_u64, |value, byte| match byte {
        b'0'..=b'7' => value
            .checked_mul(8)
            .and_then(|value| value.checked_add(u64::from(byte - b'0')))
            .ok_or_else(wrong),
        _ => Err(wrong()),
    })
}

/// The sum of all bytes, those of the sum itself taken as spaces.
pub(super) fn sum(block: &Block) -> u64 {
    let field = 148..156;
    block
        .iter()
        .enumerate()
        .map(|(at, byte)| {
            if field.contains(&at) {
                32
            } else {
                u64::from(*byte)
            }
        })
        .sum()
}

fn check_sum(block: &Block) -> Result<(), Flaw> {
    if number(&block[148..156]) == Ok(sum(block)) {
        return Ok(());
    }
    let gzip = block.starts_with(&[0x1f, 0x8b]);
    let zstd = block.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]);
    Err(Flaw::new(if gzip || zstd {
        "the archive is compressed: send it as a plain tar"
    } else {
        "it is no tar archive, or it is damaged"
    }))
}
