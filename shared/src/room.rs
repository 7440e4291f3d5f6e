//! Room on a disk that others need as well: what comes from outside may not take the last of it.

use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use rustix::fs::{StatVfs, fstatvfs, statvfs};

/// The part of a disk that is kept free: one of so many.
const PART: u64 = 20;

/// Of a large disk so many bytes are enough.
const ENOUGH: u64 = 1 << 30;

/// Whether so little is left on the disk of a folder that nothing large is to be written any more.
pub fn is_short(folder: &Path) -> io::Result<bool> {
    Ok(of(&statvfs(folder)?))
}

/// The same for the disk of an open file.
pub fn is_short_at(file: impl AsFd) -> io::Result<bool> {
    Ok(of(&fstatvfs(file)?))
}

fn of(disk: &StatVfs) -> bool {
    let bytes = |blocks: u64| blocks.saturating_mul(disk.f_frsize);
    is_little(bytes(disk.f_bavail), bytes(disk.f_blocks))
}

/// A file system that has no size, as some in memory have none, is never short of it.
fn is_little(free: u64, whole: u64) -> bool {
    free < (whole / PART).min(ENOUGH)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_twentieth_is_kept_free_and_a_gibibyte_at_most() {
        assert!(is_little(49, 1000) && !is_little(50, 1000));
        assert!(is_little(ENOUGH - 1, u64::MAX) && !is_little(ENOUGH, u64::MAX));
        assert!(!is_little(0, 0));
    }
}
