//! Headers of an archive that is written: `ustar`, with PAX records before it where that cannot hold something.

use super::header::{self, Block};
use super::{BLOCK, padding};

/// The largest size that eleven octal digits hold.
const MAX_OCTAL: u64 = 0o777_7777_7777;

/// Bytes of a name in a header.
const NAME: usize = 100;

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::files) enum Shape<'a> {
    File { size: u64 },
    Folder,
    HardLink { target: &'a [u8] },
    Symlink { target: &'a [u8] },
}

/// What a header says beside the entry's kind.
#[derive(Debug, Clone, Copy)]
pub(in crate::files) struct Meta<'a> {
    /// Relative; that of a folder ends in a slash.
    pub(in crate::files) name: &'a [u8],
    pub(in crate::files) mode: u32,
    /// Seconds since 1970.
    pub(in crate::files) mtime: i64,
}

/// Writes an entry's header, with records before it where it needs some.
pub(in crate::files) fn write_header(out: &mut Vec<u8>, meta: Meta<'_>, shape: Shape<'_>) {
    let (kind, size, link): (u8, u64, &[u8]) = match shape {
        Shape::File { size } => (b'0', size, b""),
        Shape::Folder => (b'5', 0, b""),
        Shape::HardLink { target } => (b'1', 0, target),
        Shape::Symlink { target } => (b'2', 0, target),
    };
    let mut records = Vec::new();
    if meta.name.len() > NAME {
        record(&mut records, "path", meta.name);
    }
    if link.len() > NAME {
        record(&mut records, "linkpath", link);
    }
    if size > MAX_OCTAL {
        record(&mut records, "size", size.to_string().as_bytes());
    }
    if !records.is_empty() {
        let length = records.len() as u64;
        let about = Meta {
            name: b"pax",
            mode: 0o644,
            mtime: 0,
        };
        out.extend_from_slice(&block(about, b'x', length, b""));
        out.append(&mut records);
        pad(out, length);
    }
    out.extend_from_slice(&block(meta, kind, size, link));
}

/// Writes zeros up to the next block behind content of a length.
pub(in crate::files) fn pad(out: &mut Vec<u8>, length: u64) {
    let zeros = usize::try_from(padding(length)).unwrap_or(0);
    out.resize(out.len() + zeros, 0);
}

/// Writes the end of an archive.
pub(in crate::files) fn end(out: &mut Vec<u8>) {
    out.resize(out.len() + 2 * BLOCK, 0);
}

fn block(meta: Meta<'_>, kind: u8, size: u64, link: &[u8]) -> Block {
    let mut block: Block = [0; BLOCK];
    put(&mut block, 0, &meta.name[..meta.name.len().min(NAME)]);
    octal(&mut block[100..108], u64::from(meta.mode & 0o7777));
    octal(&mut block[108..116], 0);
    octal(&mut block[116..124], 0);
    octal(
        &mut block[124..136],
        if size > MAX_OCTAL { 0 } else { size },
    );
    let mtime = u64::try_from(meta.mtime).unwrap_or(0).min(MAX_OCTAL);
    octal(&mut block[136..148], mtime);
    block[156] = kind;
    put(&mut block, 157, &link[..link.len().min(NAME)]);
    put(&mut block, 257, b"ustar\x0000");
    let sum = header::sum(&block);
    put(&mut block, 148, format!("{sum:06o}\0 ").as_bytes());
    block
}

fn put(block: &mut Block, at: usize, bytes: &[u8]) {
    if let Some(field) = block.get_mut(at..at + bytes.len()) {
        field.copy_from_slice(bytes);
    }
}

/// An octal number with leading zeros and a NUL behind it.
fn octal(field: &mut [u8], value: u64) {
    let digits = format!("{value:0width$o}", width = field.len() - 1);
    field[..digits.len()].copy_from_slice(digits.as_bytes());
}

/// A record that tells its own length, which counts the digits of the length too.
fn record(records: &mut Vec<u8>, key: &str, value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    records.extend_from_slice(format!("{length} {key}=").as_bytes());
    records.extend_from_slice(value);
    records.push(b'\n');
}
