//! Tar as bytes: archives read as they come in, and written as they go out.
//!
//! ```text
//!   ┌ header ┬ content, padded to 512 ┐ … ┌ 1024 or more zero bytes ┐
//!     a name of more than 100 bytes, a large size or a sparse map stand in an entry before it (PAX, or GNU's own)
//! ```
//!
//! Invariants: an archive is whole only with its end and nothing behind it, so that one which was cut is noticed; nothing
//! that an archive says of itself makes the reader keep more than a bounded amount; what a name or a link may be is not
//! decided here ([`super::unpack`]).

mod header;
mod pax;
mod reader;
mod sparse;
mod writer;

pub(super) use reader::{Content, Entry, Reader, Sink};
pub(super) use writer::{Meta, Shape, end, pad, write_header};

/// Bytes of a block: everything in an archive is padded to it.
pub(super) const BLOCK: usize = 512;

/// What is wrong with an archive.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(super) struct Flaw(pub(super) String);

impl Flaw {
    fn new(what: impl Into<String>) -> Self {
        Self(what.into())
    }
}

/// Bytes that follow content of a length until the next block.
fn padding(length: u64) -> u64 {
    length.wrapping_neg() % BLOCK as u64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Keeps what an archive holds.
    #[derive(Debug, Default, PartialEq, Eq)]
    struct Kept(Vec<(Entry, Vec<u8>)>);

    impl Sink for Kept {
        type Error = Flaw;

        fn begin(&mut self, entry: Entry) -> Result<(), Flaw> {
            self.0.push((entry, Vec::new()));
            Ok(())
        }

        fn data(&mut self, offset: u64, bytes: &[u8]) -> Result<(), Flaw> {
            let (_, content) = self.0.last_mut().unwrap();
            content.resize(usize::try_from(offset).unwrap(), 0);
            content.extend_from_slice(bytes);
            Ok(())
        }

        fn end(&mut self) -> Result<(), Flaw> {
            Ok(())
        }
    }

    fn read(archive: &[u8], piece: usize) -> Result<Kept, Flaw> {
        let (mut reader, mut kept) = (Reader::new(), Kept::default());
        for bytes in archive.chunks(piece.max(1)) {
            reader.push(bytes, &mut kept)?;
        }
        reader.finish().map(|()| kept)
    }

    fn name() -> impl Strategy<Value = Vec<u8>> {
        prop::collection::vec(1..=255_u8, 1..300)
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_in_pieces_of_every_size(
            files in prop::collection::vec((name(), prop::collection::vec(any::<u8>(), 0..2000), 0..0o7777_u32, 0..i64::from(u32::MAX)), 0..8),
            links in prop::collection::vec((name(), name()), 0..4),
            piece in 1..3000_usize,
        ) {
            let (mut archive, mut expected) = (Vec::new(), Vec::new());
            for (name, content, mode, mtime) in files {
                let size = content.len() as u64;
                write_header(&mut archive, Meta { name: &name, mode, mtime }, Shape::File { size });
                archive.extend_from_slice(&content);
                pad(&mut archive, size);
                let entry = Entry { name, mode, mtime, content: Content::File { size } };
                expected.push((entry, content));
            }
            for (name, target) in links {
                write_header(&mut archive, Meta { name: &name, mode: 0o777, mtime: 1 }, Shape::Symlink { target: &target });
                let entry = Entry { name, mode: 0o777, mtime: 1, content: Content::Symlink { target } };
                expected.push((entry, Vec::new()));
            }
            let whole = archive.len();
            end(&mut archive);
            prop_assert_eq!(read(&archive, piece).unwrap().0, expected);
            for cut in [whole / 2, whole.saturating_sub(1), whole] {
                prop_assert!(read(&archive[..cut], piece).is_err(), "{} of {}", cut, whole);
            }
        }

        #[test]
        fn any_bytes_are_read_or_refused(mut bytes in prop::collection::vec(any::<u8>(), 0..3000), piece in 1..700_usize) {
            let _ = read(&bytes, piece);
            // With a right sum the fields are looked at too.
            for block in bytes.chunks_exact_mut(BLOCK) {
                block[156] = b"0123457LKxgSX\0"[usize::from(block[156]) % 14];
                block[148..156].copy_from_slice(b"        ");
                let sum: u64 = block.iter().map(|byte| u64::from(*byte)).sum();
                block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
            }
            let _ = read(&bytes, piece);
        }
    }

    #[test]
    fn a_large_size_is_a_record() {
        let mut archive = Vec::new();
        let size = 1 << 40;
        write_header(
            &mut archive,
            Meta {
                name: b"large",
                mode: 0,
                mtime: 0,
            },
            Shape::File { size },
        );
        let (mut reader, mut kept) = (Reader::new(), Kept::default());
        reader.push(&archive, &mut kept).unwrap();
        assert_eq!(kept.0[0].0.content, Content::File { size });
    }
}
