//! Reading an object with its checksum checked on the way.

use std::fs::File;
use std::io::Read as _;

use bytes::Bytes;
use rustix::fs::fstat;
use rustix::io::Errno;
use sha2::{Digest as _, Sha256};

use super::sums::hex;
use super::{folder, unavailable};
use crate::ports::{BlobError, BlobInfo, BlobName};

/// Bytes of a piece: each costs a change of threads.
const PIECE_BYTES: usize = 1 << 20;

/// An object that is being read. The last piece is held back until all of the content is known to be right.
pub(super) struct Reader {
    name: BlobName,
    info: BlobInfo,
    file: File,
    hash: Sha256,
    held: Option<Bytes>,
    ended: bool,
}

impl Reader {
    pub(super) fn new(name: BlobName, file: File, sha256: String) -> Result<Self, Errno> {
        let size = u64::try_from(fstat(&file)?.st_size).unwrap_or_default();
        Ok(Self {
            name,
            info: BlobInfo { size, sha256 },
            file,
            hash: Sha256::new(),
            held: None,
            ended: false,
        })
    }

    pub(super) fn info(&self) -> &BlobInfo {
        &self.info
    }

    /// The next piece, none at the end.
    pub(super) fn next(mut self) -> Result<Option<(Bytes, Self)>, BlobError> {
        while !self.ended {
            let piece = read_piece(&mut self.file).map_err(|error| unavailable(&error))?;
            self.hash.update(&piece);
            let ready = if piece.is_empty() {
                self.ended = true;
                if hex(&self.hash.finalize_reset()) != self.info.sha256 {
                    return Err(BlobError::Damaged(self.name));
                }
                self.held.take()
            } else {
                self.held.replace(piece)
            };
            if let Some(ready) = ready {
                return Ok(Some((ready, self)));
            }
        }
        Ok(None)
    }
}

/// The checksum of a file's content.
pub(super) fn sha256_of(mut file: File) -> Result<String, Errno> {
    let mut hash = Sha256::new();
    loop {
        let piece = read_piece(&mut file)?;
        if piece.is_empty() {
            return Ok(hex(&hash.finalize()));
        }
        hash.update(&piece);
    }
}

/// A full piece, or what is left of the file.
fn read_piece(file: &mut File) -> Result<Bytes, Errno> {
    let mut piece = Vec::with_capacity(PIECE_BYTES);
    file.take(PIECE_BYTES as u64)
        .read_to_end(&mut piece)
        .map_err(folder::errno)?;
    Ok(piece.into())
}
