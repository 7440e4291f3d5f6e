//! Putting an object into its place.

use std::io::Write as _;
use std::num::NonZeroU64;

use bytes::Bytes;
use rustix::fs::{Advice, FlockOperation, fadvise, fsync};
use rustix::io::Errno;
use sha2::{Digest as _, Sha256};

use super::sums::{Sum, hex};
use super::temp::TempFile;
use super::vault::{Locked, Vault};
use super::{folder, unavailable};
use crate::ports::{BlobError, BlobInfo, BlobName};
use crate::room;

/// How often the folders of an object are made again when somebody removes them as empty meanwhile.
const TRIES: u32 = 100;

/// Bytes that are sent to the disk together.
const LEAVING_BYTES: u64 = 8 << 20;

/// Content on its way into the folder. Dropped, it leaves nothing.
pub(super) struct Writer {
    temp: TempFile,
    hash: Sha256,
    size: u64,
    /// So many bytes from the start are on their way to the disk.
    leaving: u64,
}

impl Writer {
    /// Adds bytes, unless the disk, which others need as well, has hardly any room left.
    pub(super) fn write(mut self, pieces: &[Bytes]) -> Result<Self, BlobError> {
        match room::is_short_at(&self.temp.file) {
            Ok(false) => {}
            Ok(true) => return Err(unavailable(&Errno::NOSPC)),
            Err(error) => return Err(unavailable(&folder::errno(error))),
        }
        for piece in pieces {
            self.temp
                .file
                .write_all(piece)
                .map_err(|error| unavailable(&folder::errno(error)))?;
            self.hash.update(piece);
            self.size += piece.len() as u64;
        }
        self.leave();
        Ok(self)
    }

    /// Sends what came to the disk while more comes, so that little is waited for at the end.
    fn leave(&mut self) {
        let fresh = self.size - self.leaving;
        if fresh >= LEAVING_BYTES {
            let fresh = NonZeroU64::new(fresh);
            // Advice: a file system that knows nothing of it is slower, and no less right.
            let _ = fadvise(&self.temp.file, self.leaving, fresh, Advice::DontNeed);
            self.leaving = self.size;
        }
    }
}

impl Vault {
    /// Begins a new object.
    pub(super) fn begin(&self) -> Result<Writer, Errno> {
        Ok(Writer {
            temp: self.temp.create()?,
            hash: Sha256::new(),
            size: 0,
            leaving: 0,
        })
    }

    /// Puts the object into its place, durably.
    pub(super) fn commit(&self, name: &BlobName, writer: Writer) -> Result<BlobInfo, BlobError> {
        let Writer {
            mut temp,
            hash,
            size,
            ..
        } = writer;
        let sha256 = hex(&hash.finalize());
        let mut committed = || {
            fsync(&temp.file)?;
            self.make_sums(name.bucket())?;
            let locked = self.lock(name, FlockOperation::LockExclusive)?;
            self.settle(&locked)?;
            let sum = Sum::of(name, sha256.clone());
            locked.sums.write_next(&locked.key, &sum)?;
            match self.place(&locked, &mut temp) {
                Ok(()) => locked.sums.promote(&locked.key),
                Err(error) => {
                    // Whether it got its place or not is seen by its content; if not now, then by the next one to lock it.
                    let _ = self.settle(&locked);
                    Err(error)
                }
            }
        };
        match committed() {
            Ok(()) => Ok(BlobInfo { size, sha256 }),
            Err(Errno::NOTDIR | Errno::LOOP | Errno::ISDIR) => Err(BlobError::BadName(format!(
                "object {name} cannot be kept beside another one: a part of its name is an object, or it is a folder"
            ))),
            Err(error) => Err(unavailable(&error)),
        }
    }

    fn place(&self, locked: &Locked<'_>, temp: &mut TempFile) -> Result<(), Errno> {
        for _ in 0..TRIES {
            let placed = self
                .parent(locked.name, |at, part| folder::open_or_make(at, part))
                .and_then(|(parent, leaf)| {
                    temp.rename_to(&parent, leaf)?;
                    fsync(&parent)
                });
            match placed {
                Err(Errno::NOENT) => {}
                done => return done,
            }
        }
        Err(Errno::NOENT)
    }
}
